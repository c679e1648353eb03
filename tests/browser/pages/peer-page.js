// A peer under remote control: the demo's own client modules, driven by `window.page`.

import { Api } from "/demo/api.js";
import { Peer, keyOf } from "/demo/peer.js";
import { capture, decoded, encoded, play, statistics } from "/media.js";

const apiLog = [];
const pulled = new Map();
let config;
let peer;
let sent = [];

recordRequests();

window.page = {
  open(present) {
    config = present;
    peer = new Peer(new Api(config));
  },

  /** Publishes camera and microphone; returns what others need to pull them. */
  async publish(prefix = "") {
    const sources = (await capture()).map((track) => ({ track, trackName: `${prefix}${track.kind}` }));
    const transceivers = await peer.inTurn(() => peer.push(sources));
    sent = sources.map((source, i) => ({ ...source, transceiver: transceivers[i] }));
    return sent.map(({ trackName }) => ({ sessionId: peer.session, trackName }));
  },

  async unpublish() {
    await peer.inTurn(() => peer.close(sent.map(({ transceiver }) => transceiver)));
    sent = [];
  },

  async pull(tracks) {
    for (const result of await peer.inTurn(() => peer.pull(tracks))) {
      if (!result.transceiver) throw new Error(`pull failed: ${JSON.stringify(result)}`);
      play(result.transceiver.receiver.track);
      pulled.set(keyOf(result), result);
    }
    return peer.session;
  },

  async closePulled() {
    await peer.inTurn(() => peer.close([...pulled.values()].map(({ transceiver }) => transceiver)));
    pulled.clear();
  },

  /** By the API alone; the connection keeps its m-lines. */
  async forceClosePulled() {
    const tracks = [...pulled.values()].map(({ transceiver }) => ({ mid: transceiver.mid }));
    const response = await fetch(`${config.basePath}/sessions/${peer.session}/tracks/close`, {
      method: "PUT",
      headers: { Authorization: `Bearer ${config.token}` },
      body: JSON.stringify({ tracks, force: true }),
    });
    const reply = await response.json();
    const failed = !response.ok || reply.tracks.some(({ errorCode }) => errorCode);
    if (failed) throw new Error(`close failed: ${JSON.stringify(reply)}`);
  },

  received: () => Promise.all([...pulled.values()].map(({ transceiver }) => decoded(transceiver.receiver))),

  sent: () => Promise.all(sent.map(({ transceiver }) => encoded(transceiver.sender))),

  async diagnosis() {
    return {
      state: [peer?.connection.connectionState, peer?.connection.signalingState],
      transceivers: peer?.connection.getTransceivers().map((it) => [it.mid, it.currentDirection]),
      statistics: peer && (await statistics(peer.connection)),
      apiLog,
    };
  },
};

function recordRequests() {
  const original = window.fetch;
  window.fetch = async (url, init) => {
    const response = await original(url, init);
    const answer = await response.clone().text();
    const request = `${init?.method ?? "GET"} ${url}`;
    apiLog.push({ request, body: init?.body, status: response.status, answer });
    return response;
  };
}
