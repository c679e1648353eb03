// One RTCPeerConnection and its session on the server: what the browser does around the calls of api.js.
//
// Three rules make it work, and they are worth copying:
//   1. One connection carries what is sent and what is received (`bundlePolicy: "max-bundle"`).
//   2. Negotiations never overlap: every use of push, pull and close goes through `inTurn`.
//   3. Offers and answers leave at once, without candidates: the server learns the browser's address from
//      its connectivity checks.

const CONNECT_TIMEOUT_MS = 10_000;

export class Peer {
  /** Known after the first push or pull: a session is made when there is something to negotiate. */
  session = null;
  connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });

  #api;
  #queue = Promise.resolve();

  constructor(api) {
    this.#api = api;
  }

  /** Runs `task` after all earlier ones, whether they succeeded or not. */
  inTurn(task) {
    const turn = this.#queue.then(task);
    this.#queue = turn.catch(() => {});
    return turn;
  }

  /** Publishes `sources`, `{ track, trackName }` each. Resolves to their transceivers once media can flow. */
  async push(sources) {
    const transceivers = sources.map(({ track }) =>
      this.connection.addTransceiver(track, { direction: "sendonly" }),
    );
    const session = await this.#useSession();
    await this.#offer((offer) => {
      const tracks = sources.map(({ trackName }, i) => ({ trackName, mid: transceivers[i].mid }));
      return this.#api.push(session, offer, tracks);
    });
    await this.#connected();
    return transceivers;
  }

  /**
   * Pulls `{ sessionId, trackName }` tracks. Each item of the result has a `transceiver`, or the `errorCode`
   * and `errorDescription` of a track that cannot be had now.
   */
  async pull(tracks) {
    const session = await this.#useSession();
    const reply = await this.#api.pull(session, tracks);
    if (reply.requiresImmediateRenegotiation) {
      await this.connection.setRemoteDescription(reply.sessionDescription);
      await this.connection.setLocalDescription(await this.connection.createAnswer());
      await this.#api.renegotiate(session, described(this.connection));
    }
    const byMid = new Map(this.connection.getTransceivers().map((it) => [it.mid, it]));
    return tracks.map((track) => {
      const item = reply.tracks.find((candidate) => keyOf(candidate) === keyOf(track));
      return { ...track, ...item, transceiver: item?.errorCode ? undefined : byMid.get(item?.mid) };
    });
  }

  /** Ends tracks that were pushed or pulled. */
  async close(transceivers) {
    const mids = transceivers.map(({ mid }) => mid);
    for (const transceiver of transceivers) transceiver.stop();
    await this.#offer((offer) => this.#api.close(this.session, offer, mids));
  }

  async #useSession() {
    this.session ??= await this.#api.newSession();
    return this.session;
  }

  /** Offers the connection as it is; `exchange` takes the offer to the server and returns its answer. */
  async #offer(exchange) {
    await this.connection.setLocalDescription(await this.connection.createOffer());
    await this.connection.setRemoteDescription(await exchange(described(this.connection)));
  }

  #connected() {
    const { connection } = this;
    return new Promise((resolve, reject) => {
      const giveUp = () =>
        reject(new Error("No connection to the media server. Can its UDP ports be reached from here?"));
      const timer = setTimeout(giveUp, CONNECT_TIMEOUT_MS);
      const look = () => {
        if (connection.connectionState === "failed") giveUp();
        if (connection.connectionState === "connected") resolve();
        else return;
        clearTimeout(timer);
        connection.removeEventListener("connectionstatechange", look);
      };
      connection.addEventListener("connectionstatechange", look);
      look();
    });
  }
}

/** What names a track everywhere: the session that publishes it, and its name there. */
export function keyOf({ sessionId, trackName }) {
  return `${sessionId}/${trackName}`;
}

function described({ localDescription: { type, sdp } }) {
  return { type, sdp };
}
