// A session with data channels under remote control: plain calls of the API, as its page of the
// documentation tells them.

const apiLog = [];
const channels = new Map();
const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
let config;
let session;

window.page = {
  session: () => session,

  async open(present) {
    config = present;
    session = (await ask("POST", "/sessions/new")).sessionId;
    return session;
  },

  /** By the server's offer. Resolves to the label of the channel the server opens. */
  async establishByTheirs() {
    const opened = new Promise((resolve) => {
      connection.ondatachannel = ({ channel }) => resolve(channel.label);
    });
    const body = { dataChannel: serverEvents() };
    const reply = await ask("POST", `/sessions/${session}/datachannels/establish`, body);
    await connection.setRemoteDescription(reply.sessionDescription);
    await connection.setLocalDescription(await connection.createAnswer());
    await ask("PUT", `/sessions/${session}/renegotiate`, described());
    return opened;
  },

  /** By this browser's offer. Resolves to the label of its own channel once that is open. */
  async establishByOurs() {
    const channel = connection.createDataChannel("server-events");
    await connection.setLocalDescription(await connection.createOffer());
    const body = { dataChannel: serverEvents(), ...described() };
    const reply = await ask("POST", `/sessions/${session}/datachannels/establish`, body);
    await connection.setRemoteDescription(reply.sessionDescription);
    await opened(channel);
    return channel.label;
  },

  /** Publishes or subscribes, as `item` says, and opens this end. */
  async channel(item) {
    const body = { dataChannels: [item] };
    const [made] = (await ask("POST", `/sessions/${session}/datachannels/new`, body)).dataChannels;
    if (made.errorCode) throw new Error(JSON.stringify(made));
    const { ordered = true, maxRetransmits } = item;
    const options = { negotiated: true, id: made.id, ordered };
    if (maxRetransmits !== undefined) options.maxRetransmits = maxRetransmits;
    const channel = connection.createDataChannel(item.dataChannelName, options);
    channel.binaryType = "arraybuffer";
    const heard = [];
    channel.onmessage = async ({ data }) => {
      const place = heard.push(null) - 1;
      heard[place] = typeof data === "string" ? data : await fingerprint(data);
    };
    channels.set(item.dataChannelName, { channel, heard });
    await opened(channel);
    return made.id;
  },

  say: (name, text) => channels.get(name).channel.send(text),

  /** Sends bytes of a pattern; resolves to what a receiver must have heard. */
  async sayBytes(name, length) {
    const bytes = Uint8Array.from({ length }, (_, at) => (at >> 8) ^ at);
    channels.get(name).channel.send(bytes);
    return fingerprint(bytes.buffer);
  },

  heard: (name) => channels.get(name).heard,

  state: (name) => channels.get(name).channel.readyState,

  diagnosis: () => ({
    state: [connection.connectionState, connection.signalingState, connection.sctp?.state],
    channels: [...channels].map(([name, { channel, heard }]) => [name, channel.id, channel.readyState, heard]),
    apiLog,
  }),
};

async function ask(method, path, body) {
  const headers = { Authorization: `Bearer ${config.token}` };
  const init = { method, headers, body: body && JSON.stringify(body) };
  const response = await fetch(`${config.basePath}${path}`, init);
  const answer = await response.json();
  apiLog.push({ request: `${method} ${path}`, status: response.status, answer });
  if (!response.ok) throw new Error(JSON.stringify(answer));
  return answer;
}

function serverEvents() {
  return { location: "remote", dataChannelName: "server-events" };
}

function described() {
  const { type, sdp } = connection.localDescription;
  return { sessionDescription: { type, sdp } };
}

function opened(channel) {
  return new Promise((resolve, reject) => {
    channel.onerror = ({ error }) => reject(error);
    channel.onopen = resolve;
    if (channel.readyState === "open") resolve();
  });
}

async function fingerprint(buffer) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", buffer));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0"));
  return `${buffer.byteLength} bytes ${hex.join("")}`;
}
