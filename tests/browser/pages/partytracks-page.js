// The unmodified partytracks client under remote control. Bundled by esbuild when it is asked for.

import { PartyTracks } from "partytracks/client";
import { BehaviorSubject, firstValueFrom } from "rxjs";
import { capture, decoded, play, statistics } from "./media.js";

const client = new PartyTracks({ prefix: "/partytracks", iceServers: [] });
const subscriptions = [];
const tracks = [];
const elements = [];
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
