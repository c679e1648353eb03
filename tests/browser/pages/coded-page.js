// A publisher or viewer that chooses its codec, how it encodes, and a key that the server does not have.

import { Client } from "/client.js";
import { decoded, encodings, play } from "/media.js";
import { Tone } from "/tone.js";

/** What goes with any codec and is none. */
const HELPERS = /\/(rtx|red|ulpfec|flexfec-03|CN|telephone-event)$/i;

let client;
let tone;
let sent;
let pulled;
let worker;
let ears;

window.page = {
  async open(config) {
    client = new Client(config);
    await client.open();
  },

  /** What this browser both sends and receives, as `{ mimeType, sdpFmtpLine, … }`, in its own order. */
  codecs(kind) {
    const received = codecsOf(RTCRtpReceiver, kind).map(nameOf);
    return codecsOf(RTCRtpSender, kind).filter((codec) => received.includes(nameOf(codec)));
  },

  /** A camera as `codec`; `sendEncodings` as in addTransceiver, `key` encrypts, or has the browser's own way done. */
  async publishCamera({ codec, video = { width: 320, height: 180 }, sendEncodings = [{}], key }) {
    const [track] = (await navigator.mediaDevices.getUserMedia({ video })).getVideoTracks();
    return publish(track, codec, { sendEncodings, key });
  },

  /** A microphone as `codec`. */
  async publishMicrophone({ codec }) {
    const [track] = (await navigator.mediaDevices.getUserMedia({ audio: true })).getAudioTracks();
    return publish(track, codec);
  },

  /**
   * A tone in the left channel and silence in the right one as `codec`, which may be `audio/red`. `fmtp` are parameters
   * to add to Opus' own, for both directions.
   */
  async publishTone({ codec, fmtp }) {
    tone = new Tone();
    return publish(tone.track, codec, { fmtp });
  },

  setLoudness: (loudness) => tone.setLoudness(loudness),

  /** Pulls a track; `fmtp` are parameters to answer with, `key` decrypts. */
  async pull(track, { fmtp, key } = {}) {
    const answer = await client.call("POST", "/tracks/new", { tracks: [{ location: "remote", ...track }] });
    const { connection } = client;
    await connection.setRemoteDescription(answer.sessionDescription);
    pulled = client.transceiver(answer.tracks[0].mid);
    if (key) transform(pulled.receiver, "decrypt", key);
    const { type, sdp } = await connection.createAnswer();
    await connection.setLocalDescription({ type, sdp: withParameters(sdp, fmtp) });
    const described = connection.localDescription.toJSON();
    await client.call("PUT", "/renegotiate", { sessionDescription: described });
    play(pulled.receiver.track);
    return answer.sessionDescription.sdp;
  },

  async update(track, simulcast) {
    const tracks = [{ location: "remote", ...track, simulcast }];
    await client.call("PUT", "/tracks/update", { tracks });
  },

  /** From here on with another key. */
  setKey: (key) => worker.postMessage({ key }),

  encodings: () => encodings(sent.sender),

  /** Packets and bytes that left, and what codec and layers. */
  async sent() {
    const report = await sent.sender.getStats();
    const streams = [...report.values()].filter(({ type }) => type === "outbound-rtp");
    const sum = (field) => streams.reduce((total, stream) => total + (stream[field] ?? 0), 0);
    const { scalabilityMode, frameHeight: height } = streams.at(-1) ?? {};
    const figures = { packets: sum("packetsSent"), bytes: sum("bytesSent"), frames: sum("framesSent") };
    return { ...figures, keyFrames: sum("keyFramesEncoded"), scalabilityMode, height, codec: codecIn(report, streams) };
  },

  async received() {
    const report = await pulled.receiver.getStats();
    const streams = [...report.values()].filter(({ type }) => type === "inbound-rtp");
    const { freezeCount, packetsReceived, packetsDiscarded } = streams.at(-1) ?? {};
    const figures = { freezeCount, packets: packetsReceived ?? 0, discarded: packetsDiscarded };
    return { ...(await decoded(pulled.receiver)), ...figures, codec: codecIn(report, streams) };
  },

  /** How loud each channel is, 0 to 1. */
  async channels() {
    ears ??= await Tone.listen(pulled.receiver.track);
    return ears();
  },

  diagnosis: () => client.diagnosis(),
};

async function publish(track, codec, { sendEncodings = [{}], fmtp, key } = {}) {
  const { connection } = client;
  sent = connection.addTransceiver(track, { direction: "sendonly", sendEncodings });
  if (codec) sent.setCodecPreferences(preferring(codec, track.kind));
  if (key) transform(sent.sender, "encrypt", key);
  const { type, sdp } = await connection.createOffer();
  await connection.setLocalDescription({ type, sdp: withParameters(sdp, fmtp) });
  const name = { sessionId: client.session, trackName: track.kind };
  const tracks = [{ location: "local", mid: sent.mid, trackName: track.kind }];
  const sessionDescription = connection.localDescription.toJSON();
  const answer = await client.call("POST", "/tracks/new", { sessionDescription, tracks });
  const { type: answers, sdp: answered } = answer.sessionDescription;
  await connection.setRemoteDescription({ type: answers, sdp: withParameters(answered, fmtp) });
  return name;
}

function codecsOf(end, kind) {
  return end.getCapabilities(kind).codecs.filter(({ mimeType }) => !HELPERS.test(mimeType));
}

function nameOf({ mimeType, sdpFmtpLine = "" }) {
  return `${mimeType};${sdpFmtpLine}`;
}

/** The codec, in all its forms unless `sdpFmtpLine` names one, and what goes with it; of RED, the codec in it. */
function preferring(codec, kind) {
  const all = RTCRtpSender.getCapabilities(kind).codecs;
  const isRed = /\/red$/i.test(codec.mimeType);
  const { mimeType, sdpFmtpLine } = codec;
  const first = all.filter((known) => known.mimeType === mimeType && known.sdpFmtpLine === (sdpFmtpLine ?? known.sdpFmtpLine));
  const inside = isRed ? all.filter(({ mimeType }) => /opus$/i.test(mimeType)) : [];
  return [...first, ...inside, ...all.filter(({ mimeType }) => /\/rtx$/i.test(mimeType))];
}

function withParameters(sdp, fmtp) {
  return fmtp ? sdp.replace(/^(a=fmtp:\d+ .*useinbandfec=1)/gm, `$1;${fmtp}`) : sdp;
}

function codecIn(report, streams) {
  const { mimeType, sdpFmtpLine } = report.get(streams.at(-1)?.codecId) ?? {};
  return { mimeType, sdpFmtpLine };
}

function transform(end, operation, key) {
  worker ??= new Worker("/e2ee-worker.js");
  worker.postMessage({ key });
  end.transform = new RTCRtpScriptTransform(worker, { operation });
}
