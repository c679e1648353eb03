// A peer with so many tracks that mixing them up would show: each picture has a size of its own, and each sound a
// loudness of its own.

import { Client } from "/client.js";
import { decoded, encoded, play } from "/media.js";

/** From one sound to the next. */
const SOFTER = 0.8;
const SMALLEST = 8;

let client;
const sent = [];
const pulled = [];

window.page = {
  async open(config) {
    client = new Client(config);
    await client.open();
  },

  /** Resolves to the tracks, sounds first, loudest first. Without `tones` all sounds are the microphone's. */
  async publish(sounds, pictures, tones) {
    const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 360 } });
    const [microphone] = media.getAudioTracks();
    const [camera] = media.getVideoTracks();
    const audio = tones && new AudioContext();
    for (let n = 0; n < sounds; n++) send(tones ? tone(audio, SOFTER ** (n + 1)) : microphone, {});
    for (let n = 0; n < pictures; n++) send(camera, { scaleResolutionDownBy: SMALLEST - n, maxBitrate: 150_000 });
    return client.push(() => sent.map(({ mid }, n) => ({ mid, trackName: `track-${n}` })));
  },

  /** One pull, one renegotiation; resolves to the mid. */
  async pull(track) {
    const [transceiver] = await client.pull([track]);
    play(transceiver.receiver.track);
    pulled.push(transceiver);
    return transceiver.mid;
  },

  /** The height of each picture that leaves, in the order of publication. */
  async heights() {
    const pictures = sent.filter(({ sender }) => sender.track.kind === "video");
    return (await Promise.all(pictures.map(({ sender }) => encoded(sender)))).map(({ height }) => height);
  },

  received: () => Promise.all(pulled.map(({ receiver }) => decoded(receiver))),

  diagnosis: () => client.diagnosis(),
};

function send(track, encoding) {
  sent.push(client.connection.addTransceiver(track, { direction: "sendonly", sendEncodings: [encoding] }));
}

function tone(audio, gain) {
  const outlet = new MediaStreamAudioDestinationNode(audio);
  const oscillator = new OscillatorNode(audio, { frequency: 440 });
  oscillator.connect(new GainNode(audio, { gain })).connect(outlet);
  oscillator.start();
  return outlet.stream.getTracks()[0];
}
