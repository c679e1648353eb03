// The relay that the tests of bad links rely on does what it is told, measured from outside.

import assert from "node:assert/strict";
import dgram from "node:dgram";
import { once } from "node:events";
import { after, before, describe, it } from "node:test";

import { sleep, until } from "./harness.js";
import { Direction, seeded, startLink } from "./impairer.js";

const LIMIT = { timeout: 60_000 };
/** On the wire, with the headers of IPv4 and UDP. */
const PACKET_BITS = 8 * 1_000;
const PAYLOAD_BYTES = 1_000 - 28;

describe("one direction of a link, on a clock of the test's", () => {
  const direction = (settings) => {
    const made = new Direction(seeded(7));
    made.set(settings);
    return made;
  };

  it("passes at its rate, and what would wait too long is lost", () => {
    const link = direction({ rateKbps: 800, queueMs: 100, delayMs: 5 });
    const arrivals = Array.from({ length: 30 }, () => link.admit(1_000, PAYLOAD_BYTES));
    // 10 ms for each packet: eleven find a wait of 100 ms at most.
    const passed = Array.from({ length: 11 }, (_, n) => 1_000 + 10 * (n + 1) + 5);
    assert.deepEqual(arrivals, [...passed, ...Array(19).fill(null)]);
    assert.equal(link.counts.overflowed, 19);
    assert.equal(link.admit(2_000, PAYLOAD_BYTES), 2_015, "the queue has drained");
  });

  it("keeps order under jitter, and breaks it for as many packets as it should", () => {
    const inversions = (settings) => {
      const link = direction(settings);
      const arrivals = Array.from({ length: 5_000 }, (_, n) => link.admit(5 * n, PAYLOAD_BYTES));
      return arrivals.filter((at, n) => n > 0 && at < arrivals[n - 1]).length;
    };
    assert.equal(inversions({ delayMs: 20, jitterMs: 40 }), 0);
    const reordered = inversions({ reorder: 0.05 });
    assert(reordered > 200 && reordered < 300, `${reordered} of 5,000 packets`);
  });

  it("refuses a setting that it does not have", () => {
    assert.throws(() => direction({ latency: 5 }), /no latency: use delayMs/);
  });
});

describe("a link of real sockets", () => {
  let server;
  let link;
  let browser;
  /** What has arrived at the server: sequence number, way in ms. */
  let arrived = [];
  let returned = [];

  before(async () => {
    server = await socket();
    link = await startLink([server.address().port], { seed: 3 });
    browser = await socket();
    server.on("message", (packet, { address, port }) => {
      arrived.push({ sequence: packet.readUInt32LE(0), way: performance.now() - packet.readDoubleLE(4) });
      packet.writeDoubleLE(performance.now(), 4);
      server.send(packet, port, address);
    });
    browser.on("message", (packet) => {
      returned.push({ sequence: packet.readUInt32LE(0), way: performance.now() - packet.readDoubleLE(4) });
    });
  });
  after(async () => {
    await link?.stop();
    for (const it of [server, browser]) it?.close();
  });

  it("loses as many packets as it should, in the direction that it should", LIMIT, async () => {
    await set({ up: { loss: 0.1 } });
    await flood(2_000, 8_000);
    const lost = 1 - arrived.length / 2_000;
    assert(lost > 0.08 && lost < 0.12, `${(100 * lost).toFixed(1)} % lost for 10 %`);
    assert.equal(returned.length, arrived.length, "the way back loses nothing");
  });

  it("takes the time that it should, and another when that changes", LIMIT, async () => {
    for (const [up, down] of [[50, 10], [10, 120]]) {
      await set({ up: { delayMs: up }, down: { delayMs: down } });
      await flood(50, 500);
      for (const [packets, ms] of [[arrived, up], [returned, down]]) {
        // A busy machine delays some, never all, and never makes it faster.
        const quickest = Math.min(...packets.map(({ way }) => way));
        assert(quickest >= ms - 1 && quickest < ms + 10, `${quickest} ms for ${ms}`);
      }
    }
  });

  it("varies the time by its jitter", LIMIT, async () => {
    await set({ up: { jitterMs: 40 } });
    // Apart by more than the jitter, so that keeping the order does not hide it.
    await flood(60, PACKET_BITS / 45);
    const ways = arrived.map(({ way }) => way).sort((a, b) => a - b);
    const [low, middle, high] = [3, 30, 56].map((rank) => ways[rank]);
    assert(low < 10 && middle > 10 && middle < 35 && high > 30, `${low}, ${middle}, ${high} ms for up to 40`);
  });

  it("passes no more than its rate, and all of that", LIMIT, async () => {
    await set({ down: { rateKbps: 1_000, queueMs: 100 } });
    const start = performance.now();
    let first;
    let last;
    browser.on("message", () => (last = performance.now()) && (first ??= last));
    await flood(500, 16_000);
    const kbps = ((returned.length - 1) * PACKET_BITS) / (last - first);
    assert(kbps > 900 && kbps < 1_050, `${kbps.toFixed(0)} kb/s for 1000`);
    const { down } = await link.counts();
    assert(down.overflowed > 100, `${down.overflowed} packets did not fit the queue`);
    assert(last > start);
    const longest = Math.max(...returned.map(({ way }) => way));
    assert(longest > 90, `the queue of 100 ms was filled to ${longest} ms`);
  });

  it("lets packets overtake each other", LIMIT, async () => {
    await set({ up: { reorder: 0.1, reorderMs: 30 } });
    await flood(500, 4_000);
    const late = arrived.filter(({ sequence }, n) => n > 0 && sequence < arrived[n - 1].sequence).length;
    assert(late > 20 && late < 80, `${late} of 500 packets for 50`);
    assert.equal(arrived.length, 500);
  });

  /** Makes the link perfect but for these settings, and forgets what came before. */
  async function set({ up = {}, down = {} }) {
    const perfect = { delayMs: 0, jitterMs: 0, loss: 0, reorder: 0, rateKbps: Infinity };
    await link.set({ up: { ...perfect, ...up }, down: { ...perfect, ...down } });
    [arrived, returned] = [[], []];
  }

  /** Sends `count` packets at `kbps`, and waits until no more come back. */
  async function flood(count, kbps) {
    const port = link.ports[server.address().port];
    const interval = PACKET_BITS / kbps;
    const start = performance.now();
    for (let sequence = 0; sequence < count; sequence++) {
      const wait = start + sequence * interval - performance.now();
      if (wait > 0.5) await sleep(wait);
      const packet = Buffer.alloc(PAYLOAD_BYTES);
      packet.writeUInt32LE(sequence, 0);
      packet.writeDoubleLE(performance.now(), 4);
      browser.send(packet, port, "127.0.0.1");
    }
    let before = -1;
    let still = 0;
    await until("the last packet", 10_000, () => {
      still = returned.length === before ? still + 1 : 0;
      before = returned.length;
      return still >= 5;
    });
  }
});

async function socket() {
  const made = dgram.createSocket({ type: "udp4", recvBufferSize: 1 << 21 });
  made.bind(0);
  await once(made, "listening");
  return made;
}
