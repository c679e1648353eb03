// The sequences of calls that known clients make, each as its client makes them: the echo examples of Cloudflare,
// a meeting as Orange Meets holds it, WHIP publishers and WHEP players.

import { Client } from "/client.js";
import { SIMULCAST, capture, decoded, encodings, play } from "/media.js";

const PATIENCE_MS = 5_000;

let config;
let client;
/** Transceivers of what is published and pulled, in order. */
let sent = [];
let pulled = [];

window.page = {
  open(present) {
    config = present;
  },

  /** Publishes on one connection and pulls the same on another. Resolves to the mids on either. */
  async echo() {
    const publisher = await newClient();
    const [audio, video] = await capture(SIMULCAST.video);
    send(publisher, audio);
    send(publisher, video, SIMULCAST.encodings);
    const tracks = await push(publisher);
    await within("iceConnectionState connected", () => publisher.connection.iceConnectionState === "connected");

    client = await newClient();
    const arrived = [];
    client.connection.ontrack = ({ transceiver }) => arrived.push(transceiver.mid);
    pulled = await client.pull(tracks);
    await within("two track events", () => arrived.length === 2);
    pulled.forEach(({ receiver }) => play(receiver.track));
    this.echoed = tracks[1];
    return { sent: sent.map(({ mid }) => mid), pulled: pulled.map(({ mid }) => mid) };
  },

  /** With the mid that the video has where it is published, as the example does. */
  async prefer(preferredRid) {
    const simulcast = { preferredRid, priorityOrdering: "asciibetical", ridNotAvailable: "asciibetical" };
    const track = { location: "remote", ...this.echoed, mid: sent[1].mid, simulcast };
    return (await client.call("PUT", "/tracks/update", { tracks: [track] })).tracks[0];
  },

  /** Camera, microphone, and a second picture where a screen would be. */
  async join(meeting) {
    client ??= await newClient(`?correlationId=${meeting}`);
    const [audio, video] = await capture({ width: 320, height: 180 });
    sent = [];
    for (const track of [video, audio, video.clone()]) send(client, track);
    return push(client);
  },

  async watch(tracks) {
    pulled = await client.pull(tracks);
    pulled.forEach(({ receiver }) => play(receiver.track));
    return pulled.map(({ mid }) => mid);
  },

  /** All tracks are closed, but only the first m-line is stopped. */
  async leave() {
    const mids = [...sent, ...pulled].map(({ mid }) => mid);
    sent[0].stop();
    await client.close(mids);
    pulled = [];
    return mids;
  },

  /** One close after the other. */
  async unwatch() {
    for (const transceiver of pulled) {
      const { mid } = transceiver;
      transceiver.stop();
      await client.close([mid]);
    }
    pulled = [];
  },

  signaling: () => client.connection.signalingState,

  async ingest(stream) {
    client = new Client(config);
    for (const track of await capture({ width: 320, height: 180 })) send(client, track);
    const answer = await exchange("POST", `/whip/ingest/${stream}`, await offerOf(client));
    await client.connection.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    await within("connected", () => client.connection.connectionState === "connected");
  },

  /** WHEP with an offer of the player's. */
  async playByOurs(stream) {
    client = new Client(config);
    for (const kind of ["audio", "video"]) client.connection.addTransceiver(kind, { direction: "recvonly" });
    const answer = await exchange("POST", `/whip/play/${stream}`, await offerOf(client));
    await client.connection.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    watchAll();
  },

  /** WHEP with an offer of the server's. */
  async playByTheirs(stream) {
    client = new Client(config);
    const offer = await exchange("POST", `/whip/play/${stream}`, "");
    await client.connection.setRemoteDescription({ type: "offer", sdp: offer.sdp });
    await client.connection.setLocalDescription(await client.connection.createAnswer());
    await exchange("PATCH", offer.location, client.connection.localDescription.sdp);
    watchAll();
  },

  sent: () => encodings(sent[1].sender),

  received: () => Promise.all(pulled.map(({ receiver }) => decoded(receiver))),

  diagnosis: () => client.diagnosis(),
};

async function newClient(query) {
  const made = new Client(config, query);
  await made.open();
  return made;
}

function send(client, track, sendEncodings = [{}]) {
  sent.push(client.connection.addTransceiver(track, { direction: "sendonly", sendEncodings }));
}

function push(client) {
  return client.push(() => sent.map(({ mid, sender }) => ({ mid, trackName: `${mid}-${sender.track.id}` })));
}

async function offerOf(client) {
  return (await client.offered()).sessionDescription.sdp;
}

function watchAll() {
  pulled = client.connection.getTransceivers();
  pulled.forEach(({ receiver }) => play(receiver.track));
}

async function exchange(method, path, sdp) {
  const headers = { "Content-Type": "application/sdp" };
  const response = await fetch(path, { method, headers, body: sdp });
  if (!response.ok) throw new Error(`${method} ${path}: ${await response.text()}`);
  return { sdp: await response.text(), location: response.headers.get("Location") };
}

/** The patience of the clients: what takes longer is an error to them. */
async function within(what, condition) {
  for (const deadline = performance.now() + PATIENCE_MS; !condition(); ) {
    if (performance.now() > deadline) throw new Error(`no ${what} within ${PATIENCE_MS / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
