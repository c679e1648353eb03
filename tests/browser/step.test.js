// A viewer of a simulcast on a link whose rate changes: it gets the best picture that fits, by what it decodes.

import { after, before, describe, it } from "node:test";

import { until } from "./harness.js";
import { startLink } from "./impairer.js";
import { scene, stage } from "./stage.js";

const LIMIT = { timeout: 300_000 };
/** Encodings need 60, 120 and 300 kb/s (pages/media.js), the sound some 40, headers 10 or 20. */
const STEPS = [
  { rateKbps: Infinity, rid: "f" },
  { rateKbps: 150, rid: "q" },
  { rateKbps: 260, rid: "h" },
  { rateKbps: Infinity, rid: "f" },
  { rateKbps: 150, rid: "q" },
];
const AUTOMATIC = { priorityOrdering: "asciibetical", ridNotAvailable: "asciibetical" };
/** How long a size must stay, to be no oscillation. */
const STEADY_MS = 3_000;
/** Half of what is sent in that time. */
const STEADY_FRAMES = 22;

for (const [publishing, watching] of [
  ["chromium", "chromium"],
  ["firefox", "firefox"],
]) {
  describe(`a simulcast of ${publishing} that ${watching} watches on a link of changing rate`, () => {
    const { open, story } = scene();
    let link;
    before(async () => (link = await startLink(stage.server.udpPorts, { down: { delayMs: 20, queueMs: 300 } })));
    after(() => link?.stop());

    it("the picture steps down and up with the rate", LIMIT, story(async () => {
      const ada = await open(publishing, "link");
      const bob = await open(watching, "link", { link });
      const [sound, picture] = await ada.call("publish", { simulcast: true });
      await until("three encodings", 60_000, async () => {
        const { f, h, q } = await ada.call("encodings");
        return [f, h, q].every((encoding) => encoding?.frames > 10);
      });
      await bob.call("pull", [sound, { ...picture, simulcast: AUTOMATIC }]);
      for (const { rateKbps, rid } of STEPS) {
        const start = performance.now();
        await link.set({ down: { rateKbps } });
        const settled = await settles(ada, bob, rid);
        const { freezes, frozen } = await bob.call("received");
        const took = ((settled - start) / 1000).toFixed(1);
        console.log(`${watching} at ${rateKbps} kb/s: ${rid} after ${took} s; ${freezes} freezes, ${frozen} s, so far`);
      }
    }));
  });
}

/** Waits until the viewer decodes pictures of this encoding and goes on to; resolves to when that began. */
async function settles(publisher, viewer, rid) {
  let since = null;
  await until(`pictures of encoding ${rid}, and no others for ${STEADY_MS} ms`, 40_000, async () => {
    const [sent, seen] = [await publisher.call("encodings"), await viewer.call("received")];
    if (seen.height !== sent[rid]?.height) since = null;
    else since ??= { at: performance.now(), frames: seen.frames };
    const isSteady = since && performance.now() - since.at >= STEADY_MS;
    return isSteady && seen.frames - since.frames >= STEADY_FRAMES;
  });
  return since.at;
}
