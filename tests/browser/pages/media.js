// What both kinds of test page do with media: capture, play, count.

/** Chromium makes three encodings of a picture from this size on. */
export const SIMULCAST = {
  video: { width: 960, height: 540, frameRate: 15 },
  encodings: [
    { rid: "q", scaleResolutionDownBy: 4, maxBitrate: 60_000 },
    { rid: "h", scaleResolutionDownBy: 2, maxBitrate: 120_000 },
    { rid: "f", maxBitrate: 300_000 },
  ],
};

export async function capture(video = { width: 640, height: 360 }) {
  return (await navigator.mediaDevices.getUserMedia({ audio: true, video })).getTracks();
}

/** Plays a track: browsers count audio samples only while somebody listens. */
export function play(track) {
  const element = Object.assign(document.createElement("video"), { autoplay: true });
  element.srcObject = new MediaStream([track]);
  document.body.append(element);
  return element;
}

/** What was decoded of a track. A track may have had several streams in its life: they add up. */
export async function decoded(receiver) {
  const streams = [...(await receiver.getStats()).values()].filter(({ type }) => type === "inbound-rtp");
  const sum = (field) => streams.reduce((total, stream) => total + (stream[field] ?? 0), 0);
  const { frameWidth: width, frameHeight: height } = streams.at(-1) ?? {};
  return {
    kind: receiver.track.kind,
    bytes: sum("bytesReceived"),
    frames: sum("framesDecoded"),
    samples: sum("totalSamplesReceived") - sum("concealedSamples"),
    energy: sum("totalAudioEnergy"),
    seconds: sum("totalSamplesDuration"),
    width,
    height,
  };
}

/** The size of the pictures that leave this page. */
export async function encoded(sender) {
  const streams = [...(await sender.getStats()).values()].filter(({ type }) => type === "outbound-rtp");
  const { frameWidth: width, frameHeight: height } = streams.at(-1) ?? {};
  return { kind: sender.track.kind, width, height };
}

/** Height and frames by rid of what a sender of several encodings sends. */
export async function encodings(sender) {
  const streams = [...(await sender.getStats()).values()].filter(({ type }) => type === "outbound-rtp");
  return Object.fromEntries(
    streams.map(({ rid, frameHeight, framesSent }) => [rid, { height: frameHeight, frames: framesSent }]),
  );
}

/** All statistics that matter for a failure. */
export async function statistics(connection) {
  const wanted = ["inbound-rtp", "outbound-rtp", "remote-inbound-rtp", "transport", "candidate-pair"];
  const report = await connection.getStats();
  return [...report.values()].filter(({ type }) => wanted.includes(type));
}
