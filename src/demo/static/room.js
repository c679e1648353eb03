// A room: everybody publishes into a session of their own, and pulls everybody else's tracks into the same.
//
// The API has no rooms. A small WebSocket hub tells who is here, with which session and track names; a room
// is the loop that makes what is pulled equal to what the hub tells. Events: "change" (look at the fields
// below), "status" (`detail` is a sentence for the user).

import { Api } from "./api.js";
import { Peer, keyOf } from "./peer.js";

const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 10_000;

export class Room extends EventTarget {
  /** Who is here, oneself included: `{ memberId, name, sessionId, tracks: [{ trackName, kind, muted }] }`. */
  members = [];
  memberId = null;
  /** What oneself sends: `{ track, trackName, muted, transceiver }`. */
  sent = [];
  /** What arrives: "sessionId/trackName" → `{ sessionId, trackName, transceiver }`. */
  pulled = new Map();

  #name;
  #api;
  #hubUrl;
  #hub = null;
  #peer = null;
  #tracksNamed = 0;
  #failures = 0;
  #nextPull = 0;
  #left = false;

  constructor({ name, config, hubUrl }) {
    super();
    this.#name = name;
    this.#api = new Api(config);
    this.#hubUrl = hubUrl;
  }

  get connection() {
    return this.#peer?.connection;
  }

  /** Enters with these tracks of getUserMedia; a listener has none. Fails if they cannot be published. */
  async join(tracks) {
    this.#newPeer();
    try {
      await this.#push(tracks);
    } catch (error) {
      this.leave();
      throw error;
    }
    this.#enterHub();
  }

  leave() {
    this.#left = true;
    this.#hub?.close();
    this.connection?.close();
    for (const { track } of this.sent) track.stop();
  }

