// Either end of a talk on one m-line: the caller, who offers, and the model, which the server calls.

import { Client } from "/client.js";
import { decoded, play } from "/media.js";

let client;
let transceiver;

window.page = {
  open(config) {
    client = new Client(config);
  },

  /** Offers a microphone on an m-line for both ways. */
  async call(trackName) {
    await client.open();
    transceiver = client.connection.addTransceiver(await microphone(), { direction: "sendrecv" });
    const item = () => ({ mid: transceiver.mid, trackName, kind: "audio", bidirectionalMediaStream: true });
    const [track] = await client.push(() => [item()]);
    play(transceiver.receiver.track);
    return track;
  },

  /** Answers the server's offer, with all candidates in the answer: nobody would take them later. */
  async answer(offer) {
    const { connection } = client;
    await connection.setRemoteDescription(offer);
    [transceiver] = connection.getTransceivers();
    transceiver.direction = "sendrecv";
    await transceiver.sender.replaceTrack(await microphone());
    await connection.setLocalDescription(await connection.createAnswer());
    while (connection.iceGatheringState !== "complete") {
      await new Promise((resolve) => connection.addEventListener("icegatheringstatechange", resolve, { once: true }));
    }
    play(transceiver.receiver.track);
    return connection.localDescription.sdp;
  },

  mute(muted) {
    transceiver.sender.track.enabled = !muted;
  },

  directions: () => client.connection.getTransceivers().map(({ currentDirection }) => currentDirection),

  received: () => decoded(transceiver.receiver),

  diagnosis: () => client.diagnosis(),
};

async function microphone() {
  return (await navigator.mediaDevices.getUserMedia({ audio: true })).getTracks()[0];
}
