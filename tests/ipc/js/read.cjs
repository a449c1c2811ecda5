// Reads Arrow IPC payloads with the JavaScript apache-arrow package and prints what they hold.
//
//     node read.cjs MODULES < NAMES
//
// MODULES is the folder node_modules with apache-arrow, lz4js and fzstd. NAMES are paths of payloads, one a line. For
// each, one line of JSON goes out: {"columns": {NAME: [VALUES]}}, or {"error": MESSAGE}.

const fs = require("fs");
const path = require("path");

const modules = path.resolve(process.argv[2]);
const arrow = require(path.join(modules, "apache-arrow"));
const lz4 = require(path.join(modules, "lz4js"));
const zstd = require(path.join(modules, "fzstd"));

// The package brings no codecs of its own: an application registers them. It wants what they return to stand at the
// beginning of a buffer, hence slice().
arrow.compressionRegistry.set(arrow.CompressionType.LZ4_FRAME, { decode: (bytes) => lz4.decompress(bytes).slice() });
arrow.compressionRegistry.set(arrow.CompressionType.ZSTD, { decode: (bytes) => zstd.decompress(bytes).slice() });

// What JSON can hold: 64-bit integers as strings, bytes as hexadecimal, rows as objects, vectors as lists.
function plain(value) {
  if (value === null || value === undefined) return null;
  if (typeof value === "bigint") return String(value);
  if (typeof value !== "object") return value;
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (value instanceof Date) return value.toISOString();
  if (ArrayBuffer.isView(value) || value instanceof arrow.Vector || Array.isArray(value)) {
    return Array.from(value, plain);
  }
  return Object.fromEntries(Object.entries(value.toJSON()).map(([name, inner]) => [name, plain(inner)]));
}

function contents(name) {
  try {
    const table = arrow.tableFromIPC(fs.readFileSync(name));
    const columns = table.schema.fields.map((field, i) => [field.name, plain(table.getChildAt(i))]);
    return { columns: Object.fromEntries(columns) };
  } catch (error) {
    return { error: String(error) };
  }
}

for (const name of fs.readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  console.log(JSON.stringify(contents(name)));
}
