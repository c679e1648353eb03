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
    let metadata;
    after(() => Promise.all(pages.map((page) => page.close())));
    const story = (tell) => () => explained({ server, pages }, tell);

    it("one page plays what the other pushes", LIMIT, story(async () => {
      for (const name of [first, second]) {
        pages.push(await browsers[name].open(`${site.url}/partytracks.html`));
      }
      metadata = await pages[0].call("publish");
      await pages[1].call("pull", metadata);
      await assertPlays(pages[1], 2);
      await assertPictureMoves(pages[1]);
    }));

    // The close lists two mids but stops one m-line, the first of the BUNDLE group.
    it("it plays again after partytracks closed what nobody subscribed to", LIMIT, story(async () => {
      await pages[1].call("unsubscribe");
      await pages[1].call("pull", metadata);
      await assertPlays(pages[1], 2);
      await assertPictureMoves(pages[1]);
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
