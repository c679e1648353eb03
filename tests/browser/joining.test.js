// Viewers who join one after the other: each sees a picture, and how soon is printed, with and without the past that the
// server lets them begin with.

import assert from "node:assert/strict";
import { after, describe, it } from "node:test";

import { explained, startServer, startSite } from "./harness.js";
import { stage } from "./stage.js";

const LIMIT = { timeout: 120_000 };
const VIEWERS = 6;

// Twice each, in turn, so that a machine that gets busier meanwhile shows.
for (const more of [[], ["--catch-up-ms", "0"], [], ["--catch-up-ms", "0"]]) {
  const name = more.join(" ") || "the default";

  describe(`${VIEWERS} viewers who join one after the other, with ${name}`, () => {
    const closing = [];
    after(async () => {
      for (const close of closing.reverse()) await close();
    });

    it("each decodes a picture", LIMIT, async () => {
      const server = await startServer({ more });
      closing.push(() => server.stop());
      const site = await startSite(server);
      closing.push(() => site.stop());
      const pages = [];
      const open = async () => {
        const page = await stage.browsers.chromium.open(`${site.url}/link.html`);
        closing.push(() => page.close());
        pages.push(page);
        await page.call("open", server.config);
        return page;
      };
      await explained({ server, pages }, async () => {
        const ada = await open();
        const tracks = await ada.call("publish");
        const viewers = [];
        while (viewers.length < VIEWERS) viewers.push(await open());
        const before = (await ada.call("sent")).keyFrames;
        const times = [];
        for (const viewer of viewers) times.push(await viewer.call("join", tracks));
        const keyFrames = (await ada.call("sent")).keyFrames - before;
        const [called, connected] = ["sinceCall", "sinceConnected"].map((since) => median(times.map((time) => time[since])));
        console.log(
          `${name}: first picture ${called} ms after the pull, ${connected} ms after the connection (medians of ` +
            `${VIEWERS}), ${keyFrames} key frames`,
        );
        assert.equal(times.length, VIEWERS);
      });
    });
  });
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const [low, high] = [sorted[Math.floor((sorted.length - 1) / 2)], sorted[Math.floor(sorted.length / 2)]];
  return Math.round((low + high) / 2);
}
