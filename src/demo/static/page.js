// The page: a form, a tile per member, figures once a second. What it knows of WebRTC is a MediaStreamTrack.

import { Room } from "./room.js";
import { keyOf } from "./peer.js";
import { Meter } from "./stats.js";

const FIGURES_EVERY_MS = 1000;
/** Above this audio level (0..1) a member is shown as speaking. */
const SPEAKING_LEVEL = 0.02;

const CAMERA = { width: { ideal: 1280 }, height: { ideal: 720 } };
const CONSTRAINTS = { both: { audio: true, video: CAMERA }, audio: { audio: true } };

const $ = (id) => document.getElementById(id);
const tiles = new Map();
let room = null;

$("room").value = roomOfAddress() || "lobby";
window.addEventListener("hashchange", () => room || ($("room").value = roomOfAddress()));
$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  enter().catch(showError);
});
$("leave").addEventListener("click", leave);
$("copy").addEventListener("click", () =>
  navigator.clipboard.writeText(location.href).then(() => showStatus("The link is copied."), showError),
);
$("microphone").addEventListener("click", () => toggleMicrophone().catch(showError));
$("camera").addEventListener("click", () => toggleCamera().catch(showError));
window.addEventListener("pagehide", () => room?.leave());
setInterval(() => room && showFigures(room), FIGURES_EVERY_MS);

async function enter() {
  showError(null);
  $("enter").disabled = true;
  try {
    const response = await fetch(new URL("config.json", import.meta.url));
    if (!response.ok) throw new Error(`The demo is not configured here (HTTP status ${response.status}).`);
    const config = await response.json();
    await join(config, new FormData($("join")).get("role"));
  } finally {
    $("enter").disabled = false;
  }
}

async function join(config, role) {
  const roomName = $("room").value.trim();
  const tracks = role === "none" ? [] : await capture(CONSTRAINTS[role]);
  const hubUrl = new URL(`hub?room=${encodeURIComponent(roomName)}`, import.meta.url);
  hubUrl.protocol = hubUrl.protocol.replace("http", "ws");

  const joining = new Room({ name: $("name").value.trim(), config, hubUrl });
  joining.meter = new Meter();
  joining.addEventListener("change", () => joining === room && render());
  joining.addEventListener("status", ({ detail }) => showStatus(detail));
  showStatus("Connecting…");
  await joining.join(tracks).catch((error) => {
    showStatus("");
    throw error;
  });
  room = joining;
  location.hash = encodeURIComponent(roomName);
  $("room-title").textContent = roomName;
  showRoom(true);
  $("microphone").hidden = $("camera").hidden = role === "none";
  render();
}

function leave() {
  room.leave();
  room = null;
  for (const tile of tiles.values()) tile.remove();
  tiles.clear();
  $("room-title").textContent = "demo room";
  showStatus("You left the room.");
  showRoom(false);
}

// ---- Devices --------------------------------------------------------------------------------------------

/** A muted microphone still sends (silence), so it comes back at once. */
async function toggleMicrophone() {
  const microphone = sentOf("audio");
  if (microphone) room.mute(microphone.trackName, !microphone.muted);
}

/** A camera that is off is closed, for its lamp should be off too; on again it is a new track. */
async function toggleCamera() {
  $("camera").disabled = true;
  try {
    const camera = sentOf("video");
    if (camera) await room.unpublish(camera.trackName);
    else await room.publish((await capture({ video: CAMERA }))[0]);
  } finally {
    $("camera").disabled = false;
    render();
  }
}

async function capture(constraints) {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give camera and microphone to https:// pages and localhost only.");
  }
  try {
    return (await navigator.mediaDevices.getUserMedia(constraints)).getTracks();
  } catch (error) {
    const reasons = {
      NotAllowedError: "The browser did not allow camera or microphone.",
      NotFoundError: "There is no camera or microphone.",
      NotReadableError: "Camera or microphone are in use by another program.",
    };
    throw new Error(reasons[error.name] ?? `Camera or microphone failed: ${error.message}`);
  }
}

function sentOf(kind) {
  return room.sent.find(({ track }) => track.kind === kind);
}

// ---- Tiles ----------------------------------------------------------------------------------------------

function render() {
  if (!room) return;
  const present = new Set(room.members.map(({ memberId }) => memberId));
  for (const [memberId, tile] of tiles) {
    if (present.has(memberId)) continue;
    tile.remove();
    tiles.delete(memberId);
  }
  for (const member of room.members) renderMember(member);
  renderControls();
}

