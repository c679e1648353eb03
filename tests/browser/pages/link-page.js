// A publisher or viewer whose link may be bad: it tells what a viewer suffers.

import { Client } from "/client.js";
import { SIMULCAST, capture, encodings, play } from "/media.js";

let client;
let sent = [];
let pulled = [];

window.page = {
  async open(config) {
    client = new Client(config);
    await client.open();
  },

  /** Microphone and camera; the camera in three encodings if `simulcast`. */
  async publish({ simulcast = false } = {}) {
    const video = simulcast ? SIMULCAST.video : { width: 320, height: 180 };
    sent = (await capture(video)).map((track) => {
      const sendEncodings = simulcast && track.kind === "video" ? SIMULCAST.encodings : [{}];
      return client.connection.addTransceiver(track, { direction: "sendonly", sendEncodings });
    });
    return client.push(() => sent.map(({ mid, sender }) => ({ mid, trackName: sender.track.kind })));
  },

  async pull(tracks) {
    pulled = await client.pull(tracks);
    pulled.forEach(({ receiver }) => play(receiver.track));
  },

  /** Pulls; resolves to the time until the first picture was decoded, since the call and since the connection, in ms. */
  async join(tracks) {
    const began = performance.now();
    let connected = began;
    client.connection.addEventListener("connectionstatechange", () => {
      if (client.connection.connectionState === "connected") connected = performance.now();
    });
    await this.pull(tracks);
    while (!(await this.received()).frames) await new Promise((resolve) => setTimeout(resolve, 5));
    const now = performance.now();
    return { sinceCall: now - began, sinceConnected: now - connected };
  },

  /** By rid: height and frames of what leaves. */
  encodings: () => encodings(sent[1].sender),

  /** What has left: pictures, key frames, requests for those. */
  async sent() {
    const { framesSent, keyFramesEncoded, pliCount } = await figures(sent[1].sender, "outbound-rtp");
    return { frames: framesSent, keyFrames: keyFramesEncoded ?? 0, requests: pliCount ?? 0 };
  },

  /** What has been seen and heard. Times are in seconds. */
  async received() {
    const [sound, picture] = await Promise.all(pulled.map(({ receiver }) => figures(receiver, "inbound-rtp")));
    return {
      frames: picture.framesDecoded ?? 0,
      height: picture.frameHeight,
      freezes: picture.freezeCount,
      frozen: picture.totalFreezesDuration,
      lost: picture.packetsLost,
      repaired: picture.retransmittedPacketsReceived ?? 0,
      samples: sound.totalSamplesReceived ?? 0,
      concealed: sound.concealedSamples ?? 0,
      silent: sound.silentConcealedSamples ?? 0,
      energy: sound.totalAudioEnergy ?? 0,
    };
  },

  diagnosis: () => client.diagnosis(),
};

async function figures(end, wanted) {
  return [...(await end.getStats()).values()].findLast(({ type }) => type === wanted) ?? {};
}
