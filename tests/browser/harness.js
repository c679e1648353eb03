// What every test needs: a server, a site that serves the test pages, browsers, and bounded waits.
//
// The site has another origin than the server, so that the tests go through CORS like any page does. Only
// processes started here are ended, by their handle.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import dgram from "node:dgram";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import esbuild from "esbuild";
import { routePartyTracksRequest } from "partytracks/server";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

import { Gateway } from "./gateway.js";

export { sleep };

const HERE = path.dirname(fileURLToPath(import.meta.url));
const SHARDS = 2;
const APP = { id: "test", secret: "a-secret-for-browser-tests" };

/** The names of the counters that tell which shard did the work. */
export const METRICS = {
  received: "fanline_rtp_packets_received_total",
  sent: "fanline_rtp_packets_sent_total",
  /** How often shards report. */
  everyMs: 1_000,
};

// ---- The server -----------------------------------------------------------------------------------------

/**
 * Starts fanline with one app; with `app: null` it makes its own development app and serves the demo. `more` are further
 * flags.
 */
export async function startServer({ app = APP, more = [] } = {}) {
  const binary = process.env.FANLINE_BIN;
  assert(binary, "FANLINE_BIN is not set: start the tests by tests/browser/run");
  const [httpPort, udpPorts] = [await freeTcpPort(), await freeUdpPorts(SHARDS)];
  const flags = ["--http", `127.0.0.1:${httpPort}`, "--udp-port", `${udpPorts[0]}`, "--shards", `${SHARDS}`, ...more];
  if (app) flags.push("--app", `${app.id}:${app.secret}`);
  // FANLINE_* are settings to the server; ours, like FANLINE_BIN, it would refuse.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("FANLINE_")));
  const child = spawn(binary, ["serve", ...flags], { env, stdio: ["ignore", "pipe", "pipe"] });
  process.once("exit", () => child.kill("SIGKILL"));
  const log = [];
  for (const output of [child.stdout, child.stderr]) output.on("data", (text) => log.push(`${text}`));

  const server = new Server(`http://127.0.0.1:${httpPort}`, udpPorts, app, child, log);
  await server.healthy();
  return server;
}

class Server {
  #child;
  #log;

  constructor(url, udpPorts, app, child, log) {
    this.url = url;
    /** In the order of shards. */
    this.udpPorts = udpPorts;
    this.app = app;
    this.#child = child;
    this.#log = log;
  }

  /** What a page needs to call the API, in the form of the demo's config.json. */
  get config() {
    return { basePath: `${this.url}/v1/apps/${this.app.id}`, token: this.app.secret };
  }

  get lastLogLines() {
    return this.#log.join("").split("\n").slice(-40).join("\n");
  }

