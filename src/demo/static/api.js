// The sessions/tracks API as five functions. A session is the server's end of one RTCPeerConnection; tracks
// are published into it and pulled into it, each change by one offer and one answer.
//
// The token belongs on a server of yours (see config.json); everything else may be copied as it stands.

export class ApiError extends Error {
  constructor(status, { errorCode = "http_error", errorDescription = "no description" } = {}) {
    super(`${errorDescription} (${errorCode})`);
    this.name = "ApiError";
    this.status = status;
    this.code = errorCode;
  }
}

export class Api {
  #base;
  #token;

  /** `basePath` is where the app's endpoints are: `/v1/apps/<app id>`. */
  constructor({ basePath, token }) {
    this.#base = basePath;
    this.#token = token;
  }

  /** Makes a session. It lives while it is connected; an unused one soon expires. Returns its id. */
  async newSession() {
    return (await this.#call("POST", "/sessions/new")).sessionId;
  }

  /** Publishes: `tracks` are `{ mid, trackName }` of m-lines in `offer`. Returns the server's answer. */
  async push(session, offer, tracks) {
    const local = tracks.map((track) => ({ location: "local", ...track }));
    const reply = await this.#call("POST", `/sessions/${session}/tracks/new`, {
      sessionDescription: offer,
      tracks: local,
    });
    reply.tracks.forEach(throwIfFailed);
    return reply.sessionDescription;
  }

  /**
   * Asks for tracks: `tracks` are `{ sessionId, trackName }` of their publishers. Each item of the result has
   * a `mid`, or an `errorCode` of its own. With `requiresImmediateRenegotiation` the reply holds an offer,
   * which must be answered by `renegotiate` before anything else is asked of the session.
   */
  pull(session, tracks) {
    const remote = tracks.map(({ sessionId, trackName }) => ({ location: "remote", sessionId, trackName }));
    return this.#call("POST", `/sessions/${session}/tracks/new`, { tracks: remote });
  }

  /** Hands in the answer to an offer of the server's. */
  renegotiate(session, answer) {
    return this.#call("PUT", `/sessions/${session}/renegotiate`, { sessionDescription: answer });
  }

  /** Ends tracks of either direction. In `offer` their m-lines are stopped. Returns the server's answer. */
  async close(session, offer, mids) {
    const tracks = mids.map((mid) => ({ mid }));
    const body = { tracks, sessionDescription: offer, force: false };
    return (await this.#call("PUT", `/sessions/${session}/tracks/close`, body)).sessionDescription;
  }

  async #call(method, path, body) {
    const headers = { Authorization: `Bearer ${this.#token}` };
    const response = await fetch(this.#base + path, { method, headers, body: body && JSON.stringify(body) });
    const reply = await response.json().catch(() => ({ errorDescription: `HTTP status ${response.status}` }));
    if (!response.ok || reply.errorCode) throw new ApiError(response.status, reply);
    return reply;
  }
}

/** A request can succeed while one of its tracks fails. */
function throwIfFailed(track) {
  if (track.errorCode) throw new ApiError(200, track);
}
