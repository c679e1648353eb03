"""A peer on aiortc under remote control: an implementation of WebRTC that no browser shares.

Reads a JSON object `{"name", "args"}` per line and answers each with a line, `{"result"}` or `{"error"}`. The names
are those of the test pages' `window.page`, and mean the same.
"""

import array
import asyncio
import fractions
import json
import math
import sys
import traceback
import urllib.request

import aiortc
import av

RATE = 48_000
SAMPLES = RATE // 50
WIDTH, HEIGHT, FPS = 320, 180, 15


class Tone(aiortc.MediaStreamTrack):
    """A sine of 440 Hz, in real time."""

    kind = "audio"
    _at = 0

    async def recv(self):
        await _pace(self, self._at / RATE)
        wave = [round(8_000 * math.sin(2 * math.pi * 440 * (self._at + n) / RATE)) for n in range(SAMPLES)]
        frame = av.AudioFrame(format="s16", layout="mono", samples=SAMPLES)
        frame.planes[0].update(array.array("h", wave).tobytes())
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._at, fractions.Fraction(1, RATE)
        self._at += SAMPLES
        return frame


class Ramp(aiortc.MediaStreamTrack):
    """A picture of stripes that move."""

    kind = "video"
    _at = 0

    async def recv(self):
        await _pace(self, self._at / FPS)
        frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
        for plane in frame.planes:
            line = bytes((x + 8 * self._at) & 0xFF for x in range(plane.line_size))
            plane.update(line * plane.height)
        frame.pts, frame.time_base = self._at * 90_000 // FPS, fractions.Fraction(1, 90_000)
        self._at += 1
        return frame


async def _pace(track, due):
    loop = asyncio.get_running_loop()
    if not hasattr(track, "_start"):
        track._start = loop.time()
    await asyncio.sleep(max(0, track._start + due - loop.time()))


class Listener:
    """Decodes a track and counts what comes out."""

    def __init__(self, receiver):
        self._receiver = receiver
        self._track = receiver.track
        self._counts = {"kind": self._track.kind, "frames": 0, "samples": 0, "energy": 0}
        self._task = asyncio.ensure_future(self._run())
        self._asking = asyncio.ensure_future(self._ask_for_key_frames())

    async def _ask_for_key_frames(self):
        """aiortc misses what comes before it has set its receiver up, and does not ask for that by itself."""
        while self._track.kind == "video" and self._counts["frames"] == 0:
            await asyncio.sleep(1)
            for source in self._receiver.getSynchronizationSources():
                await self._receiver._send_rtcp_pli(source.source)

    async def _run(self):
        counts = self._counts
        while True:
            frame = await self._track.recv()
            if self._track.kind == "video":
                counts["frames"] += 1
                counts["width"], counts["height"] = frame.width, frame.height
            else:
                counts["samples"] += frame.samples
                counts["energy"] += sum(x * x for x in array.array("h", bytes(frame.planes[0])[: 4 * frame.samples]))

    def counts(self):
        if self._task.done():
            return {**self._counts, "ended": repr(self._task.exception())}
        return self._counts


class Peer:
    def __init__(self):
        self._connection = aiortc.RTCPeerConnection()
        self._listeners = []
        self._log = []

    async def open(self, config):
        self._config = config
        self._session = (await self._ask("POST", "/sessions/new"))["sessionId"]

    async def publish(self, codec=None):
        transceivers = [self._connection.addTransceiver(track, "sendonly") for track in (Tone(), Ramp())]
        if codec:
            offered = aiortc.RTCRtpSender.getCapabilities("video").codecs
            transceivers[1].setCodecPreferences([it for it in offered if it.mimeType == codec])
        await self._connection.setLocalDescription(await self._connection.createOffer())
        tracks = [{"location": "local", "mid": it.mid, "trackName": it.kind} for it in transceivers]
        answer = await self._call("POST", "/tracks/new", {**self._described(), "tracks": tracks})
        await self._set_remote(answer)
        return [{"sessionId": self._session, "trackName": it["trackName"]} for it in tracks]

    async def pull(self, tracks):
        wanted = [{"location": "remote", **track} for track in tracks]
        answer = await self._call("POST", "/tracks/new", {"tracks": wanted})
        await self._set_remote(answer)
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        await self._call("PUT", "/renegotiate", self._described())
        by_mid = {it.mid: it for it in self._connection.getTransceivers()}
        self._listeners += [Listener(by_mid[item["mid"]].receiver) for item in answer["tracks"]]

    async def received(self):
        return [listener.counts() for listener in self._listeners]

    async def diagnosis(self):
        return {"state": self._connection.connectionState, "received": await self.received(), "log": self._log}

    async def _call(self, method, path, body):
        answer = await self._ask(method, f"/sessions/{self._session}{path}", body)
        failed = [item for item in answer.get("tracks", []) if "errorCode" in item]
        if failed:
            raise RuntimeError(f"{method} {path} failed: {failed}")
        return answer

    async def _ask(self, method, path, body=None):
        request = urllib.request.Request(
            self._config["basePath"] + path,
            method=method,
            headers={"Authorization": "Bearer " + self._config["token"]},
            data=json.dumps(body).encode() if body else None,
        )

        def exchange():
            with urllib.request.urlopen(request, timeout=15) as response:
                return json.load(response)

        answer = await asyncio.to_thread(exchange)
        self._log.append([method, path, body, answer])
        return answer

    async def _set_remote(self, answer):
        await self._connection.setRemoteDescription(aiortc.RTCSessionDescription(**answer["sessionDescription"]))

    def _described(self):
        description = self._connection.localDescription
        return {"sessionDescription": {"type": description.type, "sdp": description.sdp}}


async def main():
    peer = Peer()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        order = json.loads(line)
        try:
            reply = {"result": await getattr(peer, order["name"])(*order["args"])}
        except Exception:  # The test prints it.
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), flush=True)


asyncio.run(main())
