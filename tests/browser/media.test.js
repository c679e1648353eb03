// Browsers publish to fanline and decode what they pull from it, in every pairing.

import assert from "node:assert/strict";
import { before, describe, it } from "node:test";

import { METRICS, assertPlays, sleep, until } from "./harness.js";
import { scene, stage } from "./stage.js";

const PAIRINGS = [
  ["chromium", "chromium"],
  ["firefox", "firefox"],
  ["chromium", "firefox"],
];
const LIMIT = { timeout: 60_000 };
/** Sessions are spread over the shards; this many in a row on one shard would be no spreading. */
const SESSIONS_UNTIL_OTHER_SHARD = 4;

for (const [first, second] of PAIRINGS) {
  describe(`${first} and ${second}`, () => {
    const { open, story } = scene();
    let ada;
    let bob;
    let adasTracks;
    let adasSession;
    let bobsSession;

    before(async () => {
      ada = await open(first, "peer");
      bob = await open(second, "peer");
    });

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
    const { open, story } = scene();

    it("a page publishes and pulls its own tracks over one connection", LIMIT, story(async () => {
      const page = await open(name, "peer");
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
    const { open, story } = scene();

    it("media crosses from shard to shard", LIMIT, story(async () => {
      const publisher = await open(first, "peer");
      const tracks = await publisher.call("publish");
      for (let subscribers = 0; subscribers < SESSIONS_UNTIL_OTHER_SHARD; subscribers++) {
        const subscriber = await open(second, "peer");
        await subscriber.call("pull", tracks);
        await assertPlays(subscriber, 2);
        const { sent, received } = await busyShards();
        assert.equal(received, 1, "the publisher is on one shard");
        if (sent === 2) return;
      }
      assert.fail(`${SESSIONS_UNTIL_OTHER_SHARD} subscribers all landed on the publisher's shard`);
    }));
  });
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
  const { tracks } = await stage.server.session(session);
  const active = tracks.filter(({ location, status }) => location === "remote" && status === "active");
  assert.deepEqual(active, []);
}

async function assertFlowStops(page) {
  let before;
  let still = 0;
  await until("the packets to stop", 8_000, async () => {
    const bytes = JSON.stringify((await page.call("received")).map(({ bytes }) => bytes));
    still = bytes === before ? still + 1 : 0;
    before = bytes;
    return still >= 8;
  });
}

/** How many shards send RTP, and how many receive it. */
async function busyShards() {
  const read = async () => Promise.all([METRICS.sent, METRICS.received].map((name) => stage.server.counter(name)));
  const before = await read();
  await sleep(METRICS.everyMs * 2);
  const rises = (await read()).map((values, i) => values.map((value, shard) => value - before[i][shard]));
  const [sent, received] = rises.map((shards) => shards.filter((rise) => rise > 10).length);
  return { sent, received };
}
