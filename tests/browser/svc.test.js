// Scalable encodings: one stream of three sizes, of which a viewer on a narrow link gets fewer, by what it decodes.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { sleep, until } from "./harness.js";
import { startLink } from "./impairer.js";
import { scene, stage } from "./stage.js";

const LIMIT = { timeout: 150_000 };
/** Chromium makes three spatial layers from this size on. */
const VIDEO = { width: 960, height: 540, frameRate: 15 };
/** Heights of the three spatial layers. */
const [LOW, , HIGH] = [135, 270, 540];

for (const [mimeType, scalabilityMode] of [
  ["video/VP9", "L3T3_KEY"],
  ["video/VP9", "L3T3"],
  ["video/AV1", "L3T3_KEY"],
]) {
  describe(`${mimeType} ${scalabilityMode} of chromium`, () => {
    const { open, story } = scene();
    let link;
    before(async () => (link = await startLink(stage.server.udpPorts, { down: { delayMs: 20, queueMs: 300 } })));
    after(() => link?.stop());

    it("a viewer on a narrow link sees a smaller picture, and the others the whole", LIMIT, story(async () => {
      const [ada, bob, cleo] = [
        await open("chromium", "coded"),
        await open("chromium", "coded", { link }),
        await open("chromium", "coded"),
      ];
      const codec = (await ada.call("codecs", "video")).find((known) => known.mimeType === mimeType);
      const sendEncodings = [{ scalabilityMode, maxBitrate: 1_500_000 }];
      const camera = await ada.call("publishCamera", { codec, video: VIDEO, sendEncodings });
      await bob.call("pull", camera);
      await cleo.call("pull", camera);
      await sees(ada, bob, HIGH);
      assert.equal((await ada.call("sent")).scalabilityMode, scalabilityMode);
      await link.set({ down: { rateKbps: 250 } });
      await sees(ada, bob, LOW);
      await sees(ada, cleo, HIGH);
      const before = await bob.call("received");
      await sleep(5_000);
      const after = await bob.call("received");
      const [frames, freezes] = [after.frames - before.frames, after.freezeCount - before.freezeCount];
      console.log(`${mimeType} ${scalabilityMode} at 250 kb/s: ${frames} pictures and ${freezes} freezes in 5 s`);
      // The fewest are those of the lowest temporal layer, a quarter of 15 a second.
      assert(frames > 12 && freezes <= 3, `${frames} pictures and ${freezes} freezes in 5 s`);
      await link.set({ down: { rateKbps: Infinity } });
      await sees(ada, bob, HIGH);
    }));
  });
}

/** Waits until pictures of this height, or lower, are decoded and go on to be for two seconds. */
async function sees(publisher, viewer, height) {
  let [since, seen] = [null, null];
  await until(`pictures ${height} high`, 45_000, async () => {
    seen = await viewer.call("received");
    const fits = height === HIGH ? seen.height === HIGH : seen.height > 0 && seen.height < HIGH;
    if (!fits) since = null;
    else since ??= { at: performance.now(), frames: seen.frames };
    return since && performance.now() - since.at >= 2_000 && seen.frames - since.frames >= 8;
  }).catch(async (error) => {
    throw new Error(`${error.message}: ${JSON.stringify({ seen, sent: await publisher.call("sent") })}`);
  });
}
