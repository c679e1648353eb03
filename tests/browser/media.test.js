// Browsers publish to fanline and decode what they pull from it, in every pairing.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { Browsers, METRICS, startServer, startSite } from "./harness.js";
import { assertPlays, explained, sleep, until } from "./harness.js";

const PAIRINGS = [
  ["chromium", "chromium"],
  ["firefox", "firefox"],
  ["chromium", "firefox"],
];
const LIMIT = { timeout: 60_000 };
/** Sessions are spread over the shards; this many in a row on one shard would be no spreading. */
const SESSIONS_UNTIL_OTHER_SHARD = 4;

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
  describe(`${first} and ${second}`, () => {
    let ada;
    let bob;
    let adasTracks;
    let adasSession;
    let bobsSession;

    before(async () => {
      ada = await openPeer(first);
      bob = await openPeer(second);
    });
    after(() => Promise.all([ada?.close(), bob?.close()]));
    const story = (tell) => () => explained({ server, pages: [ada, bob].filter(Boolean) }, tell);

    it("two pages see and hear each other, each over one connection", LIMIT, story(async () => {
      adasTracks = await ada.call("publish");
      const bobsTracks = await bob.call("publish");
      bobsSession = await bob.call("pull", adasTracks);
      adasSession = await ada.call("pull", bobsTracks);
      await assertPlays(bob, 2);
      await assertPlays(ada, 2);
      await assertSameSize(ada, bob);
      await assertSameSize(bob, ada);
    }));

    it("a negotiated close ends the tracks, and they can be pulled again", LIMIT, story(async () => {
      await bob.call("closePulled");
      await assertNoneActive(bobsSession);
      await bob.call("pull", adasTracks);
      await assertPlays(bob, 2);
    }));

    it("a forced close ends the media, and the tracks can be pulled again", LIMIT, story(async () => {
      await bob.call("forceClosePulled");
      await assertNoneActive(bobsSession);
      await assertFlowStops(bob);
      await bob.call("pull", adasTracks);
      await assertPlays(bob, 2);
    }));

    it("a publisher that closed its tracks publishes anew on the same connection", LIMIT, story(async () => {
      await ada.call("unpublish");
      await bob.call("closePulled");
      const anew = await ada.call("publish", "again-");
      assert.equal(anew[0].sessionId, adasSession);
      await bob.call("pull", anew);
      await assertPlays(bob, 2);
      // What was pulled before goes on through the publisher's renegotiations.
      await assertPlays(ada, 2);
    }));
  });
}

for (const name of ["chromium", "firefox"]) {
  describe(`${name} alone`, () => {
    let page;
    before(async () => (page = await openPeer(name)));
    after(() => page?.close());

    it("a page publishes and pulls its own tracks over one connection", LIMIT, () =>
      explained({ server, pages: [page] }, async () => {
        const tracks = await page.call("publish");
        const session = await page.call("pull", tracks);
        assert.equal(session, tracks[0].sessionId);
        await assertPlays(page, 2);
        await assertSameSize(page, page);
      }));
  });
}

for (const [first, second] of PAIRINGS) {
  describe(`${first} on one shard and ${second} on the other`, () => {
    const pages = [];
    after(() => Promise.all(pages.map((page) => page.close())));

    it("media crosses from shard to shard", LIMIT, () =>
      explained({ server, pages }, async () => {
        const publisher = await openPeer(first);
        pages.push(publisher);
        const tracks = await publisher.call("publish");
        const home = busiest(await server.rise(METRICS.received, 2_500));

        for (let attempt = 0; attempt < SESSIONS_UNTIL_OTHER_SHARD; attempt++) {
          const subscriber = await openPeer(second);
          pages.push(subscriber);
          await subscriber.call("pull", tracks);
          await assertPlays(subscriber, 2);
          const sent = await server.rise(METRICS.sent, 2_500);
          if (busiest(sent) !== home) {
            const received = await server.rise(METRICS.received, 2_500);
            assert.equal(busiest(received), home, `the publisher moved: ${received}`);
            return;
          }
          // Otherwise the shard goes on sending to the closed page until it notices.
          await subscriber.call("forceClosePulled");
          await pages.pop().close();
        }
        assert.fail(`${SESSIONS_UNTIL_OTHER_SHARD} subscribers all landed on the publisher's shard ${home}`);
      }));
  });
}

async function openPeer(browser) {
  const page = await browsers[browser].open(`${site.url}/peer.html`);
  await page.call("open", server.config);
  return page;
}

/** The size follows the publisher's bandwidth estimate, so both ends are read until they agree. */
async function assertSameSize(publisher, subscriber) {
  let sizes;
  await until("published and pulled pictures of one size", 10_000, async () => {
    const [sent, received] = await Promise.all([publisher.call("sent"), subscriber.call("received")]);
    sizes = [sent, received].map((tracks) => tracks.find(({ kind }) => kind === "video"));
    const [out, into] = sizes;
    return into.width > 0 && out.width === into.width && out.height === into.height;
  }).catch((error) => {
    throw new Error(`${error.message}: ${JSON.stringify(sizes)}`);
  });
}

async function assertNoneActive(session) {
  const { tracks } = await server.session(session);
  const active = tracks.filter(({ location, status }) => location === "remote" && status === "active");
  assert.deepEqual(active, []);
}

async function assertFlowStops(page) {
  await until("the packets to stop", 5_000, async () => {
    const before = await page.call("received");
    await sleep(1_000);
    const after = await page.call("received");
    return after.every(({ bytes }, i) => bytes === before[i].bytes);
  });
}

function busiest(rises) {
  const most = Math.max(...rises);
  assert(most > 10, `no shard moved packets: ${rises}`);
  return rises.indexOf(most);
}
