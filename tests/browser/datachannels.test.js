// Browsers publish data channels and subscribe to them, established by the server's offer and by their own.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { until } from "./harness.js";
import { scene } from "./stage.js";

/** Who publishes, and who subscribes. */
const CASTS = [
  ["chromium", ["chromium", "firefox"]],
  ["firefox", ["firefox", "chromium"]],
];
const LIMIT = { timeout: 60_000 };
const SIZES = [1, 60_000, 200_000];

for (const establish of ["establishByTheirs", "establishByOurs"]) {
  for (const [publishing, subscribing] of CASTS) {
    describe(`${establish}: ${publishing} to ${subscribing.join(" and ")}`, () => {
      const { open, story } = scene();

      /** Resolves to a page with an established transport, and its session. */
      async function establishedPage(browser) {
        const page = await open(browser, "datachannels");
        assert.equal(await page.call(establish), "server-events");
        return [page, await page.call("session")];
      }

      it("text, binary and large messages arrive intact and in order", LIMIT, story(async () => {
        const [publisher, session] = await establishedPage(publishing);
        await publisher.call("channel", { location: "local", dataChannelName: "chat" });
        const subscribers = [];
        for (const browser of subscribing) {
          const [subscriber] = await establishedPage(browser);
          await subscriber.call("channel", remote(session, "chat"));
          subscribers.push(subscriber);
        }
        const expected = ["grüße"];
        await publisher.call("say", "chat", "grüße");
        for (const size of SIZES) expected.push(await publisher.call("sayBytes", "chat", size));
        for (const subscriber of subscribers) await hears(subscriber, "chat", expected);
        await subscribers[0].call("say", "chat", "nobody asked");
        await publisher.call("say", "chat", "last");
        await hears(subscribers[1], "chat", [...expected, "last"]);
        assert.deepEqual(await publisher.call("heard", "chat"), []);
      }));

      it("an unreliable channel waits for its subscriber and takes its reply", LIMIT, story(async () => {
        const policy = { ordered: false, maxRetransmits: 0 };
        const [publisher, session] = await establishedPage(publishing);
        await publisher.call("channel", { location: "local", dataChannelName: "state", ...policy });
        const [subscriber] = await establishedPage(subscribing[1]);
        const wish = { waitForAck: true, canReply: true, ...policy };
        await subscriber.call("channel", { ...remote(session, "state"), ...wish });
        await publisher.call("say", "state", "early");
        await subscriber.call("say", "state", "ready");
        await hears(subscriber, "state", ["early"]);
        await subscriber.call("say", "state", "a reply");
        await hears(publisher, "state", ["a reply"]);
      }));
    });
  }
}

function remote(sessionId, dataChannelName) {
  return { location: "remote", sessionId, dataChannelName };
}

async function hears(page, name, expected) {
  let heard;
  await until(`${page.browserName} to hear ${expected.length} messages`, 10_000, async () => {
    heard = await page.call("heard", name);
    return heard.length >= expected.length && heard.every((message) => message !== null);
  });
  assert.deepEqual(heard, expected);
}