  /** Adds a track while in the room. */
  publish(track) {
    return this.#inTurn(async () => {
      await this.#push([track]);
      this.#announce();
    });
  }

  /** Ends a track for everybody, and its device with it. Publishing again makes a track of a new name. */
  unpublish(trackName) {
    return this.#inTurn(async () => {
      const { track, transceiver } = this.sent.find((sent) => sent.trackName === trackName);
      this.sent = this.sent.filter((sent) => sent.trackName !== trackName);
      track.stop();
      await this.#peer.close([transceiver]);
      this.#announce();
    });
  }

  /** Mutes without a negotiation: silence flows as packets too, which keep the track alive on the server. */
  mute(trackName, muted) {
    const sent = this.sent.find((candidate) => candidate.trackName === trackName);
    sent.muted = muted;
    sent.track.enabled = !muted;
    this.#announce();
  }

  async #push(tracks) {
    const sources = tracks.map((track) => ({
      track,
      trackName: `${track.kind}-${++this.#tracksNamed}`,
      muted: !track.enabled,
    }));
    this.sent.push(...sources);
    if (sources.length === 0) return;
    const transceivers = await this.#peer.push(sources);
    sources.forEach((source, i) => (source.transceiver = transceivers[i]));
    this.#changed();
  }

  // ---- Pulling: what the hub tells is what should be pulled -------------------------------------------

  #reconcile() {
    return this.#inTurn(async () => {
      const wanted = this.#tracksOfOthers();
      const gone = [...this.pulled.keys()].filter((key) => !wanted.has(key));
      const missing = [...wanted.keys()].filter((key) => !this.pulled.has(key));
      if (gone.length > 0) await this.#drop(gone);
      if (missing.length > 0) await this.#pull(missing.map((key) => wanted.get(key)));
      this.#changed();
    });
  }

  #tracksOfOthers() {
    // A seat of one's own that the hub has not given up yet has the same session.
    const isOther = ({ memberId, sessionId }) =>
      memberId !== this.memberId && sessionId && sessionId !== this.#peer.session;
    const tracks = this.members
      .filter(isOther)
      .flatMap(({ sessionId, tracks }) => tracks.map(({ trackName }) => ({ sessionId, trackName })));
    return new Map(tracks.map((track) => [keyOf(track), track]));
  }

  async #drop(keys) {
    const transceivers = keys.map((key) => this.pulled.get(key).transceiver);
    for (const key of keys) this.pulled.delete(key);
    await this.#peer.close(transceivers);
  }

  async #pull(tracks) {
    // The map belongs to the connection; a renewed one has another.
    const { pulled } = this;
    const results = await this.#peer.pull(tracks);
    for (const result of results) if (result.transceiver) pulled.set(keyOf(result), result);
    const failed = results.find(({ transceiver }) => !transceiver);
    if (failed) {
      const { errorDescription = "the reply does not name the track", errorCode = "no_mid" } = failed;
      this.#say(`A track cannot be pulled yet: ${errorDescription} (${errorCode})`);
      clearTimeout(this.#nextPull);
      this.#nextPull = this.#later(() => this.#reconcile());
    } else if (this.connection.connectionState === "connected") {
      this.#connected();
    }
  }

  // ---- The connection's life --------------------------------------------------------------------------

  #newPeer() {
    const peer = new Peer(this.#api);
    this.#peer = peer;
    this.pulled = new Map();
    peer.connection.addEventListener("connectionstatechange", () => {
      if (peer !== this.#peer || this.#left) return;
      const state = peer.connection.connectionState;
      if (state === "connected") this.#connected();
      if (state === "disconnected") this.#say("The connection is interrupted.");
      if (state === "failed") this.#fail(peer, new Error("The connection to the media server was lost."));
    });
  }

  #connected() {
    this.#failures = 0;
    this.#say("Connected.");
  }

  /** Runs a negotiation in its turn. If it fails, the two ends may disagree: the connection is renewed. */
  async #inTurn(negotiation) {
    const peer = this.#peer;
    const stale = () => this.#left || peer !== this.#peer;
    try {
      await peer.inTurn(async () => stale() || (await negotiation()));
    } catch (error) {
      if (!stale()) this.#fail(peer, error);
    }
  }

  /** Gives a connection up; unless the app itself is refused, a new session takes over what was sent. */
  #fail(peer, error) {
    if (this.#left || peer !== this.#peer) return;
    if (error.status === 401 || error.status === 404) {
      this.leave();
      this.#say(`${error.message} Reload the page to get the server's present configuration.`);
      return;
    }
    peer.connection.close();
    for (const sent of this.sent) sent.transceiver = null;
    this.#newPeer();
    this.#changed();
    this.#say(`${error.message} Reconnecting…`);
    this.#later(() => this.#resume());
  }

  async #resume() {
    const tracks = this.sent.map(({ track }) => track);
    this.sent = [];
    await this.#inTurn(async () => {
      await this.#push(tracks);
      this.#announce();
    });
    await this.#reconcile();
  }

  /** Waits twice as long after each failure in a row. */
  #later(action) {
    const delay = Math.min(RETRY_MS_MIN * 2 ** this.#failures++, RETRY_MS_MAX);
    return setTimeout(() => this.#left || action(), delay);
  }

  // ---- The hub ----------------------------------------------------------------------------------------

  #enterHub() {
    const hub = new WebSocket(this.#hubUrl);
    this.#hub = hub;
    hub.addEventListener("open", () => this.#tell("join"));
    hub.addEventListener("message", ({ data }) => this.#hear(JSON.parse(data)));
    hub.addEventListener("close", () => {
      if (this.#left) return;
      this.#say("The room's hub cannot be reached. Trying again…");
      this.#later(() => this.#enterHub());
    });
  }

  #hear(message) {
    if (message.type === "welcome") this.memberId = message.memberId;
    if (message.type === "error") this.#say(`The room's hub says: ${message.message}`);
    if (message.type === "roster") {
      this.members = message.members;
      this.#changed();
      this.#reconcile();
    }
  }

  #announce() {
    if (this.#hub?.readyState === WebSocket.OPEN) this.#tell("update");
    this.#changed();
  }

  #tell(type) {
    const sent = this.sent.filter(({ transceiver }) => transceiver);
    const tracks = sent.map(({ track, trackName, muted }) => ({ trackName, kind: track.kind, muted }));
    const sessionId = this.#peer.session ?? undefined;
    this.#hub.send(JSON.stringify({ type, name: this.#name, sessionId, tracks }));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #say(detail) {
    this.dispatchEvent(new CustomEvent("status", { detail }));
  }
}
