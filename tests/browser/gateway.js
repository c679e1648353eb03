// WHIP and WHEP (RFC 9725, draft-ietf-wish-whep) on top of the sessions/tracks API, in the calls that gateways for
// Cloudflare Realtime make: one POST publishes whatever the offer holds, one POST plays it.

export class Gateway {
  #server;
  /** What is played, by the name of the stream. */
  #streams = new Map();

  constructor(server) {
    this.#server = server;
  }

  /** `POST /whip/ingest/{stream}`, `POST /whip/play/{stream}`, `PATCH /whip/play/{stream}/{session}`. */
  async respond(request, response) {
    const [, , verb, stream, session] = request.url.split("/");
    let sdp = "";
    for await (const piece of request) sdp += piece;
    if (request.method === "PATCH") {
      await this.#server.call("PUT", `/sessions/${session}/renegotiate`, { sessionDescription: { type: "answer", sdp } });
      return response.writeHead(204).end();
    }
    const made = await this.#server.call("POST", "/sessions/new");
    const reply = verb === "ingest" ? await this.#ingest(made, stream, sdp) : await this.#play(made, stream, sdp);
    const headers = { "Content-Type": "application/sdp", Location: `${request.url}/${made.sessionId}` };
    response.writeHead(201, headers).end(reply.sessionDescription.sdp);
  }

  async #ingest({ sessionId }, stream, sdp) {
    const body = { sessionDescription: { type: "offer", sdp }, autoDiscover: true };
    const reply = await this.#server.call("POST", `/sessions/${sessionId}/tracks/new`, body);
    this.#streams.set(
      stream,
      reply.tracks.map(({ trackName }) => ({ location: "remote", sessionId, trackName })),
    );
    return reply;
  }

  /** With an offer of the player's the reply is an answer; without, it is the server's offer. */
  #play({ sessionId }, stream, sdp) {
    const body = { tracks: this.#streams.get(stream) };
    if (sdp) body.sessionDescription = { type: "offer", sdp };
    return this.#server.call("POST", `/sessions/${sessionId}/tracks/new`, body);
  }
}
