// The demo room at /demo, as a visitor uses it.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import { startServer, until } from "./harness.js";
import { stage } from "./stage.js";

const LIMIT = { timeout: 60_000 };
const pages = [];
let server;

describe("the demo room", () => {
  // Without an app of ours the server makes its own, and only then serves the demo.
  before(async () => (server = await startServer({ app: null })));
  after(async () => {
    await Promise.all(pages.splice(0).map((page) => page.close()));
    await server?.stop();
  });

  it("two visitors see each other, a third listens, and a camera goes off and on", LIMIT, async () => {
    const ada = await visit("Ada", "both");
    const bob = await visit("Bob", "both");
    await assertSees(ada, ["Bob"]);
    await assertSees(bob, ["Ada"]);

    const lee = await visit("Lee", "none");
    await assertSees(lee, ["Ada", "Bob"]);
    await screenshot(ada, "demo-light.png", "light");
    await screenshot(lee, "demo-dark.png", "dark");
    await assertFigures(bob, "Ada");

    await ada.handle.click("#camera");
    await until("Ada's camera to go off", 10_000, async () => (await tileOf(bob, "Ada")).isDark);
    await ada.handle.click("#camera");
    await assertSees(bob, ["Ada"]);
    await assertSees(lee, ["Ada"]);

    await ada.handle.click("#microphone");
    await until("Ada to be shown as muted", 5_000, async () => (await tileOf(bob, "Ada")).badge === "muted");

    await ada.handle.click("#leave");
    await until("Ada to be gone", 5_000, async () => !(await tileOf(bob, "Ada")));
    assert.deepEqual([ada, bob, lee].flatMap(({ errors }) => errors), []);
  });

  it("says so when the server goes away", LIMIT, async () => {
    const eve = await visit("Eve", "audio");
    await server.stop();
    await until("a message", 10_000, async () => /cannot be reached|lost/.test(await status(eve)));
  });
});

async function visit(name, role) {
  const page = await stage.browsers.chromium.open(`${server.url}/demo#browser-test`);
  pages.push(page);
  await page.handle.fill("#name", name);
  await page.handle.check(`input[value=${role}]`);
  await page.handle.click("#enter");
  await until(`${name} to be in the room`, 15_000, () => tileOf(page, `${name} (you)`)).catch(explain(page));
  return page;
}

async function assertSees(page, names) {
  for (const name of names) {
    const seen = await until(`a picture of ${name}`, 15_000, async () => {
      const tile = await tileOf(page, name);
      return tile?.videoWidth > 0 && !tile.isDark && tile;
    }).catch(explain(page));
    await until(`the picture of ${name} to move on from ${seen.currentTime} s`, 5_000, async () => {
      return (await tileOf(page, name)).currentTime > seen.currentTime;
    });
  }
}

/** Bit rate and picture size of what is received are shown, as numbers. */
async function assertFigures(page, name) {
  await until(`figures of ${name}`, 5_000, async () => {
    const { figures } = await tileOf(page, name);
    const [audio, video] = ["audio", "video"].map((kind) => figures.find(([first]) => first === kind));
    return Number(audio?.[1]) > 0 && Number(video?.[1]) > 0 && /^\d+×\d+$/.test(video[5]);
  });
}

function tileOf(page, wanted) {
  return page.handle.evaluate((wanted) => {
    const tiles = [...document.querySelectorAll(".tile")];
    const tile = tiles.find((it) => it.querySelector(".name").textContent === wanted);
    if (!tile) return null;
    const { videoWidth, currentTime } = tile.querySelector("video");
    const badge = tile.querySelector(".badge");
    const rows = [...tile.querySelectorAll("tbody tr")];
    return {
      videoWidth,
      currentTime,
      isDark: tile.classList.contains("dark"),
      badge: badge.hidden ? "" : badge.textContent,
      figures: rows.map((row) => [...row.cells].map(({ textContent }) => textContent)),
    };
  }, wanted);
}

function status(page) {
  return page.handle.evaluate(() => document.querySelector("#status").textContent);
}

async function screenshot(page, name, colorScheme) {
  const directory = process.env.FANLINE_SHOTS;
  if (!directory) return;
  await mkdir(directory, { recursive: true });
  await page.handle.emulateMedia({ colorScheme });
  await page.handle.screenshot({ path: path.join(directory, name) });
}

function explain(page) {
  return async (error) => {
    const text = await page.handle.evaluate(() => document.body.innerText);
    const shown = `--- page\n${text}\n${page.errors}\n--- server\n${server.lastLogLines}`;
    throw new Error(`${error.message}\n${shown}`);
  };
}
