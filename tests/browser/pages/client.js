// The calls of the API as a client writes them by hand, on one connection. What was said is kept, to explain a
// failure.

import { statistics } from "/media.js";

export class Client {
  connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  session = null;
  log = [];
  #config;
  #query;

  /** `query` goes with every request. */
  constructor(config, query = "") {
    this.#config = config;
    this.#query = query;
  }

  async open() {
    this.session = (await this.ask("POST", "/sessions/new")).sessionId;
    return this.session;
  }

  /**
   * A request about the session; resolves to the answer, and rejects if it or one of its tracks is an error. That a
   * track to be closed is gone already is none.
   */
  async call(method, path, body) {
    const answer = await this.ask(method, `/sessions/${this.session}${path}`, body);
    const failed = answer.tracks?.find(({ errorCode }) => errorCode && errorCode !== "close_track_error");
    if (failed) throw new Error(`${method} ${path} failed: ${JSON.stringify(failed)}`);
    return answer;
  }

  async ask(method, path, body) {
    const headers = { Authorization: `Bearer ${this.#config.token}` };
    const init = { method, headers, body: body && JSON.stringify(body) };
    const response = await fetch(`${this.#config.basePath}${path}${this.#query}`, init);
    const answer = await response.json();
    this.log.push({ request: `${method} ${path}`, body, status: response.status, answer });
    this.#relay(answer.sessionDescription);
    if (!response.ok || answer.errorCode) throw new Error(`${method} ${path} failed: ${JSON.stringify(answer)}`);
    return answer;
  }

  /** This connection's offer, as part of a request's body. */
  async offered() {
    await this.connection.setLocalDescription(await this.connection.createOffer());
    return this.#described();
  }

  /** Publishes m-lines: `{ mid, trackName }` each, asked for once the offer has given them their mids. */
  async push(tracksOf) {
    const offer = await this.offered();
    const tracks = tracksOf().map((track) => ({ location: "local", ...track }));
    const answer = await this.call("POST", "/tracks/new", { ...offer, tracks });
    await this.connection.setRemoteDescription(answer.sessionDescription);
    return tracks.map(({ trackName }) => ({ sessionId: this.session, trackName }));
  }

  /** Pulls by the server's offer; resolves to a transceiver for each track. */
  async pull(tracks) {
    const wanted = tracks.map((track) => ({ location: "remote", ...track }));
    const answer = await this.call("POST", "/tracks/new", { tracks: wanted });
    if (answer.requiresImmediateRenegotiation) await this.accept(answer.sessionDescription);
    return answer.tracks.map(({ mid }) => this.transceiver(mid));
  }

  /** Answers the server's offer. */
  async accept(offer) {
    await this.connection.setRemoteDescription(offer);
    await this.connection.setLocalDescription(await this.connection.createAnswer());
    await this.call("PUT", "/renegotiate", this.#described());
  }

  /** Closes by the API alone with `force`, else by an offer of the connection as it is. */
  async close(mids, { force = false } = {}) {
    const tracks = mids.map((mid) => ({ mid }));
    const offer = force ? {} : await this.offered();
    const answer = await this.call("PUT", "/tracks/close", { ...offer, tracks, force });
    if (!force) await this.connection.setRemoteDescription(answer.sessionDescription);
  }

  transceiver(mid) {
    return this.connection.getTransceivers().find((transceiver) => transceiver.mid === mid);
  }

  async diagnosis() {
    const { connection, log } = this;
    return {
      state: [connection.connectionState, connection.signalingState],
      transceivers: connection.getTransceivers().map((it) => [it.mid, it.direction, it.currentDirection]),
      statistics: await statistics(connection),
      log,
    };
  }

  /** Replaces the ports in the server's candidates, if its media is to come by way of a relay. */
  #relay(description) {
    const { relayed } = this.#config;
    if (!description || !relayed) return;
    const candidate = /^(a=candidate:(?:\S+ ){5})(\d+)/gm;
    description.sdp = description.sdp.replace(candidate, (_, start, port) => `${start}${relayed[port]}`);
  }

  #described() {
    const { type, sdp } = this.connection.localDescription;
    return { sessionDescription: { type, sdp } };
  }
}
