// Media that the server cannot read: encrypted and decrypted by pages, forwarded, and selected from all the same.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { sleep, until } from "./harness.js";
import { scene } from "./stage.js";

const LIMIT = { timeout: 150_000 };
const VP8 = { mimeType: "video/VP8" };
const SIMULCAST = {
  video: { width: 960, height: 540, frameRate: 15 },
  sendEncodings: [
    { rid: "q", scaleResolutionDownBy: 4, maxBitrate: 60_000 },
    { rid: "h", scaleResolutionDownBy: 2, maxBitrate: 120_000 },
    { rid: "f", maxBitrate: 300_000 },
  ],
};

for (const [first, second] of [
  ["chromium", "chromium"],
  ["firefox", "firefox"],
  ["chromium", "firefox"],
]) {
  describe(`pictures that ${first} encrypts and ${second} decrypts`, () => {
    const { open, story } = scene();

    it("are seen by who has the key, in the encoding of its choice, and by nobody else", LIMIT, story(async () => {
      const ada = await open(first, "coded");
      const camera = await ada.call("publishCamera", { codec: VP8, ...SIMULCAST, key: "a key" });
      await until("three encodings", 40_000, async () => {
        const { f, h, q } = await ada.call("encodings");
        return [f, h, q].every((encoding) => encoding?.frames > 10);
      });
      const bob = await open(second, "coded");
      await bob.call("pull", { ...camera, simulcast: { preferredRid: "q" } }, { key: "a key" });
      for (const rid of ["q", "f", "h"]) {
        await bob.call("update", camera, { preferredRid: rid });
        await seesSizeOf(ada, bob, rid);
      }
      const eve = await open(second, "coded");
      await eve.call("pull", { ...camera, simulcast: { preferredRid: "q" } }, { key: "another key" });
      await until("packets for who has another key", 10_000, async () => (await eve.call("received")).packets > 50);
      await sleep(1_000);
      const { frames } = await eve.call("received");
      assert.equal(frames, 0, "pictures decoded without the key");
    }));
  });
}

async function seesSizeOf(publisher, viewer, rid) {
  let seen;
  await until(`pictures of encoding ${rid}`, 15_000, async () => {
    const [sent, received] = [await publisher.call("encodings"), await viewer.call("received")];
    const before = seen?.frames ?? Infinity;
    seen = { rid, wanted: sent[rid]?.height, ...received };
    return received.height === sent[rid]?.height && received.frames > before;
  }).catch((error) => {
    throw new Error(`${error.message}: ${JSON.stringify(seen)}`);
  });
}
