// A microphone and a camera that are muted by closing their tracks and unmuted by publishing again on the m-lines
// they had; and the viewer of such a pair.

import { Client } from "/client.js";
import { capture, decoded, play } from "/media.js";

let client;
/** By kind: the publisher's transceivers, or what the viewer pulls now. */
const transceivers = {};
const elements = {};
let published = 0;

window.page = {
  async open(config) {
    client = new Client(config);
    await client.open();
  },

  async publish() {
    for (const track of await capture({ width: 320, height: 180 })) {
      transceivers[track.kind] = client.connection.addTransceiver(track, { direction: "sendonly" });
    }
    const kinds = Object.keys(transceivers);
    const tracks = await client.push(() => kinds.map((kind) => ({ mid: transceivers[kind].mid, trackName: kind })));
    return Object.fromEntries(kinds.map((kind, i) => [kind, tracks[i]]));
  },

  /** With `force` the m-line stays as it is; without, it becomes inactive. */
  async mute(kind, force) {
    const transceiver = transceivers[kind];
    if (!force) transceiver.direction = "inactive";
    await client.close([transceiver.mid], { force });
  },

  /** Resolves to the new track, under a new name. */
  async unmute(kind) {
    const transceiver = transceivers[kind];
    transceiver.direction = "sendonly";
    const trackName = `${kind}-${++published}`;
    const [track] = await client.push(() => [{ mid: transceiver.mid, trackName }]);
    return track;
  },

  mids: () => client.connection.getTransceivers().map(({ mid }) => mid),

  async view(track) {
    const [transceiver] = await client.pull([track]);
    const { kind } = transceiver.receiver.track;
    transceivers[kind] = transceiver;
    elements[kind] = play(transceiver.receiver.track);
  },

  async unview(kind, force) {
    const transceiver = transceivers[kind];
    if (!force) transceiver.stop();
    await client.close([transceiver.mid], { force });
    elements[kind].remove();
  },

  received: (kind) => decoded(transceivers[kind].receiver),

  diagnosis: () => client.diagnosis(),
};
