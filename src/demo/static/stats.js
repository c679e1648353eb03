// Live figures of every track of a connection, from two readings of getStats.

/**
 * Call `read` about once a second. It resolves to a Map: transceiver → figures, where figures are
 * `{ sending, kind, kbps, lossPercent, roundTripMs, jitterMs, width, height, fps, level }`; what the browser
 * does not tell is undefined.
 */
export class Meter {
  #before = new Map();

  async read(connection) {
    const report = await connection.getStats();
    const transceivers = connection.getTransceivers();
    const byMid = new Map(transceivers.map((it) => [it.mid, it]));
    const byTrack = new Map(transceivers.map((it) => [it.receiver.track.id, it]));
    const pathRoundTrip = [...report.values()].find(
      ({ type, nominated, state }) => type === "candidate-pair" && nominated && state === "succeeded",
    )?.currentRoundTripTime;

    const figures = new Map();
    for (const stats of report.values()) {
      if (stats.type === "inbound-rtp") {
        const transceiver = byTrack.get(stats.trackIdentifier) ?? byMid.get(stats.mid);
        if (transceiver) figures.set(transceiver, this.#received(stats, pathRoundTrip));
      }
      if (stats.type === "outbound-rtp" && byMid.has(stats.mid)) {
        figures.set(byMid.get(stats.mid), this.#sent(stats, report));
      }
    }
    this.#before = new Map([...report.values()].map((stats) => [stats.id, stats]));
    return figures;
  }

  #received(stats, roundTripTime) {
    const lost = this.#delta(stats, "packetsLost");
    const received = this.#delta(stats, "packetsReceived");
    return {
      ...this.#common(stats, "bytesReceived"),
      sending: false,
      lossPercent: lost + received > 0 ? (100 * Math.max(lost, 0)) / (lost + received) : 0,
      roundTripMs: inMs(roundTripTime),
      jitterMs: inMs(stats.jitter),
      level: stats.audioLevel,
    };
  }

  /** Loss, round trip and jitter of a sent track are what the server's receiver reports say. */
  #sent(stats, report) {
    const remote = report.get(stats.remoteId) ?? {};
    return {
      ...this.#common(stats, "bytesSent"),
      sending: true,
      lossPercent: remote.fractionLost === undefined ? undefined : 100 * remote.fractionLost,
      roundTripMs: inMs(remote.roundTripTime),
      jitterMs: inMs(remote.jitter),
      level: report.get(stats.mediaSourceId)?.audioLevel,
    };
  }

  #common(stats, bytes) {
    const seconds = this.#delta(stats, "timestamp") / 1000;
    const { kind, frameWidth: width, frameHeight: height, framesPerSecond: fps } = stats;
    const kbps = seconds > 0 ? (8 * this.#delta(stats, bytes)) / seconds / 1000 : undefined;
    return { kind, kbps, width, height, fps };
  }

  #delta(stats, field) {
    return stats[field] - (this.#before.get(stats.id)?.[field] ?? stats[field]);
  }
}

function inMs(seconds) {
  return seconds === undefined ? undefined : 1000 * seconds;
}
