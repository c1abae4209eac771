#!/usr/bin/env node
// Check eno-parse.json with a parser that shares nothing with the package:
//
//     node vectors/verify_eno.mjs [FILE...]
//
// RFC 8547 sections 4.1, 4.2 and 4.4.  Prints one line per file, names the
// first difference of each vector that fails, and exits 1 if any does.

import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";

class IllFormed extends Error {}

/** A queue of bytes: the grammar below only ever takes from its front. */
function queueOf(hex) {
  if (!/^([0-9a-f]{2})*$/.test(hex)) throw new Error(`not lower-case hex: ${hex}`);
  return hex.match(/../g)?.map((pair) => parseInt(pair, 16)) ?? [];
}

const toHex = (bytes) => bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Section 4.4: a suboption whose data a length byte announced. */
function announced(queue, size) {
  if (queue.length === 0) throw new IllFormed("ENO_DATA_PAST_END");
  const first = queue.shift();
  const value = first & 0x7f;
  // Only bit v = 1 with a TEP identifier, glt >= 0x20, may follow.
  if (first === value || value < 0x20) throw new IllFormed("ENO_RESERVED_LENGTH");
  if (size > queue.length) throw new IllFormed("ENO_DATA_PAST_END");
  return { tep: value, v: true, data: toHex(queue.splice(0, size)) };
}

/** Section 4.1: one suboption by its bit v and its glt. */
function suboption(queue) {
  const first = queue.shift();
  const v = first >> 7 === 1;
  const glt = first & 0x7f;
  if (glt < 0x20) return v ? announced(queue, glt + 1) : { global: glt };
  return { tep: glt, v, data: v ? toHex(queue.splice(0)) : "" };
}

function parse(hex) {
  const queue = queueOf(hex);
  const [kind, length] = queue;
  if (kind !== 69 || length !== queue.length || length > 40) throw new Error("no ENO option");
  queue.splice(0, 2);
  const all = [];
  while (queue.length > 0) all.push(suboption(queue));
  const globals = all.filter((one) => "global" in one);
  return {
    global: globals.length > 0 ? globals[0].global : 0,
    suboptions: all.filter((one) => "tep" in one),
  };
}

/** What is wrong with a vector, or null. */
function fault(vector) {
  const judged = ["result", "error"].filter((key) => key in vector);
  if (judged.length !== 1) return "must have either result or error";
  if (typeof vector.why !== "string" || !vector.why.startsWith("RFC 8547 section ")) {
    return "why must cite RFC 8547";
  }
  let found;
  try {
    found = { result: parse(vector.contents) };
  } catch (error) {
    if (!(error instanceof IllFormed)) return error.message;
    found = { error: error.message };
  }
  const stated = { [judged[0]]: vector[judged[0]] };
  if (isDeepStrictEqual(found, stated)) return null;
  return `stated ${JSON.stringify(stated)}, found ${JSON.stringify(found)}`;
}

const beside = new URL("eno-parse.json", import.meta.url);
const files = process.argv.length > 2 ? process.argv.slice(2) : [beside];
for (const file of files) {
  const { format, vectors } = JSON.parse(readFileSync(file, "utf8"));
  if (format !== "tcpcrypt-eno-1") throw new Error(`${file}: format is ${format}`);
  const faults = vectors.map((vector) => [vector.name, fault(vector)]).filter(([, text]) => text);
  for (const [name, text] of faults) console.error(`${name}: ${text}`);
  if (new Set(vectors.map(({ name }) => name)).size !== vectors.length) {
    faults.push(["names", "not unique"]);
    console.error("names are not unique");
  }
  console.log(`${vectors.length} vectors, ${faults.length || "none"} wrong`);
  if (faults.length > 0 || vectors.length === 0) process.exitCode = 1;
}
