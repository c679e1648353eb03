// The unmodified npm package `partytracks`: its client in the pages, its server half as the proxy.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { Browsers, assertPlays, explained, sleep, startServer, startSite, until } from "./harness.js";

const PAIRINGS = [
  ["chromium", "chromium"],
  ["firefox", "firefox"],
  ["chromium", "firefox"],
];
const LIMIT = { timeout: 60_000 };

let server;
let site;
const browsers = new Browsers();

before(async () => {
  server = await startServer();
  site = await startSite(server);
});
after(async () => {
  await browsers.stop();
  site?.stop();
  await server?.stop();
});

for (const [first, second] of PAIRINGS) {
  describe(`partytracks in ${first} and ${second}`, () => {
    const pages = [];
    after(() => Promise.all(pages.map((page) => page.close())));

    it("plays in one page what the other pushes, and again after a close", LIMIT, () =>
      explained({ server, pages }, async () => {
        for (const name of [first, second]) {
          pages.push(await browsers[name].open(`${site.url}/partytracks.html`));
        }
        const [publisher, subscriber] = pages;
        const metadata = await publisher.call("publish");
        await subscriber.call("pull", metadata);
        await assertPlays(subscriber, 2);
        await assertPictureMoves(subscriber);

        await subscriber.call("unsubscribe");
        await subscriber.call("pull", metadata);
        await assertPlays(subscriber, 2);
        await assertPictureMoves(subscriber);
      }));
  });
}

async function assertPictureMoves(page) {
  const [before] = await until("a picture", 10_000, async () => {
    const pictures = await page.call("pictures");
    return pictures.length > 0 && pictures;
  });
  await sleep(1_000);
  const [after] = await page.call("pictures");
  assert(after.currentTime > before.currentTime, `the picture stands at ${after.currentTime} s`);
}
