// One camera in three sizes, and viewers who choose among them while they watch.

import assert from "node:assert/strict";
import { before, describe, it } from "node:test";

import { until } from "./harness.js";
import { scene } from "./stage.js";

const LIMIT = { timeout: 90_000 };

const PAIRINGS = [
  ["chromium", "chromium"],
  ["chromium", "firefox"],
  ["firefox", "chromium"],
  ["firefox", "firefox"],
];

for (const [first, second] of PAIRINGS) {
  describe(`a simulcast of ${first}, seen by ${second}`, () => {
    const { open, story } = scene();
    let ada;
    let bob;
    let camera;
    before(async () => {
      ada = await open(first, "simulcast");
      bob = await open(second, "simulcast");
    });

    it("the publisher's bandwidth estimate rises until it sends all three encodings", LIMIT, story(async () => {
      camera = await ada.call("publish");
      await until("three encodings", 40_000, async () => {
        const { f, h, q } = await ada.call("sent");
        return f?.frames > 10 && h?.frames > 10 && q?.frames > 10;
      });
    }));

    it("a viewer gets the encoding that it prefers, and another when it asks for that", LIMIT, story(async () => {
      await bob.call("pull", camera, { preferredRid: "q" });
      await seesSizeOf("q");
      for (const rid of ["f", "h", "q", "f"]) {
        const updated = await bob.call("update", camera, { preferredRid: rid });
        assert.deepEqual(updated, { ...camera, mid: "0" });
        await seesSizeOf(rid);
      }
      const { streams } = await bob.call("received");
      assert.equal(streams, 1, "to the viewer it is one stream");
    }));

    it("an encoding that stops is replaced by the next one if the viewer says so", LIMIT, story(async () => {
      await bob.call("update", camera, { preferredRid: "f", ridNotAvailable: "asciibetical" });
      await seesSizeOf("f");
      await ada.call("setActive", "f", false);
      await seesSizeOf("h");
      await ada.call("setActive", "f", true);
      await seesSizeOf("f");
    }));

    /** Decoded pictures have the size of this encoding, and keep coming. */
    async function seesSizeOf(rid) {
      let seen;
      await until(`pictures of encoding ${rid}`, 15_000, async () => {
        const [sent, received] = await Promise.all([ada.call("sent"), bob.call("received")]);
        const [before, wanted] = [seen?.frames ?? Infinity, sent[rid]?.height];
        seen = { rid, wanted, ...received };
        return received.height === wanted && received.frames > before;
      }).catch((error) => {
        throw new Error(`${error.message}: ${JSON.stringify(seen)}`);
      });
    }
  });
}
