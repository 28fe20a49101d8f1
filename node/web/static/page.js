// The live page: one WebSocket brings states as JSON and pictures with their labels; buttons ask by
// POST. Whatever breaks, the page says so and connects again.

const STATUS = {
  ok: ["seeing", "good"],
  no_camera: ["no camera", "bad"],
  stalled: ["stalled", "bad"],
  paused: ["paused", "warn"],
};
const STATE = {
  starting: "wait", running: "good", degraded: "warn", stalled: "bad", stopping: "wait",
};
const BLIND = {
  no_camera: "Cannot see: no camera",
  stalled: "Cannot see: stalled",
  paused: "Not looking: paused",
};
const SHOWN_LABELS = 5;
const SILENT_MS = 1500;
const LONGEST_WAIT_MS = 2000;

const $ = (id) => document.getElementById(id);
const cards = new Map();
let socket = null;
let heardAt = 0;
let waitMs = 250;
let allowed = false;
let paused = false;
let recording = false;
let task = null;
let shownSettings = null;

function connect() {
  // Beside the page, wherever a proxy serves it.
  const address = new URL("live", document.baseURI);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    waitMs = 250;
    ask();
  };
  socket.onmessage = ({ data }) => {
    heardAt = performance.now();
    document.body.classList.remove("gone");
    if (typeof data === "string") showState(JSON.parse(data));
    else showPicture(data);
  };
  socket.onclose = () => {
    gone();
    setTimeout(connect, waitMs);
    waitMs = Math.min(2 * waitMs, LONGEST_WAIT_MS);
  };
}

// Pictures are asked for only while somebody can see them.
function ask() {
  if (socket?.readyState !== WebSocket.OPEN) return;
  const pictures = document.hidden ? [] : [...cards.keys()];
  socket.send(JSON.stringify({ pictures }));
}

function gone() {
  document.body.classList.add("gone");
  chip($("state"), "node not reached", "bad");
  for (const card of cards.values()) {
    chip(card.status, "unknown", "bad");
    blind(card, "Node not reached", "trying again");
  }
}

function chip(element, text, tone) {
  if (element.textContent !== text) element.textContent = text;
  element.dataset.tone = tone;
}

function blind(card, title, why) {
  card.view.classList.toggle("dark", Boolean(title));
  card.blind.hidden = !title;
  if (!title) return;
  card.blind.querySelector("strong").textContent = title;
  card.blind.querySelector("span").textContent = why ?? "";
}

function cardOf(name) {
  if (cards.has(name)) return cards.get(name);
  const article = $("camera").content.firstElementChild.cloneNode(true);
  article.querySelector("h2").textContent = name;
  const find = (selector) => article.querySelector(selector);
  const card = {
    name, article, canvas: find("canvas"), view: find(".view"), blind: find(".blind"),
    status: find(".status"), age: find(".age"), fps: find(".fps"), dropped: find(".dropped"),
    size: find(".size"), seen: find(".seen"), snapshot: find(".snapshot"), described: 0,
  };
  card.canvas.setAttribute("aria-label", `picture of camera ${name}`);
  card.snapshot.setAttribute("aria-label", `Snapshot of ${name}`);
  card.snapshot.onclick = () => snapshot(name);
  cards.set(name, card);
  $("cameras").append(article);
  ask();
  return card;
}

function showState(told) {
  $("node").textContent = told.node ?? "perception";
  document.title = `${told.state} · ${told.node ?? "perception"}`;
  chip($("state"), told.state, STATE[told.state] ?? "wait");
  const model = told.model;
  task = model?.task ?? null;
  const degraded = told.degraded.length ? ` – ${told.degraded.join(", ")}` : "";
  $("model").textContent = model
    ? `${model.name}, ${model.runtime} ${model.precision} on ${model.device}${degraded}`
    : "loading the model";
  for (const camera of told.cameras) showCamera(camera);
  showLatency(told.latency);
  showEvents(told.events);
  $("uptime").textContent = told.uptime_s == null ? "–" : lasting(told.uptime_s);
  $("cpu").textContent = told.cpu == null ? "–" : `${Math.round(told.cpu * 100)} %`;
  $("memory").textContent = told.rss_bytes ? `${Math.round(told.rss_bytes / 2 ** 20)} MiB` : "–";
  $("subscribers").textContent = told.subscribers ?? "–";
  $("trouble").textContent = told.last_error ?? told.recording?.last_error ?? "";
  showControls(told);
}

