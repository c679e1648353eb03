// Encrypts or decrypts encoded pictures with a key that pages share and the server does not have: AES-GCM, the
// counter and the tag behind the picture. The first bytes stay as they are, since browsers themselves look at the
// payload header of VP8 (RFC 7741 §4.3) to tell key frames.

const CLEAR_BYTES = { key: 10, delta: 3 };
const COUNTER_BYTES = 12;

let key;
let counter = 0;

self.onmessage = async ({ data }) => {
  const raw = new TextEncoder().encode(data.key.padEnd(16, "."));
  key = crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["encrypt", "decrypt"]);
};

self.onrtctransform = ({ transformer }) => {
  const transform = { encrypt, decrypt }[transformer.options.operation];
  const pictures = new TransformStream({ transform });
  transformer.readable.pipeThrough(pictures).pipeTo(transformer.writable);
};

async function encrypt(picture, out) {
  const { clear, rest } = parts(picture);
  const iv = new Uint8Array(COUNTER_BYTES);
  // Of one encoder or several: each picture gets another.
  new DataView(iv.buffer).setUint32(0, ++counter);
  const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv, additionalData: clear }, await key, rest);
  picture.data = joined(clear, new Uint8Array(sealed), iv);
  out.enqueue(picture);
}

/** What does not decrypt is not shown. */
async function decrypt(picture, out) {
  const { clear, rest } = parts(picture);
  const [sealed, iv] = [rest.subarray(0, -COUNTER_BYTES), rest.subarray(-COUNTER_BYTES)];
  try {
    const plain = await crypto.subtle.decrypt({ name: "AES-GCM", iv, additionalData: clear }, await key, sealed);
    picture.data = joined(clear, new Uint8Array(plain));
    out.enqueue(picture);
  } catch {
    // Another key.
  }
}

function parts(picture) {
  const bytes = new Uint8Array(picture.data);
  const clear = CLEAR_BYTES[picture.type] ?? CLEAR_BYTES.delta;
  return { clear: bytes.subarray(0, clear), rest: bytes.subarray(clear) };
}

function joined(...pieces) {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole.buffer;
}
