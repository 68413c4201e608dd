// Reads every golden message with protobufjs and compares it with its meaning in JSON.
//   node read_frames.cjs PROTO_DIRECTORY kv_frames.json
// Prints the names of those that agree; exits with 3 where protobufjs is not found.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const assert = require("node:assert");

let protobuf;
try {
  protobuf = require("protobufjs");
} catch {
  process.exit(3);
}

const [protos, golden] = process.argv.slice(2);
const root = new protobuf.Root();
root.resolvePath = (_, target) => path.join(protos, target);
root.loadSync("shepherd_events/v1/kv_events.proto", { keepCase: true });

function kindOf(name) {
  if (name.endsWith("_request")) return "ControlRequest";
  return name.endsWith("_reply") ? "ControlReply" : "Frame";
}

const entries = JSON.parse(fs.readFileSync(golden, "utf8"));
for (const [name, { hex, message }] of Object.entries(entries)) {
  const type = root.lookupType(`shepherd_events.v1.${kindOf(name)}`);
  const options = { longs: String, enums: String, bytes: String };
  const read = type.toObject(type.decode(Buffer.from(hex, "hex")), options);
  const meant = type.toObject(type.fromObject(message), options);
  assert.deepStrictEqual(read, meant, name);
}
console.log(Object.keys(entries).sort().join("\n"));
