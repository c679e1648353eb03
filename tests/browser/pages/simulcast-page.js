// A peer that publishes its camera in three encodings, or pulls those of another, under remote control.

import { Api } from "/demo/api.js";
import { SIMULCAST, encodings, play, statistics } from "/media.js";

const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
let config;
let session;
let transceiver;

window.page = {
  async open(present) {
    config = present;
    session = await new Api(config).newSession();
  },

  async publish() {
    const [track] = (await navigator.mediaDevices.getUserMedia({ video: SIMULCAST.video })).getTracks();
    transceiver = connection.addTransceiver(track, { direction: "sendonly", sendEncodings: SIMULCAST.encodings });
    const vp8 = RTCRtpSender.getCapabilities("video").codecs.filter(({ mimeType }) => /VP8|rtx/.test(mimeType));
    transceiver.setCodecPreferences?.(vp8);
    await connection.setLocalDescription(await connection.createOffer());
    const tracks = [{ mid: transceiver.mid, trackName: "camera" }];
    const answer = await new Api(config).push(session, connection.localDescription, tracks);
    await connection.setRemoteDescription(answer);
    return { sessionId: session, trackName: "camera" };
  },

  async pull(track, simulcast) {
    const tracks = [{ location: "remote", ...track, simulcast }];
    const reply = await call("POST", "tracks/new", { tracks });
    await connection.setRemoteDescription(reply.sessionDescription);
    await connection.setLocalDescription(await connection.createAnswer());
    await new Api(config).renegotiate(session, connection.localDescription);
    transceiver = connection.getTransceivers().find(({ mid }) => mid === reply.tracks[0].mid);
    play(transceiver.receiver.track);
  },

  /** By the name of the track alone, as clients do that know no mid of ours. */
  async update(track, simulcast) {
    const tracks = [{ location: "remote", ...track, simulcast }];
    return (await call("PUT", "tracks/update", { tracks })).tracks[0];
  },

  /** Stops or resumes one encoding. */
  async setActive(rid, active) {
    const parameters = transceiver.sender.getParameters();
    parameters.encodings.find((encoding) => encoding.rid === rid).active = active;
    await transceiver.sender.setParameters(parameters);
  },

  sent: () => encodings(transceiver.sender),

  async received() {
    const streams = [...(await transceiver.receiver.getStats()).values()];
    const video = streams.filter(({ type }) => type === "inbound-rtp");
    const { frameHeight, framesDecoded, freezeCount, packetsLost } = video.at(-1) ?? {};
    return { streams: video.length, height: frameHeight, frames: framesDecoded, freezeCount, packetsLost };
  },

  diagnosis: async () => ({ state: connection.connectionState, statistics: await statistics(connection) }),
};

async function call(method, path, body) {
  const response = await fetch(`${config.basePath}/sessions/${session}/${path}`, {
    method,
    headers: { Authorization: `Bearer ${config.token}` },
    body: JSON.stringify(body),
  });
  const reply = await response.json();
  const failed = reply.errorCode ?? reply.tracks.find(({ errorCode }) => errorCode);
  if (failed) throw new Error(`${method} ${path} failed: ${JSON.stringify(reply)}`);
  return reply;
}
