// People reload the page in the middle of a call: a new session takes the place of one that nobody closed.

import { before, describe, it } from "node:test";

import { assertPlays } from "./harness.js";
import { scene, stage } from "./stage.js";

const LIMIT = { timeout: 90_000 };

describe("chromium and firefox in a call", () => {
  const { open, story } = scene();
  const peers = {};
  before(async () => {
    for (const browser of ["chromium", "firefox"]) peers[browser] = { page: await open(browser, "peer") };
    await Promise.all(Object.values(peers).map(publish));
    await watchEachOther();
  });

  for (const reloaded of [["chromium"], ["firefox"], ["chromium", "firefox"]]) {
    it(`both see and hear each other after a reload of ${reloaded.join(" and ")}`, LIMIT, story(async () => {
      for (const browser of reloaded) {
        const peer = peers[browser];
        await peer.page.handle.reload();
        await peer.page.call("open", stage.server.config);
        await publish(peer);
      }
      const stayed = Object.keys(peers).filter((browser) => !reloaded.includes(browser));
      for (const browser of stayed) await peers[browser].page.call("closePulled");
      await watchEachOther();
    }));
  }

  async function publish(peer) {
    peer.tracks = await peer.page.call("publish");
  }

  async function watchEachOther() {
    const { chromium, firefox } = peers;
    await chromium.page.call("pull", firefox.tracks);
    await firefox.page.call("pull", chromium.tracks);
    await assertPlays(chromium.page, 2);
    await assertPlays(firefox.page, 2);
  }
});
