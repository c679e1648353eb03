// Every codec that a browser offers: published, pulled, decoded.

import assert from "node:assert/strict";
import { before, describe, it } from "node:test";

import { sleep, until } from "./harness.js";
import { scene } from "./stage.js";

const LIMIT = { timeout: 60_000 };
const OPUS = { mimeType: "audio/opus", sdpFmtpLine: "minptime=10;useinbandfec=1" };
const RED = { mimeType: "audio/red" };

/** What each browser must have at least, so that none is left out unnoticed. */
const EXPECTED = {
  chromium: ["audio/opus", "audio/PCMU", "audio/PCMA", "video/VP8", "video/VP9", "video/AV1"],
  firefox: ["audio/opus", "audio/PCMU", "audio/PCMA", "video/VP8", "video/VP9"],
};
/** Codecs of a browser that are not WebRTC's to forward. */
const OTHERS = /G722|L16/i;

for (const name of ["chromium", "firefox"]) {
  describe(`codecs of ${name}`, () => {
    const { open, story } = scene();
    let offered;
    before(async () => {
      const page = await open(name, "coded");
      offered = [...(await page.call("codecs", "audio")), ...(await page.call("codecs", "video"))];
      await page.close();
    });

    it("are at least those that this test is about", () => {
      const names = offered.map(({ mimeType }) => mimeType.toLowerCase());
      const missing = EXPECTED[name].filter((wanted) => !names.includes(wanted.toLowerCase()));
      assert.deepEqual(missing, []);
      console.log(`${name} offers ${offered.map(({ mimeType, sdpFmtpLine = "" }) => `${mimeType} ${sdpFmtpLine}`).join(", ")}`);
    });

    it("are each decoded by a viewer", { timeout: 420_000 }, story(async () => {
      for (const codec of offered.filter(({ mimeType }) => !OTHERS.test(mimeType))) {
        const [ada, bob] = [await open(name, "coded"), await open(name, "coded")];
        const isVideo = codec.mimeType.startsWith("video/");
        const track = await ada.call(isVideo ? "publishCamera" : "publishMicrophone", { codec });
        await bob.call("pull", track);
        await assertDecodes(bob, codec);
        await Promise.all([ada.close(), bob.close()]);
      }
    }));
  });
}

describe("Opus between pages of chromium", () => {
  const { open, story } = scene();

  it("stereo stays stereo where both sides ask for it", LIMIT, story(async () => {
    const [ada, bob] = [await open("chromium", "coded"), await open("chromium", "coded")];
    const track = await ada.call("publishTone", { codec: OPUS, fmtp: "stereo=1;sprop-stereo=1" });
    await bob.call("pull", track, { fmtp: "stereo=1" });
    let heard;
    await until("a tone on the left and silence on the right", 15_000, async () => {
      heard = await bob.call("channels");
      const [left, right] = heard;
      return left > 0.1 && right < left / 10;
    }).catch((error) => {
      throw new Error(`${error.message}: ${heard}`);
    });
  }));

  it("silence is not sent with DTX, and sound comes back after it", LIMIT, story(async () => {
    const [ada, bob] = [await open("chromium", "coded"), await open("chromium", "coded")];
    const track = await ada.call("publishTone", { codec: OPUS, fmtp: "usedtx=1" });
    await bob.call("pull", track);
    const talking = await packetsPerSecond(bob);
    await ada.call("setLoudness", 0);
    await sleep(2_000);
    const silent = await packetsPerSecond(bob);
    assert(talking > 30 && silent < 10, `${talking} packets a second of sound, ${silent} of silence`);
    const before = await bob.call("received");
    await ada.call("setLoudness", 0.5);
    await until("sound after silence", 10_000, async () => {
      const { energy } = await bob.call("received");
      return energy - before.energy > 0.01;
    });
  }));

  it("redundancy (RED) is passed on whole", LIMIT, story(async () => {
    const [ada, bob] = [await open("chromium", "coded"), await open("chromium", "coded")];
    const track = await ada.call("publishTone", { codec: RED });
    const offer = await bob.call("pull", track);
    assert.match(offer, /^a=rtpmap:\d+ red\/48000\/2/im);
    await assertDecodes(bob, OPUS);
    // Without loss each packet brings the one before it once more than is needed.
    const { packets, discarded } = await bob.call("received");
    assert(discarded > 0.8 * packets, `${discarded} redundant packets with ${packets}`);
  }));
});

/** A viewer decodes what was sent as this codec, at a live pace. */
async function assertDecodes(viewer, codec) {
  const isVideo = codec.mimeType.startsWith("video/");
  let seen;
  await until(`${viewer.browserName} to decode ${codec.mimeType} ${codec.sdpFmtpLine ?? ""}`, 20_000, async () => {
    seen = await viewer.call("received");
    return isVideo ? seen.frames >= 30 && seen.width > 0 : seen.samples >= 48_000 && seen.energy > 0;
  }).catch((error) => {
    throw new Error(`${error.message}: ${JSON.stringify(seen)}`);
  });
  assert.equal(seen.codec.mimeType.toLowerCase(), codec.mimeType.toLowerCase());
}

async function packetsPerSecond(viewer) {
  await until("packets", 10_000, async () => (await viewer.call("received")).packets > 20);
  const before = await viewer.call("received");
  await sleep(3_000);
  return ((await viewer.call("received")).packets - before.packets) / 3;
}