function renderMember(member) {
  const isSelf = member.memberId === room.memberId;
  const tile = tiles.get(member.memberId) ?? newTile(member.memberId);
  const media = isSelf ? room.sent.map(({ track }) => track) : pulledTracks(member);
  const video = tile.querySelector("video");
  video.muted = isSelf;
  showTracks(video, media);
  tile.classList.toggle("self", isSelf);
  tile.classList.toggle("dark", !media.some(({ kind }) => kind === "video"));
  tile.querySelector(".name").textContent = isSelf ? `${member.name} (you)` : member.name;
  tile.querySelector(".initial").textContent = [...member.name][0].toUpperCase();
  const badge = tile.querySelector(".badge");
  const listens = member.tracks.length === 0;
  badge.textContent = listens ? "listening" : "muted";
  badge.hidden = !listens && !member.tracks.some(({ muted }) => muted);
}

function pulledTracks({ sessionId, tracks }) {
  return tracks
    .map(({ trackName }) => room.pulled.get(keyOf({ sessionId, trackName }))?.transceiver.receiver.track)
    .filter(Boolean);
}

/** Changes the stream in place: a new `srcObject` for each track would restart the others. */
function showTracks(video, tracks) {
  const stream = (video.srcObject ??= new MediaStream());
  const shown = stream.getTracks();
  for (const track of shown) if (!tracks.includes(track)) stream.removeTrack(track);
  for (const track of tracks) if (!shown.includes(track)) stream.addTrack(track);
}

function newTile(memberId) {
  const tile = $("tile").content.firstElementChild.cloneNode(true);
  tile.dataset.member = memberId;
  tiles.set(memberId, tile);
  $("tiles").append(tile);
  return tile;
}

function renderControls() {
  const microphone = sentOf("audio");
  const hears = Boolean(microphone && !microphone.muted);
  const sees = Boolean(sentOf("video"));
  $("microphone").textContent = hears ? "Mute" : "Unmute";
  $("microphone").setAttribute("aria-pressed", hears);
  $("camera").textContent = sees ? "Camera off" : "Camera on";
  $("camera").setAttribute("aria-pressed", sees);
}

// ---- Figures --------------------------------------------------------------------------------------------

async function showFigures(shownRoom) {
  const figures = await shownRoom.meter.read(shownRoom.connection);
  if (shownRoom !== room) return;
  for (const member of room.members) {
    const tile = tiles.get(member.memberId);
    const own = member.memberId === room.memberId ? room.sent : ofMember(member);
    const rows = own.map(({ transceiver }) => figures.get(transceiver)).filter(Boolean);
    if (tile) showRows(tile, rows);
  }
}

function ofMember({ sessionId }) {
  return [...room.pulled.values()].filter((pulled) => pulled.sessionId === sessionId);
}

function showRows(tile, rows) {
  tile.classList.toggle("speaking", rows.some(({ level }) => level > SPEAKING_LEVEL));
  tile.querySelector("table").hidden = rows.length === 0;
  tile.querySelector(".direction").textContent = rows[0]?.sending ? "Sent" : "Received";
  tile.querySelector("tbody").replaceChildren(...rows.map(figureRow));
}

function figureRow({ kind, kbps, lossPercent, roundTripMs, jitterMs, width, height, fps }) {
  const row = document.createElement("tr");
  const cells = [
    kind,
    number(kbps, 0),
    number(lossPercent, 1, " %"),
    number(roundTripMs, 0, " ms"),
    number(jitterMs, 0, " ms"),
    kind === "video" ? `${width ?? "–"}×${height ?? "–"}` : "",
    kind === "video" ? number(fps, 0) : "",
  ];
  row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
  return row;
}

function number(value, digits, unit = "") {
  return value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits) + unit;
}

// ---- The page around them -------------------------------------------------------------------------------

function showRoom(inRoom) {
  $("join").hidden = inRoom;
  $("tiles").hidden = $("controls").hidden = !inRoom;
  (inRoom ? $("leave") : $("enter")).focus();
}

function showStatus(text) {
  $("status").textContent = text;
}

function showError(error) {
  $("error").hidden = !error;
  $("error").textContent = error?.message ?? "";
}

function roomOfAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}
