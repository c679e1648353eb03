// A simulcast of each video codec that Chromium can send one of, and a viewer who chooses among its encodings.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { until } from "./harness.js";
import { scene } from "./stage.js";

const LIMIT = { timeout: 120_000 };
/** Chromium makes three encodings of a picture from this size on. */
const VIDEO = { width: 960, height: 540, frameRate: 15 };
/** Without the mode, several encodings of VP9 are taken for spatial layers of one stream. */
const ENCODINGS = [
  { rid: "q", scaleResolutionDownBy: 4, maxBitrate: 100_000, scalabilityMode: "L1T1" },
  { rid: "h", scaleResolutionDownBy: 2, maxBitrate: 200_000, scalabilityMode: "L1T1" },
  { rid: "f", maxBitrate: 500_000, scalabilityMode: "L1T1" },
];

for (const mimeType of ["video/H264", "video/VP9", "video/AV1"]) {
  describe(`a simulcast of ${mimeType} by chromium`, () => {
    const { open, story } = scene();

    it("a viewer gets the encoding that it prefers, and another when it asks for that", LIMIT, story(async () => {
      const [ada, bob] = [await open("chromium", "coded"), await open("chromium", "coded")];
      const codec = (await ada.call("codecs", "video")).find((known) => known.mimeType === mimeType);
      assert(codec, `chromium does not offer ${mimeType}`);
      const camera = await ada.call("publishCamera", { codec, video: VIDEO, sendEncodings: ENCODINGS });
      await until("three encodings", 40_000, async () => {
        const sent = await ada.call("encodings");
        return ENCODINGS.every(({ rid }) => sent[rid]?.frames > 10);
      });
      await bob.call("pull", { ...camera, simulcast: { preferredRid: "q" } });
      await sees(ada, bob, "q");
      for (const rid of ["f", "h", "q"]) {
        await bob.call("update", camera, { preferredRid: rid });
        await sees(ada, bob, rid);
      }
      assert.equal((await bob.call("received")).codec.mimeType, mimeType);
    }));
  });
}

/** Waits until decoded pictures have the size of this encoding, and keep coming. H.264 is decoded in even heights. */
async function sees(publisher, viewer, rid) {
  let seen;
  await until(`pictures of encoding ${rid}`, 20_000, async () => {
    const [sent, received] = await Promise.all([publisher.call("encodings"), viewer.call("received")]);
    const before = seen?.frames ?? Infinity;
    seen = { wanted: sent[rid]?.height, ...received };
    return Math.abs(received.height - seen.wanted) <= 1 && received.frames > before;
  }).catch((error) => {
    throw new Error(`${error.message}: ${JSON.stringify(seen)}`);
  });
}
