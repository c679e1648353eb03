// The unmodified npm package `partytracks`: its client in the pages, its server half as the proxy.

import { describe, it } from "node:test";

import { assertPlays, until } from "./harness.js";
import { scene } from "./stage.js";

const PAIRINGS = [
  ["chromium", "chromium"],
  ["firefox", "firefox"],
  ["chromium", "firefox"],
];
const LIMIT = { timeout: 120_000 };

for (const [first, second] of PAIRINGS) {
  describe(`partytracks in ${first} and ${second}`, () => {
    const { open, pages, story } = scene();
    let metadata;

    it("one page plays what the other pushes", LIMIT, story(async () => {
      for (const name of [first, second]) await open(name, "partytracks");
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

for (const [first, second] of [
  ["chromium", "firefox"],
  ["firefox", "chromium"],
]) {
  describe(`a simulcast of partytracks in ${first}, pulled in ${second}`, () => {
    const { open, story } = scene();

    it("the picture has the size that is preferred, and follows when another is", LIMIT, story(async () => {
      const ada = await open(first, "partytracks");
      const bob = await open(second, "partytracks");
      const metadata = await ada.call("publishSimulcast");
      await bob.call("pullSimulcast", metadata);
      await until("three encodings", 60_000, async () => {
        const { f, h, q } = await ada.call("sent");
        return [f, h, q].every((encoding) => encoding?.frames > 10);
      });
      for (const rid of ["q", "f", "h", "q"]) {
        await bob.call("prefer", rid);
        await until(`pictures of encoding ${rid}`, 20_000, async () => {
          const [sent, [video]] = [await ada.call("sent"), await bob.call("received")];
          return video.height === sent[rid].height;
        });
      }
      await assertPlays(bob, 1);
    }));
  });
}

async function assertPictureMoves(page) {
  const [before] = await until("a picture", 10_000, async () => {
    const pictures = await page.call("pictures");
    return pictures.length > 0 && pictures;
  });
  await until(`the picture to move on from ${before.currentTime} s`, 5_000, async () => {
    const [after] = await page.call("pictures");
    return after.currentTime > before.currentTime;
  });
}
