// A peer on aiortc as if it were a page: `call` names a function of aiortc/peer.py.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const PROGRAM = path.join(path.dirname(fileURLToPath(import.meta.url)), "aiortc/peer.py");

export class AiortcPeer {
  browserName = "aiortc";
  isOpen = true;
  #child;
  #replies;
  #complaints = [];

  constructor() {
    const python = process.env.AIORTC_PYTHON;
    assert(python, "AIORTC_PYTHON is not set: start the tests by tests/browser/run");
    this.#child = spawn(python, [PROGRAM], { stdio: "pipe" });
    process.once("exit", () => this.#child.kill("SIGKILL"));
    this.#child.stderr.on("data", (text) => this.#complaints.push(`${text}`));
    this.#replies = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /** aiortc logs what it survives, too; the last words explain a failure. */
  errors = [];

  async call(name, ...args) {
    this.#child.stdin.write(`${JSON.stringify({ name, args })}\n`);
    const { value, done } = await this.#replies.next();
    if (done) throw new Error(`aiortc ended:\n${this.#complaints.join("")}`);
    const { result, error } = JSON.parse(value);
    if (error) throw new Error(error);
    return result;
  }

  async close() {
    if (!this.isOpen) return;
    this.isOpen = false;
    if (this.#child.exitCode !== null) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }
}
