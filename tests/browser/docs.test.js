// The worked example of docs/api.md, taken from the page as it stands: its backend, and its page in two browsers.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";

import { freeTcpPort, until } from "./harness.js";
import { scene, stage } from "./stage.js";

const LIMIT = { timeout: 90_000 };
const DOCUMENT = new URL("../../docs/api.md", import.meta.url);

/** Writes each block of code that a line with its file's name precedes into `directory`. */
async function extract(directory) {
  const text = await readFile(DOCUMENT, "utf8");
  const blocks = [...text.matchAll(/^`([\w.-]+)`:\n\n```\w+\n(.*?)^```$/gms)];
  for (const [, name, code] of blocks) await writeFile(path.join(directory, name), code);
  return blocks.map(([, name]) => name);
}

describe("the worked example of the API page", () => {
  const { pages, story } = scene();
  let directory, backend, url;

  before(async () => {
    directory = await mkdtemp(path.join(tmpdir(), "fanline-docs-"));
    assert.deepEqual(await extract(directory), ["call-server.mjs", "call.html"]);
    const port = await freeTcpPort();
    const { app } = stage.server;
    const env = { ...process.env, SFU: stage.server.url, APP: app.id, SECRET: app.secret, PORT: `${port}` };
    backend = spawn(process.execPath, [path.join(directory, "call-server.mjs")], { env, stdio: "inherit" });
    url = `http://127.0.0.1:${port}/`;
    await until("the backend to listen", 10_000, () => fetch(url).then(({ ok }) => ok, () => false));
  });
  after(async () => {
    if (backend?.exitCode === null) {
      backend.kill();
      await once(backend, "exit");
    }
    if (directory) await rm(directory, { recursive: true });
  });

  async function enter(browser) {
    const page = await stage.browsers[browser].open(`${url}#test`);
    pages.push(page);
    return page;
  }

  /** Both tracks of the other are there and play. */
  function sees(page) {
    return until(`${page.browserName} to see the other`, 40_000, () =>
      page.handle.evaluate(() => {
        const theirs = document.querySelector("#theirs");
        const plays = theirs.videoWidth > 0 && theirs.currentTime > 1;
        return plays && theirs.srcObject?.getTracks().length === 2;
      }),
    );
  }

  /** Which stream the page plays: each pull makes another. */
  function streamOf(page) {
    return page.handle.evaluate(() => document.querySelector("#theirs").srcObject?.id ?? null);
  }

  it("two people see each other, and again after one of them reloads the page", LIMIT, story(async () => {
    const [ada, bob] = [await enter("chromium"), await enter("firefox")];
    await sees(ada);
    await sees(bob);
    const watched = await streamOf(ada);
    await bob.handle.reload();
    await until("the one who is back to be watched", 40_000, async () => {
      const stream = await streamOf(ada);
      return stream !== null && stream !== watched;
    });
    await sees(bob);
    await sees(ada);
  }));
});
