// A bad link between browsers and the server: a UDP relay in a process of its own, so that the tests' work does not
// delay its timers. It relays each of the server's ports by one of its own, on all addresses of the host; a page
// that is to use it replaces the ports in the candidates of the server's descriptions (pages/client.js).
//
// Run as a program, it is the relay; its parent speaks to it in messages. As a module, it is the parent's side.

import { fork } from "node:child_process";
import dgram from "node:dgram";
import { once } from "node:events";
import { networkInterfaces } from "node:os";
import { fileURLToPath } from "node:url";

/** The server tells browsers the address that it sees them at, and Firefox fails if that is of the loopback. */
const HOST =
  Object.values(networkInterfaces())
    .flat()
    .find(({ family, internal }) => family === "IPv4" && !internal)?.address ?? "127.0.0.1";

/** What IPv4 and UDP add to a datagram on the wire. */
const OVERHEAD_BYTES = 28;

/**
 * What a link does in one direction. The defaults are a perfect link.
 * - `delayMs`: every packet takes this long, and up to `jitterMs` more; order is kept
 * - `loss`, 0 to 1: packets lost at random
 * - `reorder`, 0 to 1: packets that take `reorderMs` longer, and are overtaken
 * - `rateKbps`: what passes in a second, headers included; packets wait for it in a queue, and are lost if the
 *   wait is longer than `queueMs`
 */
export const PERFECT = {
  delayMs: 0,
  jitterMs: 0,
  loss: 0,
  reorder: 0,
  reorderMs: 30,
  rateKbps: Infinity,
  queueMs: 200,
};

/** One direction of a link, on a clock of the caller's. `random` gives 0 to 1. */
export class Direction {
  counts = { passed: 0, lost: 0, overflowed: 0, reordered: 0, bytes: 0 };
  #settings = PERFECT;
  #random;
  /** When the last packet has left the queue, and when the last one in order arrives. */
  #freeAt = 0;
  #lastAt = 0;

  constructor(random = Math.random) {
    this.#random = random;
  }

  /** Changes what is named, from the next packet on. */
  set(settings) {
    const unknown = Object.keys(settings).filter((name) => !(name in PERFECT));
    if (unknown.length > 0) throw new Error(`a link has no ${unknown}: use ${Object.keys(PERFECT)}`);
    this.#settings = { ...this.#settings, ...settings };
  }

  /** When a packet of `bytes` that comes at `now` arrives, in ms; null if it never does. */
  admit(now, bytes) {
    const { delayMs, jitterMs, loss, reorder, reorderMs, rateKbps, queueMs } = this.#settings;
    if (this.#random() < loss) return this.#drop("lost");
    const start = Math.max(now, this.#freeAt);
    if (start - now > queueMs) return this.#drop("overflowed");
    this.#freeAt = start + (8 * (bytes + OVERHEAD_BYTES)) / rateKbps;
    this.counts.passed += 1;
    this.counts.bytes += bytes;
    const at = this.#freeAt + delayMs + jitterMs * this.#random();
    if (this.#random() < reorder) {
      this.counts.reordered += 1;
      return at + reorderMs;
    }
    this.#lastAt = Math.max(this.#lastAt, at);
    return this.#lastAt;
  }

  #drop(reason) {
    this.counts[reason] += 1;
    return null;
  }
}

/** Numbers of 0 to 1 that are the same for the same seed (mulberry32). */
export function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// ---- The parent's side ----------------------------------------------------------------------------------

/** Starts a relay to these UDP ports of this host. `up` and `down` are what it does at first. */
export async function startLink(ports, { up = {}, down = {}, seed = 1 } = {}) {
  const child = fork(fileURLToPath(import.meta.url), { execArgv: [], serialization: "advanced" });
  process.once("exit", () => child.kill("SIGKILL"));
  const link = new Link(child);
  link.ports = await link.ask({ start: { ports, seed } });
  await link.set({ up, down });
  return link;
}

class Link {
  /** The server's ports → the relay's. */
  ports;
  #child;
  #queue = Promise.resolve();

  constructor(child) {
    this.#child = child;
  }