function showCamera(camera) {
  const card = cardOf(camera.name);
  const [text, tone] = STATUS[camera.status] ?? [camera.status, "bad"];
  chip(card.status, text, tone);
  const health = camera.health;
  blind(card, BLIND[camera.status], camera.status === "paused" ? "" : health?.last_error);
  card.age.textContent = camera.age_s == null ? "–" : age(camera.age_s);
  card.fps.textContent = health ? health.fps.toFixed(1) : "–";
  card.dropped.textContent = health?.dropped ?? "–";
  card.size.textContent = health?.width ? `${health.width} × ${health.height}` : "–";
  if (camera.status !== "ok") card.seen.replaceChildren();
}

function showLatency(past) {
  const known = past.filter(Boolean);
  const newest = known.at(-1);
  $("p50").textContent = newest ? `${newest.p50_ms.toFixed(1)} ms` : "–";
  $("p99").textContent = newest ? `${newest.p99_ms.toFixed(1)} ms` : "–";
  const top = Math.max(1, ...known.map((one) => one.p99_ms)) * 1.1;
  $("top").textContent = known.length ? `top ${top.toFixed(0)} ms` : "";
  for (const key of ["p50", "p99"]) {
    const points = past.flatMap((one, place) =>
      one ? [`${120 - past.length + place + 1},${(40 - (one[`${key}_ms`] / top) * 39).toFixed(1)}`] : [],
    );
    document.querySelector(`#plot .${key}`).setAttribute("points", points.join(" "));
  }
}

function showEvents(events) {
  $("no-events").hidden = events.length > 0;
  const items = events.slice(0, 8).map((event) => {
    const item = document.createElement("li");
    const track = event.track == null ? "" : ` #${event.track}`;
    const region = event.region ? ` ${event.region}` : "";
    const what = document.createElement("span");
    what.textContent = `${event.name}${track} ${event.kind.replaceAll("_", " ")}${region}`;
    const when = document.createElement("time");
    when.textContent = `${event.camera}, ${lasting(event.ago_s)} ago`;
    item.append(what, when);
    return item;
  });
  $("events").replaceChildren(...items);
}

async function showPicture(data) {
  const length = new DataView(data).getUint32(0);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const card = cardOf(told.camera);
  const picture = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  const { canvas } = card;
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
    card.view.style.aspectRatio = `${picture.width} / ${picture.height}`;
  }
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  canvas.dataset.frame = told.frame_id;
  const scale = picture.width / told.image.width;
  for (const one of told.detections) drawBox(context, one, scale);
  picture.close();
  if (card.blind.hidden) showSeen(card, told);
}

function drawBox(context, one, scale) {
  const color = `hsl(${((one.track ?? one.id) * 137.5) % 360} 85% 65%)`;
  const { cx, cy, w, h } = one.box;
  const [left, top] = [(cx - w / 2) * scale, (cy - h / 2) * scale];
  context.lineWidth = 2;
  context.strokeStyle = color;
  if (one.corners.length) strokeTag(context, one.corners, scale);
  else context.strokeRect(left, top, w * scale, h * scale);
  const text = `${one.name}${one.track == null ? "" : ` #${one.track}`} ${one.score.toFixed(2)}`;
  context.font = "600 13px system-ui, sans-serif";
  const width = context.measureText(text).width + 8;
  const y = Math.max(top - 18, 0);
  context.fillStyle = color;
  context.fillRect(left - 1, y, width, 18);
  context.fillStyle = "#101317";
  context.fillText(text, left + 3, y + 13);
}

