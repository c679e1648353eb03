// Clients that mute by closing a track and unmute by publishing again do so all day, on the m-line they have.

import assert from "node:assert/strict";
import { before, describe, it } from "node:test";

import { until } from "./harness.js";
import { scene } from "./stage.js";

const LIMIT = { timeout: 180_000 };
const CYCLES = 50;
const PAIRINGS = [
  ["chromium", "firefox"],
  ["firefox", "chromium"],
];

for (const [first, second] of PAIRINGS) {
  describe(`${first} mutes, ${second} watches`, () => {
    const { open, story } = scene();
    let ada;
    let bob;
    before(async () => {
      ada = await open(first, "mute");
      bob = await open(second, "mute");
    });

    it(`media flows after each of ${CYCLES} closes and publications on one mid`, LIMIT, story(async () => {
      const tracks = await ada.call("publish");
      const mids = await ada.call("mids");
      for (const track of Object.values(tracks)) await bob.call("view", track);
      for (const kind of Object.keys(tracks)) await plays(kind);
      for (let cycle = 0; cycle < CYCLES; cycle++) {
        // Sound and picture in turn, and each of them by force and by negotiation.
        const [kind, other] = cycle % 2 ? ["video", "audio"] : ["audio", "video"];
        const force = cycle % 4 < 2;
        await ada.call("mute", kind, force);
        if (cycle < 4) await stops(kind);
        await bob.call("unview", kind, !force);
        await bob.call("view", await ada.call("unmute", kind));
        await plays(kind);
        await plays(other);
      }
      assert.deepEqual(await ada.call("mids"), mids);
    }));

    /** More pictures, or more sound that is not silence, reach the viewer from now on. */
    async function plays(kind) {
      const before = await bob.call("received", kind);
      await until(`${kind} in ${second}`, 15_000, async () => {
        const { frames, samples, energy } = await bob.call("received", kind);
        return kind === "video" ? frames >= before.frames + 3 : samples > before.samples + 4_800 && energy > before.energy;
      });
    }

    async function stops(kind) {
      let before;
      let still = 0;
      await until(`${kind} to stop`, 10_000, async () => {
        const { bytes } = await bob.call("received", kind);
        still = bytes === before ? still + 1 : 0;
        before = bytes;
        return still >= 8;
      });
    }
  });
}
