// The way of Cloudflare's relay to a speech model: a caller and the model each have one m-line with a track each way,
// the model by a session in which the server is the one that calls. A browser stands in for the model.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { until } from "./harness.js";
import { scene, stage } from "./stage.js";

const LIMIT = { timeout: 90_000 };

for (const [calling, answering] of [
  ["chromium", "firefox"],
  ["firefox", "chromium"],
]) {
  describe(`${calling} talks to a model that is ${answering}`, () => {
    const { open, story } = scene();

    it("each hears the other on the m-line that it speaks on", LIMIT, story(async () => {
      const caller = await open(calling, "talk");
      const model = await open(answering, "talk");
      const user = await caller.call("call", "microphone");
      const session = await answeredBy(model, "voice");
      await pullOnto(session, { ...user, mid: "#voice" });
      await pullOnto(user.sessionId, { sessionId: session, trackName: "voice", mid: "#microphone" });
      await hears(caller);
      await hears(model);

      // Nobody hears only themselves.
      await caller.call("mute", true);
      await until("the model to hear nothing", 15_000, async () => (await loudness(model)) < 1e-6);
      await hears(caller);
      await caller.call("mute", false);
      await hears(model);
      for (const page of [caller, model]) assert.deepEqual(await page.call("directions"), ["sendrecv"]);
    }));
  });
}

/** Connects the server to the model; resolves to the session, in which the model publishes `trackName`. */
async function answeredBy(model, trackName) {
  const { server } = stage;
  const { sessionId } = await server.call("POST", "/sessions/new?thirdparty=true");
  const tracks = [{ location: "local", trackName, kind: "audio", bidirectionalMediaStream: true }];
  const offer = await server.call("POST", `/sessions/${sessionId}/tracks/new`, { tracks });
  assert.equal(offer.requiresImmediateRenegotiation, true);
  const sdp = await model.call("answer", offer.sessionDescription);
  await server.call("PUT", `/sessions/${sessionId}/renegotiate`, { sessionDescription: { type: "answer", sdp } });
  return sessionId;
}

async function pullOnto(session, track) {
  const tracks = [{ location: "remote", ...track }];
  const reply = await stage.server.call("POST", `/sessions/${session}/tracks/new`, { tracks });
  assert.equal(reply.requiresImmediateRenegotiation, false, JSON.stringify(reply));
  assert.equal(reply.sessionDescription, undefined);
  assert.equal(reply.tracks[0].mid, "0", JSON.stringify(reply));
}

function hears(page) {
  return until(`${page.browserName} to hear the other`, 20_000, async () => (await loudness(page)) > 1e-5);
}

/** Energy per second of sound that is not concealed, over half a second or so. */
async function loudness(page) {
  const before = await page.call("received");
  const after = await until("sound", 10_000, async () => {
    const now = await page.call("received");
    return now.seconds > before.seconds + 0.5 && now;
  });
  if (after.samples === before.samples) return 0;
  return (after.energy - before.energy) / (after.seconds - before.seconds);
}
