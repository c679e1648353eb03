// The unmodified partytracks client under remote control. Bundled by esbuild when it is asked for.

import { PartyTracks } from "partytracks/client";
import { BehaviorSubject, firstValueFrom, of } from "rxjs";
import { SIMULCAST, capture, decoded, encodings, play, statistics } from "./media.js";

const client = new PartyTracks({ prefix: "/partytracks", iceServers: [] });
const subscriptions = [];
const tracks = [];
const elements = [];
const preferredRid$ = new BehaviorSubject("q");
let connection;

client.peerConnection$.subscribe((current) => (connection = current));

window.page = {
  /** The proxy behind `prefix` knows the server. */
  open() {},

  /** Publishes camera and microphone; returns the metadata that partytracks wants others to have. */
  async publish() {
    const pushes = (await capture()).map((track) => client.push(new BehaviorSubject(track)));
    subscriptions.push(...pushes.map((push) => push.subscribe()));
    return Promise.all(pushes.map((push) => firstValueFrom(push)));
  },

  /** Publishes the camera in three encodings. */
  async publishSimulcast() {
    const [, camera] = await capture(SIMULCAST.video);
    const push = client.push(new BehaviorSubject(camera), { sendEncodings$: of(SIMULCAST.encodings) });
    subscriptions.push(push.subscribe());
    return firstValueFrom(push);
  },

  /** Pulls one of them, at first the smallest. */
  async pullSimulcast(metadata) {
    const pull = client.pull(new BehaviorSubject(metadata), { simulcast: { preferredRid$ } });
    subscriptions.push(pull.subscribe());
    tracks.push(await firstValueFrom(pull));
    elements.push(...tracks.map(play));
  },

  prefer: (rid) => preferredRid$.next(rid),

  sent: () => encodings(connection.getSenders().find(({ track }) => track?.kind === "video")),

  async pull(metadata) {
    const pulls = metadata.map((track) => client.pull(new BehaviorSubject(track)));
    subscriptions.push(...pulls.map((pull) => pull.subscribe()));
    tracks.push(...(await Promise.all(pulls.map((pull) => firstValueFrom(pull)))));
    elements.push(...tracks.map(play));
  },

  /** partytracks closes a track when nobody subscribes to it any more. */
  unsubscribe() {
    for (const subscription of subscriptions.splice(0)) subscription.unsubscribe();
    tracks.splice(0);
    elements.splice(0).forEach((element) => element.remove());
  },

  received() {
    const receivers = connection.getReceivers().filter(({ track }) => tracks.includes(track));
    return Promise.all(receivers.map(decoded));
  },

  pictures: () =>
    elements
      .filter(({ videoWidth }) => videoWidth > 0)
      .map(({ videoWidth, videoHeight, currentTime }) => ({ videoWidth, videoHeight, currentTime })),

  async diagnosis() {
    return {
      state: connection?.connectionState,
      statistics: connection && (await statistics(connection)),
      apiLog: client.history.entries,
    };
  },
};
