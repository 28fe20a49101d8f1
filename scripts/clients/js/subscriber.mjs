// A whole subscriber in JavaScript: npm install, then
//   node subscriber.mjs [ENDPOINT] [CAMERA] [COUNT]
// Prints what is seen, and says so when nothing can be known. Acts on the newest message only.
// Exit codes: 0 after COUNT messages, 1 when nothing comes for 5 s, 2 for bad usage.

import { readFileSync, readlinkSync } from "node:fs";
import { decode } from "@msgpack/msgpack";
import { Subscriber } from "zeromq";

const FRESH_MS = 500;
const GIVE_UP_MS = 5000;
const bootId = readBootId();
const lastSeq = new Map(); // by camera: session and number of the newest message

function readBootId() {
  try {
    const id = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const space = readlinkSync("/proc/self/ns/time"); // its clocks are its own
    return space === "time:[4026531834]" ? id : `${id} ${space}`;
  } catch {
    return null; // not Linux: ages are by the wall clock
  }
}

// How long the computer was suspended since a message's stamp. JavaScript reads no CLOCK_BOOTTIME;
// /proc/uptime is it, in steps of 10 ms.
function suspendedNs(message) {
  if (message.stamp_boot_ns == null) return 0n;
  const uptime = readFileSync("/proc/uptime", "utf8").split(" ")[0].replace(".", "");
  const now = BigInt(uptime) * 10_000_000n - process.hrtime.bigint();
  const slept = now - (BigInt(message.stamp_boot_ns) - BigInt(message.stamp_mono_ns));
  return slept > 50_000_000n ? slept : 0n;
}

// How old the frame is at most: the picture of a stream can be older than its stamp.
// Exact on the node's own computer, whatever its wall clock does; elsewhere as good as the
// synchronisation of the clocks. Stamps are 64-bit integers, so BigInt.
function ageMs(message) {
  if (message.stamp_ns == null) return null;
  const exact = message.stamp_mono_ns != null && message.boot_id === bootId;
  const elapsed = exact
    ? process.hrtime.bigint() - BigInt(message.stamp_mono_ns) + suspendedNs(message)
    : BigInt(Date.now()) * 1_000_000n - BigInt(message.stamp_ns);
  return Number((elapsed + BigInt(message.stamp_uncertainty_ns ?? 0)) / 1000n) / 1000;
}

function lost(message) {
  const seq = Number(message.seq);
  const before = lastSeq.get(message.camera);
  lastSeq.set(message.camera, { session: message.session, seq });
  return before?.session === message.session ? Math.max(0, seq - before.seq - 1) : 0;
}

function seen(message) {
  const box = (b) => ` at ${b.cx.toFixed(0)},${b.cy.toFixed(0)} ${b.w.toFixed(0)}x${b.h.toFixed(0)}`;
  const things = [...(message.detections ?? []), ...(message.labels ?? []).slice(0, 3)];
  const told = things.map((one) => `${one.name} ${one.score.toFixed(2)}${one.box ? box(one.box) : ""}`);
  return told.join(", ") || "nothing seen";
}

function tell(message) {
  const missed = lost(message);
  const gap = missed ? `  (${missed} lost)` : "";
  if (message.status === "paused") return `${message.camera}  not looking${gap}`;
  if (message.status !== "ok") return `${message.camera}  cannot see: ${message.status}${gap}`;
  return `${message.camera}  ok  ${ageMs(message).toFixed(1)} ms  ${seen(message)}${gap}`;
}

const [endpoint = "tcp://127.0.0.1:5570", camera = "", countText = "0"] = process.argv.slice(2);
const count = Number(countText);
if (!Number.isInteger(count) || count < 0) {
  console.error(`COUNT ${countText} is no number of messages`);
  process.exit(2);
}

const socket = new Subscriber({ receiveHighWaterMark: 256, linger: 0 });
socket.connect(endpoint);
socket.subscribe(camera ? `labels/${camera}/` : "labels/");

let heard = Date.now();
let told = 0;
const watch = setInterval(() => {
  const silent = Date.now() - heard;
  if (silent > FRESH_MS) console.log("stop: no fresh message");
  if (count && silent > GIVE_UP_MS) {
    console.error(`${endpoint}: no message for 5 s; is the node running, on this endpoint?`);
    process.exit(1);
  }
}, FRESH_MS);

const newest = new Map(); // by camera: what came since the last look
for await (const [, body] of socket) {
  heard = Date.now();
  const message = decode(body, { useBigInt64: true });
  if (!newest.size) setImmediate(look); // after all that has arrived was read
  newest.set(message.camera, message);
}

function look() {
  for (const message of newest.values()) {
    console.log(tell(message));
    told += 1;
    if (count && told >= count) {
      clearInterval(watch);
      process.exit(0);
    }
  }
  newest.clear();
}
