// Video over links that lose, delay and choke: what viewers see of it, by what they decode.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { sleep, until } from "./harness.js";
import { startLink } from "./impairer.js";
import { scene, stage } from "./stage.js";

const LIMIT = { timeout: 120_000 };
/** What is looked at, once media flows. */
const WATCH_MS = 8_000;
/** Until a viewer has decoded so many pictures, its jitter buffer is still finding its length. */
const WARM_FRAMES = 60;

const BAD = { up: { delayMs: 50, loss: 0.05 }, down: { delayMs: 50, loss: 0.05 } };

for (const browser of ["chromium", "firefox"]) {
  for (const side of ["publisher", "viewer"]) {
    describe(`5 % loss each way and a round trip of 100 ms between ${browser} as ${side} and the server`, () => {
      const { open, story } = scene();
      let link;
      before(async () => (link = await startLink(stage.server.udpPorts, BAD)));
      after(() => link?.stop());

      it("the picture goes on, and little of the sound is made up", LIMIT, story(async () => {
        const ada = await open(browser, "link", { link: side === "publisher" ? link : undefined });
        const bob = await open(browser, "link", { link: side === "viewer" ? link : undefined });
        await bob.call("pull", await ada.call("publish"));
        const [seen] = await watch(ada, [bob], WARM_FRAMES);
        const { up, down } = await link.counts();
        report(`${browser} as ${side}`, seen, { lostUp: up.lost, lostDown: down.lost });
        // The link was as bad as it should: packets of media were lost in its direction.
        const direction = side === "publisher" ? up : down;
        assert(direction.lost > 0.03 * direction.passed, JSON.stringify(direction));
        assert(seen.shown >= 0.85, `${percent(seen.shown)} of the pictures were decoded`);
        assert(seen.frozen <= 0.25, `the picture stood for ${percent(seen.frozen)} of the time`);
        assert(seen.concealed <= 0.12, `${percent(seen.concealed)} of the sound was made up`);
        assert(seen.energy > 0, "the sound is silence");
      }));
    });
  }
}

describe("five viewers, one of them on a bad link", () => {
  const { open, story } = scene();
  let link;
  before(async () => (link = await startLink(stage.server.udpPorts)));
  after(() => link?.stop());

  it("the other four see what they saw before", LIMIT, story(async () => {
    const ada = await open("chromium", "link");
    const tracks = await ada.call("publish");
    const viewers = [await open("chromium", "link", { link })];
    for (let n = 0; n < 4; n++) viewers.push(await open("chromium", "link"));
    for (const viewer of viewers) await viewer.call("pull", tracks);

    const before = await watch(ada, viewers, WARM_FRAMES);
    // Less than the picture alone needs, and a fifth of that lost.
    await link.set({ up: { delayMs: 100, loss: 0.2 }, down: { delayMs: 100, loss: 0.2, rateKbps: 150, queueMs: 500 } });
    const during = await watch(ada, viewers, 0);
    before.forEach((seen, n) => report(`viewer ${n}, all links good`, seen));
    during.forEach((seen, n) => report(`viewer ${n}, link 0 bad`, seen));
    assert(during[0].concealed > 0.1 || during[0].shown < 0.8, "the bad link was none");
    for (const seen of during.slice(1)) {
      assert(seen.shown >= 0.9, `${percent(seen.shown)} of the pictures were decoded`);
      assert(seen.concealed <= 0.05, `${percent(seen.concealed)} of the sound was made up`);
      assert.equal(seen.lost, 0);
    }
    const { fps } = during[1];
    assert(fps > 0.8 * before[1].fps, `${fps} pictures a second after ${before[1].fps}`);
  }));
});

/** What viewers see of a publisher for a while, after each has decoded `first` pictures and has sound. */
async function watch(publisher, viewers, first) {
  for (const viewer of viewers) {
    await until(`${viewer.browserName} to decode pictures`, 30_000, async () => {
      const { frames, energy } = await viewer.call("received");
      return frames >= first && energy > 0;
    });
  }
  const read = async () => {
    const at = performance.now();
    const [sent, ...received] = await Promise.all([
      publisher.call("sent"),
      ...viewers.map((viewer) => viewer.call("received")),
    ]);
    return { at, sent, received };
  };
  const before = await read();
  await sleep(WATCH_MS);
  const after = await read();
  const seconds = (after.at - before.at) / 1000;
  const rise = (name, n) => after.received[n][name] - before.received[n][name];
  return viewers.map((_, n) => ({
    fps: rise("frames", n) / seconds,
    shown: rise("frames", n) / (after.sent.frames - before.sent.frames),
    frozen: (rise("frozen", n) || 0) / seconds,
    freezes: rise("freezes", n) || 0,
    concealed: (rise("concealed", n) - rise("silent", n)) / rise("samples", n),
    energy: rise("energy", n),
    lost: rise("lost", n),
    repaired: rise("repaired", n),
    keyFrames: after.sent.keyFrames - before.sent.keyFrames,
  }));
}

function report(who, { fps, shown, frozen, freezes, concealed, lost, repaired, keyFrames }, more = {}) {
  const figures = [
    `${fps.toFixed(1)} pictures/s (${percent(shown)} of those sent)`,
    `${freezes} freezes (${percent(frozen)} of the time)`,
    `${percent(concealed)} of the sound made up`,
    `${lost} packets lost, ${repaired} repaired, ${keyFrames} key frames`,
    ...Object.entries(more).map(([name, value]) => `${name} ${value}`),
  ];
  console.log(`${who}: ${figures.join(", ")}`);
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}