function strokeTag(context, corners, scale) {
  context.beginPath();
  for (const [x, y] of corners) context.lineTo(x * scale, y * scale);
  context.closePath();
  context.stroke();
}

function showSeen(card, told) {
  const areas = told.areas.map((one) => ({ name: one.name, score: one.fraction }));
  const seen = [...told.detections, ...told.labels, ...areas].slice(0, SHOWN_LABELS);
  const items = seen.map((one) => {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = one.track == null ? one.name : `${one.name} #${one.track}`;
    const score = document.createElement("span");
    score.className = "score";
    score.textContent = one.score.toFixed(2);
    const meter = document.createElement("meter");
    meter.value = one.score;
    meter.setAttribute("aria-label", `score of ${one.name}`);
    item.append(name, score, meter);
    return item;
  });
  if (!items.length) {
    const item = document.createElement("li");
    item.textContent = "nothing seen";
    items.push(item);
  }
  card.seen.replaceChildren(...items);
  const now = performance.now();
  if (now - card.described > 1000) {
    card.described = now;
    const names = seen.map((one) => one.name).join(", ") || "nothing";
    card.canvas.setAttribute("aria-label", `camera ${card.name}: ${names}`);
  }
}

function showControls(told) {
  allowed = told.allow_control;
  $("controls").hidden = !allowed;
  const settings = `${told.session} ${told.settings} ${task}`;
  if (allowed && task && settings !== shownSettings) {
    shownSettings = settings; // also when somebody else has changed them
    showThreshold();
  }
  for (const card of cards.values()) card.snapshot.hidden = !allowed;
  paused = told.cameras.length > 0 && told.cameras.every((one) => one.status === "paused");
  recording = told.recording?.state === "recording";
  press($("pause"), paused, paused ? "Resume" : "Pause");
  press($("record"), recording, recording ? "Stop recording" : "Record");
  $("recorded").hidden = !recording;
}

function press(button, pressed, text) {
  if (button.textContent !== text) button.textContent = text;
  button.setAttribute("aria-pressed", pressed);
}

async function command(name, given = {}) {
  try {
    const answer = await fetch("control", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ command: name, arguments: given }),
    });
    if (answer.ok) return answer;
    tell((await answer.json()).error);
  } catch {
    tell("the node is not reached");
  }
  return null;
}

let untold = 0;
function tell(text) {
  $("told").textContent = text;
  clearTimeout(untold);
  untold = setTimeout(() => ($("told").textContent = ""), 5000);
}

async function showThreshold() {
  const answer = await command("status");
  if (!answer) return;
  const { settings } = await answer.json();
  $("threshold-label").hidden = task !== "detect";
  $("threshold").value = settings.detect.score;
  $("threshold-value").textContent = Number(settings.detect.score).toFixed(2);
}

async function snapshot(camera) {
  const answer = await command("snapshot", { camera });
  if (!answer) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = `${camera}.jpg`;
  link.click();
  URL.revokeObjectURL(link.href);
  tell(`${camera}.jpg is saved`);
}

$("pause").onclick = async () => {
  const what = paused ? "resume" : "pause";
  if (await command(what)) tell(paused ? "looking again" : "paused: nothing is looked at");
};
$("record").onclick = async () => {
  const answer = await command("record", { action: recording ? "stop" : "start" });
  if (answer) tell(`${recording ? "recorded" : "recording into"} ${(await answer.json()).file}`);
};
$("threshold").oninput = ({ target }) =>
  ($("threshold-value").textContent = Number(target.value).toFixed(2));
$("threshold").onchange = async ({ target }) => {
  if (await command("set", { settings: { "detect.score": Number(target.value) } }))
    tell(`least score ${Number(target.value).toFixed(2)}`);
};
document.addEventListener("visibilitychange", ask);
setInterval(() => {
  if (socket?.readyState === WebSocket.OPEN && performance.now() - heardAt > SILENT_MS) gone();
}, 500);

const age = (seconds) =>
  seconds < 1 ? `${Math.round(seconds * 1000)} ms` : lasting(seconds);
const lasting = (seconds) => {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
};

connect();