  /** Changes what the link does, from now on: `{ up, down }`, towards the server and from it. */
  set(directions) {
    return this.ask({ set: directions });
  }

  /** `{ up, down }` of packets passed, lost at random, lost to a full queue, and reordered, and of bytes passed. */
  counts() {
    return this.ask({ counts: true });
  }

  ask(order) {
    const answer = this.#queue.then(async () => {
      if (this.#child.exitCode !== null) throw new Error("the relay has ended");
      this.#child.send(order);
      const ended = once(this.#child, "exit").then(() => [{ error: "the relay has ended" }]);
      const [{ result, error }] = await Promise.race([once(this.#child, "message"), ended]);
      if (error) throw new Error(error);
      return result;
    });
    this.#queue = answer.catch(() => {});
    return answer;
  }

  async stop() {
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }
}

// ---- The relay ------------------------------------------------------------------------------------------

/** Packets that are under way, by their time of arrival. */
class UnderWay {
  #packets = [];
  #timer = null;

  /** `deliver` is called at `at`, a time of `performance.now`. */
  add(at, deliver) {
    if (at <= performance.now() && this.#packets.length === 0) return deliver();
    // Almost all packets come last.
    let place = this.#packets.length;
    while (place > 0 && this.#packets[place - 1].at > at) place -= 1;
    this.#packets.splice(place, 0, { at, deliver });
    if (place === 0) this.#wait();
  }

  #wait() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const now = performance.now();
      const due = this.#packets.findIndex(({ at }) => at > now);
      const arrived = this.#packets.splice(0, due < 0 ? this.#packets.length : due);
      for (const { deliver } of arrived) deliver();
      if (this.#packets.length > 0) this.#wait();
    }, this.#packets[0].at - performance.now());
  }
}

class Relay {
  #directions;
  #underWay = { up: new UnderWay(), down: new UnderWay() };

  constructor(seed) {
    this.#directions = { up: new Direction(seeded(seed)), down: new Direction(seeded(seed + 1)) };
  }

  get counts() {
    return { up: this.#directions.up.counts, down: this.#directions.down.counts };
  }

  set(settings) {
    for (const [name, changed] of Object.entries(settings)) this.#directions[name].set(changed);
  }

  /** Relays one port of the server; resolves to the port in its place. */
  async open(serverPort) {
    const front = await bound("0.0.0.0");
    /** A socket to the server for every address of a browser. */
    const backs = new Map();
    front.on("message", async (packet, { address, port }) => {
      const from = `${address}:${port}`;
      if (!backs.has(from)) backs.set(from, this.#back(front, address, port));
      const back = await backs.get(from);
      this.#pass("up", packet, () => back.send(packet, serverPort, HOST));
    });
    return front.address().port;
  }

  async #back(front, address, port) {
    const back = await bound(HOST);
    back.on("message", (packet) => this.#pass("down", packet, () => front.send(packet, port, address)));
    return back;
  }

  #pass(direction, packet, deliver) {
    const at = this.#directions[direction].admit(performance.now(), packet.length);
    if (at !== null) this.#underWay[direction].add(at, deliver);
  }
}

async function bound(address) {
  const socket = dgram.createSocket({ type: "udp4", recvBufferSize: 1 << 20, sendBufferSize: 1 << 20 });
  // A browser that is gone answers by ICMP; the next packet is none the worse.
  socket.on("error", () => {});
  socket.bind(0, address);
  await once(socket, "listening");
  return socket;
}

function obeyParent() {
  let relay;
  const carryOut = async ({ start, set }) => {
    if (start) {
      relay = new Relay(start.seed);
      const pairs = start.ports.map(async (port) => [port, await relay.open(port)]);
      return Object.fromEntries(await Promise.all(pairs));
    }
    if (set) return relay.set(set);
    return relay.counts;
  };
  process.on("message", (order) =>
    carryOut(order).then(
      (result) => process.send({ result }),
      (error) => process.send({ error: `${error.stack}` }),
    ),
  );
  process.on("disconnect", () => process.exit());
}

if (process.send && process.argv[1] === fileURLToPath(import.meta.url)) obeyParent();
