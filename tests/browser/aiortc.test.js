// aiortc publishes to browsers, pulls from them, and does both on one connection: the implementation in Python, with
// another SDP, ICE, DTLS and SRTP than any browser's.

import { describe, it } from "node:test";

import { AiortcPeer } from "./aiortc.js";
import { assertPlays } from "./harness.js";
import { scene, stage } from "./stage.js";

const LIMIT = { timeout: 90_000 };

describe("aiortc", () => {
  const { open, pages, story } = scene();

  async function openAiortc() {
    const peer = new AiortcPeer();
    pages.push(peer);
    await peer.call("open", stage.server.config);
    return peer;
  }

  for (const browser of ["chromium", "firefox"]) {
    it(`sends sound and pictures to ${browser} and gets its own, on one connection`, LIMIT, story(async () => {
      const python = await openAiortc();
      const page = await open(browser, "peer");
      await page.call("pull", await python.call("publish"));
      await assertPlays(page, 2);
      await python.call("pull", await page.call("publish"));
      await assertPlays(python, 2);
      await assertPlays(page, 2);
    }));
  }

  it("pulls without publishing, from aiortc too", LIMIT, story(async () => {
    const [publisher, subscriber] = [await openAiortc(), await openAiortc()];
    await subscriber.call("pull", await publisher.call("publish"));
    await assertPlays(subscriber, 2);
  }));

  // Firefox has no decoder for it without a download.
  it("sends H.264 to chromium", LIMIT, story(async () => {
    const python = await openAiortc();
    const page = await open("chromium", "peer");
    await page.call("pull", await python.call("publish", "video/H264"));
    await assertPlays(page, 2);
  }));
});
