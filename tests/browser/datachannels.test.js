// Browsers publish data channels and subscribe to them, established by the server's offer and by their own.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";

import { Browsers, explained, startServer, startSite, until } from "./harness.js";

/** Who publishes, and who subscribes. */
const CASTS = [
  ["chromium", ["chromium", "firefox"]],
  ["firefox", ["firefox", "chromium"]],
];
const LIMIT = { timeout: 60_000 };
const SIZES = [1, 60_000, 200_000];

let server;
let site;
let pages = [];
const browsers = new Browsers();

before(async () => {
  server = await startServer();
  site = await startSite(server);
});
afterEach(async () => {
  await Promise.all(pages.map((page) => page.close()));
  pages = [];
});
after(async () => {
  await browsers.stop();
  site?.stop();
  await server?.stop();
});

for (const establish of ["establishByTheirs", "establishByOurs"]) {
  for (const [publishing, subscribing] of CASTS) {
    describe(`${establish}: ${publishing} to ${subscribing.join(" and ")}`, () => {
      it("text, binary and large messages arrive intact and in order", LIMIT, () =>
        explained({ server, pages }, async () => {
          const [publisher, session] = await open(publishing, establish);
          await publisher.call("channel", { location: "local", dataChannelName: "chat" });
          const subscribers = [];
          for (const browser of subscribing) {
            const [subscriber] = await open(browser, establish);
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

      it("an unreliable channel waits for its subscriber and takes its reply", LIMIT, () =>
        explained({ server, pages }, async () => {
          const policy = { ordered: false, maxRetransmits: 0 };
          const [publisher, session] = await open(publishing, establish);
          await publisher.call("channel", { location: "local", dataChannelName: "state", ...policy });
          const [subscriber] = await open(subscribing[1], establish);
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

async function open(browser, establish) {
  const page = await browsers[browser].open(`${site.url}/datachannels.html`);
  pages.push(page);
  const session = await page.call("open", server.config);
  assert.equal(await page.call(establish), "server-events");
  return [page, session];
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
