// A listener in a large room: many pulls, one after the other, on one connection.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { assertPlays, until } from "./harness.js";
import { scene } from "./stage.js";

const LIMIT = { timeout: 120_000 };
const SOUNDS = 16;
const PICTURES = 4;
/** Whose Web Audio runs without an output device. Firefox's does not, and all its sounds are the microphone's. */
const TONES = { chromium: true, firefox: false };

for (const [first, second] of [
  ["chromium", "firefox"],
  ["firefox", "chromium"],
]) {
  describe(`many tracks of ${first} in one session of ${second}`, () => {
    const { open, story } = scene();

    it(`${SOUNDS + PICTURES} pulls, one after the other, each give the track that was asked for`, LIMIT, story(async () => {
      const ada = await open(first, "many");
      const bob = await open(second, "many");
      const published = await ada.call("publish", SOUNDS, PICTURES, TONES[first]);
      const mids = [];
      for (const track of published) mids.push(await bob.call("pull", track));
      assert.deepEqual(mids, published.map((_, n) => `${n}`));
      await assertPlays(bob, published.length);

      let sizes;
      await until("each picture to have its size", 20_000, async () => {
        const heights = await ada.call("heights");
        const seen = (await bob.call("received")).slice(SOUNDS).map(({ height }) => height);
        sizes = { heights, seen };
        return new Set(heights).size === PICTURES && `${heights}` === `${seen}`;
      }).catch((error) => {
        throw new Error(`${error.message}: ${JSON.stringify(sizes)}`);
      });
      if (TONES[first]) assertFalls(await loudness(bob));
    }));
  });
}

/** The loudness of each sound over a second or so. */
async function loudness(page) {
  const before = await page.call("received");
  let after;
  await until("a second of sound", 10_000, async () => {
    after = await page.call("received");
    return after.slice(0, SOUNDS).every(({ seconds }, n) => seconds > before[n].seconds + 1);
  });
  const power = ({ energy, seconds }, n) => (energy - before[n].energy) / (seconds - before[n].seconds);
  return after.slice(0, SOUNDS).map((sound, n) => Math.sqrt(power(sound, n)));
}

function assertFalls(levels) {
  const isSofter = (level, n) => n === 0 || level < levels[n - 1];
  assert(levels.every(isSofter), `the sounds are not in their order: ${levels}`);
}