  healthy() {
    return until("the server to be healthy", 10_000, async () => {
      assert(this.#child.exitCode === null, `the server ended:\n${this.lastLogLines}`);
      return (await fetch(`${this.url}/healthz`).catch(() => null))?.ok;
    });
  }

  /** A request below the app's path; rejects if the answer, or a track in it, is an error. */
  async call(method, path, body) {
    const headers = { Authorization: `Bearer ${this.app.secret}` };
    const response = await fetch(`${this.config.basePath}${path}`, {
      method,
      headers,
      body: body && JSON.stringify(body),
    });
    const answer = await response.json();
    const failed = answer.errorCode ? answer : answer.tracks?.find(({ errorCode }) => errorCode);
    if (failed) throw new Error(`${method} ${path} failed: ${JSON.stringify(failed)}`);
    return answer;
  }

  session(id) {
    return this.call("GET", `/sessions/${id}`);
  }

  /** The values of a counter by shard, in the order of shards. */
  async counter(name) {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    const values = Array.from({ length: SHARDS }, (_, shard) => {
      const line = text.split("\n").find((line) => line.startsWith(`${name}{shard="${shard}"}`));
      assert(line, `/metrics has no ${name} of shard ${shard}:\n${text}`);
      return Number(line.split(" ")[1]);
    });
    return values;
  }

  /** Ends all sessions: those of pages that are closed would be sent to until the server misses them. */
  async endSessions() {
    const { sessions } = await this.call("GET", "/sessions?limit=1000");
    // One may have ended by itself meanwhile.
    const end = ({ sessionId }) => this.call("DELETE", `/sessions/${sessionId}`).catch(() => {});
    await Promise.all(sessions.map(end));
  }

  async stop() {
    if (this.#child.exitCode !== null) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGTERM");
    const patience = setTimeout(() => this.#child.kill("SIGKILL"), 5_000);
    await exited;
    clearTimeout(patience);
  }
}

export async function freeTcpPort() {
  const listener = net.createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

/** `count` neighbouring UDP ports that are free now. */
async function freeUdpPorts(count) {
  for (let attempt = 0; attempt < 100; attempt++) {
    // Below 32768, where Linux begins to hand out ports by itself.
    const first = randomInt(20_000, 32_000);
    const ports = Array.from({ length: count }, (_, n) => first + n);
    if ((await Promise.all(ports.map(udpPortIsFree))).every(Boolean)) return ports;
  }
  throw new Error(`no ${count} neighbouring UDP ports are free`);
}

function udpPortIsFree(port) {
  return new Promise((resolve) => {
    const socket = dgram.createSocket("udp4");
    socket.once("error", () => resolve(false));
    socket.bind(port, () => socket.close(() => resolve(true)));
  });
}

// ---- The site -------------------------------------------------------------------------------------------

/**
 * Serves `pages/`, the demo's modules below `/demo/`, partytracks' own proxy below `/partytracks/`, and a gateway
 * for WHIP and WHEP below `/whip/`.
 */
export async function startSite(server) {
  const gateway = new Gateway(server);
  const site = http.createServer((request, response) => {
    respond(server, gateway, request, response).catch((error) => response.writeHead(500).end(`${error.stack}`));
  });
  site.listen(0, "127.0.0.1");
  await once(site, "listening");
  return {
    url: `http://127.0.0.1:${site.address().port}`,
    stop() {
      site.closeAllConnections();
      site.close();
    },
  };
}

async function respond(server, gateway, request, response) {
  const { pathname } = new URL(request.url, "http://site");
  if (pathname.startsWith("/partytracks/")) return proxyPartyTracks(server, request, response);
  if (pathname.startsWith("/whip/")) return gateway.respond(request, response);
  const demo = pathname.match(/^\/demo\/([\w-]+\.js)$/);
  const file = demo
    ? path.join(HERE, "../../src/demo/static", demo[1])
    : path.join(HERE, "pages", path.basename(pathname));
  const type = pathname.endsWith(".js") ? "text/javascript" : "text/html";
  const read = pathname === "/partytracks-page.js" ? bundle : readFile;
  const body = await read(file).catch((error) => (error.code === "ENOENT" ? null : Promise.reject(error)));
  if (body === null) return response.writeHead(404).end();
  response.writeHead(200, { "Content-Type": `${type}; charset=utf-8` }).end(body);
}

async function bundle(file) {
  const result = await esbuild.build({ entryPoints: [file], bundle: true, format: "esm", write: false });
  return result.outputFiles[0].text;
}

/** Hands requests to partytracks' server half, which adds the token and calls our API. */
async function proxyPartyTracks(server, request, response) {
  let body = "";
  for await (const piece of request) body += piece;
  const headers = new Headers(request.headers);
  // They belong to the connection between browser and proxy; fetch writes its own.
  for (const hop of ["host", "connection", "transfer-encoding"]) headers.delete(hop);
  const answer = await routePartyTracksRequest({
    appId: server.app.id,
    token: server.app.secret,
    realtimeApiBaseUrl: `${server.url}/v1`,
    prefix: "/partytracks",
    // A plain object: Node's fetch refuses the stream that the body of a real Request would be.
    request: { url: `http://site${request.url}`, method: request.method, headers, body },
  });
  const type = answer.headers.get("content-type") ?? "text/plain";
  response.writeHead(answer.status, { "Content-Type": type }).end(await answer.text());
}

// ---- Browsers -------------------------------------------------------------------------------------------

const CHROMIUM_FLAGS = [
  "--no-sandbox",
  "--use-fake-ui-for-media-stream",
  "--use-fake-device-for-media-stream",
  "--autoplay-policy=no-user-gesture-required",
  "--disable-background-networking",
];

const FIREFOX_PREFERENCES = {
  "media.navigator.streams.fake": true,
  "media.navigator.permission.disabled": true,
  "media.autoplay.default": 0,
  // A real address in place of an mDNS name, which nobody resolves in a test environment.
  "media.peerconnection.ice.obfuscate_host_addresses": false,
  "app.update.enabled": false,
  "toolkit.telemetry.enabled": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "network.trr.mode": 5,
};

/** `browsers.chromium.open(url)` and `browsers.firefox.open(url)`, each started at its first use. */
export class Browsers {
  #started = new Map();
  chromium = { open: (url) => this.#open("chromium", startChromium, url) };
  firefox = { open: (url) => this.#open("firefox", startFirefox, url) };

  async #open(name, start, url) {
    if (!this.#started.has(name)) this.#started.set(name, await start());
    const page = await this.#started.get(name).newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(`${error}`));
    await page.goto(url);
    return new Page(name, page, errors);
  }

  async stop() {
    await Promise.all([...this.#started.values()].map((browser) => browser.close()));
  }
}

function startChromium() {
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  return chromium.launch({ executablePath, args: CHROMIUM_FLAGS });
}

/** The stock binary over WebDriver BiDi. */
function startFirefox() {
  return puppeteer.launch({
    browser: "firefox",
    executablePath: process.env.FIREFOX || "/usr/bin/firefox-esr",
    headless: true,
    extraPrefsFirefox: FIREFOX_PREFERENCES,
  });
}

/** A page of either browser. `call` runs a function of `window.page` that the test page defines. */
export class Page {
  constructor(browserName, handle, errors) {
    this.browserName = browserName;
    /** Playwright's or Puppeteer's page: the few methods used here have the same form in both. */
    this.handle = handle;
    this.errors = errors;
    this.isOpen = true;
  }

  call(name, ...args) {
    const run = ([name, args]) => window.page[name](...args);
    return this.handle.evaluate(run, [name, args]);
  }

  async close() {
    if (!this.isOpen) return;
    this.isOpen = false;
    await this.handle.close();
  }
}

// ---- Waiting and explaining -----------------------------------------------------------------------------

const POLL_MS = 100;

/** Polls `probe` until it gives something true, and returns that. `what` completes "waited for …". */
export async function until(what, limitMs, probe) {
  const deadline = Date.now() + limitMs;
  let last;
  while (Date.now() < deadline) {
    last = await probe();
    if (last) return last;
    await sleep(POLL_MS);
  }
  throw new Error(`waited ${limitMs / 1000} s for ${what}`);
}

/** Runs `story`; if it fails, or a page threw meanwhile, prints what the pages and the server saw. */
export async function explained({ server, pages }, story) {
  try {
    await story();
    for (const page of pages) assert.deepEqual(page.errors, []);
  } catch (error) {
    for (const page of pages) await explain(page);
    console.error(`--- server\n${server.lastLogLines}`);
    throw error;
  }
}

async function explain(page) {
  if (!page.isOpen) return;
  const diagnosis = await page.call("diagnosis").catch((reason) => ({ none: `${reason}` }));
  const lines = Object.entries(diagnosis).flatMap(([name, value]) =>
    [value].flat().map((item) => `${name}: ${JSON.stringify(item)}`),
  );
  console.error(`--- ${page.browserName}\n${[...page.errors, ...lines].join("\n")}`);
}

/** What of a track must be decoded, and in which time once its first picture or sample is there. */
const LIVE = { frames: 15, samples: 48_000, withinMs: 6_000 };

/**
 * Every received track must be decoded at a live pace: fake cameras give 20 to 30 pictures a second, sound has
 * 48,000 samples (concealed ones are not counted). A busy machine may take a few times as long, and is not waited
 * for longer than that.
 */
export async function assertPlays(page, count) {
  const started = ({ frames, samples }) => frames > 0 || samples > 0;
  const before = await until(`${page.browserName} to decode ${count} tracks`, 20_000, async () => {
    const received = await page.call("received");
    return received.length === count && received.every(started) && received;
  });
  let after;
  const isLive = ({ kind, frames, samples, energy }, i) =>
    kind === "video"
      ? frames - before[i].frames >= LIVE.frames
      : samples - before[i].samples >= LIVE.samples && energy > before[i].energy;
  await until(`${page.browserName} to decode them at a live pace`, LIVE.withinMs, async () => {
    after = await page.call("received");
    return after.every(isLive);
  }).catch((error) => {
    throw new Error(`${error.message}: ${JSON.stringify({ before, after })}`);
  });
}
