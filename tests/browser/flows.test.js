// Known clients by what they say to the server: the order of their calls, their quirks, their patience.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { assertPlays, until } from "./harness.js";
import { scene, stage } from "./stage.js";

const LIMIT = { timeout: 90_000 };
const BROWSERS = ["chromium", "firefox"];
const other = (browser) => BROWSERS.find((name) => name !== browser);

for (const browser of BROWSERS) {
  describe(`${browser}, the way of the echo examples`, () => {
    const { open, story } = scene();

    it("tracks come back on a second connection, and its update names the publisher's mid", LIMIT, story(async () => {
      const page = await open(browser, "flows");
      assert.deepEqual(await page.call("echo"), { sent: ["0", "1"], pulled: ["0", "1"] });
      await assertPlays(page, 2);
      await until("three encodings", 60_000, async () => {
        const { f, h, q } = await page.call("sent");
        return [f, h, q].every((encoding) => encoding?.frames > 10);
      });
      for (const rid of ["q", "h", "f"]) {
        assert.equal((await page.call("prefer", rid)).mid, "1");
        await until(`pictures of encoding ${rid}`, 20_000, async () => {
          const [sent, [, video]] = [await page.call("sent"), await page.call("received")];
          return video.height === sent[rid].height;
        });
      }
      await assertPlays(page, 2);
    }));
  });

  describe(`${browser} and ${other(browser)}, the way of Orange Meets`, () => {
    const { open, story } = scene();

    it("whoever leaves closes five tracks with one m-line stopped, and may come again", LIMIT, story(async () => {
      const ada = await open(browser, "flows");
      const bob = await open(other(browser), "flows");
      const [adas, bobs] = [await ada.call("join", "weekly"), await bob.call("join", "weekly")];
      // The screen is published by both and watched by nobody.
      assert.deepEqual(await ada.call("watch", bobs.slice(0, 2)), ["3", "4"]);
      assert.deepEqual(await bob.call("watch", adas.slice(0, 2)), ["3", "4"]);
      await assertPlays(ada, 2);
      await assertPlays(bob, 2);

      assert.deepEqual(await ada.call("leave"), ["0", "1", "2", "3", "4"]);
      assert.equal(await ada.call("signaling"), "stable");
      assert.deepEqual(await activeTracks(adas[0].sessionId), []);
      await bob.call("unwatch");
      assert.deepEqual(await activeTracks(bobs[0].sessionId), ["0", "1", "2"]);

      const again = await ada.call("join", "weekly");
      await ada.call("watch", bobs.slice(0, 2));
      await bob.call("watch", again.slice(0, 2));
      await assertPlays(ada, 2);
      await assertPlays(bob, 2);
    }));
  });

  describe(`${browser} over a WHIP and WHEP gateway`, () => {
    const { open, story } = scene();

    it("what one POST publishes is played by an offer of either side", LIMIT, story(async () => {
      const publisher = await open(browser, "flows");
      await publisher.call("ingest", browser);
      for (const way of ["playByTheirs", "playByOurs"]) {
        for (const viewing of BROWSERS) {
          const player = await open(viewing, "flows");
          await player.call(way, browser);
          await assertPlays(player, 2);
          await player.close();
        }
      }
    }));
  });
}

async function activeTracks(session) {
  const { tracks } = await stage.server.session(session);
  return tracks.filter(({ status }) => status === "active").map(({ mid }) => mid);
}
