// A capture through lb_core.wasm: `node replay.mjs MODULE IMAGE CAPTURE` prints each packet's verdict, length and hash.
// Structs are laid out as lb_core.h has them for a machine with 32-bit pointers.
import { readFileSync } from "node:fs";

const [module, image, capture] = process.argv.slice(2).map((path) => readFileSync(path));
const { instance } = await WebAssembly.instantiate(module);
const lb = instance.exports;

// All memory is the caller's: a bump of pages behind the module's own.
let top = lb.__heap_base.value;
function take(size, alignment = 64) {
  const at = Math.ceil(top / alignment) * alignment;
  top = at + size;
  const missing = top - lb.memory.buffer.byteLength;
  if (missing > 0) lb.memory.grow(Math.ceil(missing / 65536));
  return at;
}
const view = () => new DataView(lb.memory.buffer);
const bytes = (at, length) => new Uint8Array(lb.memory.buffer, at, length);
const put = (at, ...words) => words.forEach((word, i) => view().setUint32(at + 4 * i, word, true));
function text(at) {
  let end = at;
  while (bytes(end, 1)[0] !== 0) end++;
  return Buffer.from(bytes(at, end - at)).toString();
}
function ok(status) {
  if (status !== 0) throw new Error(text(lb.lb_status_text(status)));
}

const LAYOUT = 12, CONFIG = 176, PACKET = 56, VERDICT = 24, ROOM = 2048;
function laid_out(call) {
  const layout = take(LAYOUT);
  put(layout, LAYOUT);
  ok(call(layout));
  const size = view().getUint32(layout + 8, true);
  return [take(size), size];
}
const handle = take(4);

const rules_image = take(image.length);
bytes(rules_image, image.length).set(image);
ok(lb.lb_rules_load(...laid_out((layout) => lb.lb_rules_layout(0, layout)), rules_image, image.length, handle, 0));
const rules = view().getUint32(handle, true);

const sizes = take(28), config = take(CONFIG);
put(sizes, 28, 256, 256, 32, 16, 16, 16);
put(config, CONFIG);
ok(lb.lb_config_linux(config));
ok(lb.lb_balancer_init(...laid_out((layout) => lb.lb_balancer_layout(sizes, layout)), config, sizes, rules, handle));
const balancer = view().getUint32(handle, true);

const packet = take(PACKET + 8), data = take(ROOM), reply = take(ROOM), written = take(4);
function hash(at, length) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of bytes(at, length)) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return hash.toString(16).padStart(16, "0");
}

const started = capture.readUInt32LE(24);
for (let at = 24; at < capture.length; ) {
  const length = capture.readUInt32LE(at + 8);
  const seconds = capture.readUInt32LE(at) - started;
  const now = BigInt(seconds) * 1_000_000_000n + BigInt(capture.readUInt32LE(at + 4)) * 1000n;
  bytes(data, length).set(capture.subarray(at + 16, at + 16 + length));
  bytes(packet, PACKET).fill(0);
  put(packet, PACKET);
  put(packet + 12, data, length);
  ok(lb.lb_process_batch(balancer, now, packet, 1));
  const [action, code] = bytes(packet + VERDICT, 2);
  let [out, size] = [data, length];
  if (action === 5) {
    ok(lb.lb_write_reply(balancer, now, packet, reply, ROOM, written));
    [out, size] = [reply, view().getUint32(written, true)];
  }
  console.log(text(lb.lb_code_label(code)), size, hash(out, size));
  at += 16 + length;
}
