#!/usr/bin/env node
// Check tcpcrypt-vectors-1 files with code that shares nothing with the package:
//
//     node vectors/verify.mjs [FILE...]
//
// Every value is recomputed from both private keys, the nonces, the options and
// the data, with Node's crypto alone; every frame is opened and sealed again.
// Section numbers are those of RFC 8548.  Prints one line per file, names the
// first difference of each vector that fails, and exits 1 if any does.

import {
  createCipheriv, createDecipheriv, createECDH, createHmac, createPrivateKey, createPublicKey,
  diffieHellman,
} from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

let checked = 0;

function same(what, stated, computed) {
  checked += 1;
  const [x, y] = [stated, computed].map((v) => (Buffer.isBuffer(v) ? v.toString("hex") : v));
  if (x !== y) throw new Error(`${what}: stated ${clip(x)}, computed ${clip(y)}`);
}

const clip = (value) => (String(value).length > 80 ? `${String(value).slice(0, 80)}...` : value);

function unhex(what, text) {
  if (typeof text !== "string" || !/^([0-9a-f]{2})*$/.test(text)) {
    throw new Error(`${what}: not lower-case hex`);
  }
  return Buffer.from(text, "hex");
}

function number(value, length) {
  const buffer = Buffer.alloc(length);
  buffer.writeUIntBE(value, 0, length);
  return buffer;
}

// --- sections 3.1 and 5: HKDF with SHA-256

const hmac = (key, ...parts) =>
  parts.reduce((mac, part) => mac.update(part), createHmac("sha256", key)).digest();

function cprf(key, info, length) {
  const blocks = [];
  for (let last = Buffer.alloc(0), n = 1; blocks.length * 32 < length; n += 1) {
    last = hmac(key, last, info, Buffer.of(n));
    blocks.push(last);
  }
  return Buffer.concat(blocks).subarray(0, length);
}

// --- section 5: groups

class Montgomery {
  // The DER that comes before a raw key (RFC 8410 section 7).
  constructor(keyLength, pkcs8, spki) {
    this.wireLength = keyLength;
    this.pkcs8 = Buffer.from(pkcs8, "hex");
    this.spki = Buffer.from(spki, "hex");
  }
  private(raw) {
    const key = Buffer.concat([this.pkcs8, raw]);
    return createPrivateKey({ key, format: "der", type: "pkcs8" });
  }
  publicOf(raw) {
    const spki = createPublicKey(this.private(raw)).export({ format: "der", type: "spki" });
    return spki.subarray(this.spki.length);
  }
  shared(raw, peer) {
    const key = Buffer.concat([this.spki, peer]);
    const publicKey = createPublicKey({ key, format: "der", type: "spki" });
    return diffieHellman({ privateKey: this.private(raw), publicKey });
  }
}

class Nist {
  constructor(curve, fieldLength) {
    this.curve = curve;
    this.wireLength = 2 + 1 + fieldLength;
  }
  pair(raw) {
    const pair = createECDH(this.curve);
    pair.setPrivateKey(raw);
    return pair;
  }
  publicOf(raw) {
    const point = this.pair(raw).getPublicKey(null, "compressed");
    return Buffer.concat([number(2 + point.length, 2), point]);
  }
  shared(raw, peer) {
    return this.pair(raw).computeSecret(peer.subarray(2));
  }
}

const GROUPS = {
  0x21: new Nist("prime256v1", 32),
  0x22: new Nist("secp521r1", 66),
  0x23: new Montgomery(32, "302e020100300506032b656e04220420", "302a300506032b656e032100"),
  0x24: new Montgomery(56, "3046020100300506032b656f043a0438", "3042300506032b656f033900"),
};

// --- section 7: AEADs; all have a nonce of 12 bytes and a tag of 16

const AEADS = {
  0x0001: { cipher: "aes-128-gcm", key: 16 },
  0x0002: { cipher: "aes-256-gcm", key: 32 },
  0x0010: { cipher: "chacha20-poly1305", key: 32 },
};
const [NONCE, TAG] = [12, 16];

/** Section 4.2.3: the stream offset, XORed into the end of the randomizer. */
function frameNonce(trafficKey, offset) {
  const nonce = Buffer.from(trafficKey.subarray(-NONCE));
  const tail = nonce.readBigUInt64BE(4) ^ BigInt(offset);
  nonce.writeBigUInt64BE(tail, 4);
  return nonce;
}

function seal(aead, trafficKey, offset, header, plaintext) {
  const key = trafficKey.subarray(0, aead.key);
  const cipher = createCipheriv(aead.cipher, key, frameNonce(trafficKey, offset), {
    authTagLength: TAG,
  });
  cipher.setAAD(header, { plaintextLength: plaintext.length });
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

function open(aead, trafficKey, offset, header, sealed) {
  const key = trafficKey.subarray(0, aead.key);
  const decipher = createDecipheriv(aead.cipher, key, frameNonce(trafficKey, offset), {
    authTagLength: TAG,
  });
  const length = sealed.length - TAG;
  decipher.setAAD(header, { plaintextLength: length });
  decipher.setAuthTag(sealed.subarray(length));
  return Buffer.concat([decipher.update(sealed.subarray(0, length)), decipher.final()]);
}

// --- RFC 8547 section 4: SYN options

function synOption(what, option) {
  if (option[0] !== 69 || option[1] !== option.length) throw new Error(`${what}: not an ENO option`);
  const found = { global: null, teps: [] };
  let rest = option.subarray(2);
  while (rest.length > 0) {
    const byte = rest[0];
    let used = 1;
    if (byte < 0x20) {
      found.global ??= byte;
    } else if (byte < 0x80) {
      found.teps.push({ byte, data: null });
    } else {
      const announced = byte < 0xa0;
      const from = announced ? 2 : 1;
      used = announced ? 2 + (byte & 0x1f) + 1 : rest.length;
      if (used > rest.length || rest[from - 1] < 0xa0) throw new Error(`${what}: ill-formed`);
      found.teps.push({ byte: rest[from - 1], data: rest.subarray(from, used) });
    }
    rest = rest.subarray(used);
  }
  return found;
}

/** RFC 8547 section 4.5: the last TEP of host B's option that host A offers too. */
function negotiate(what, a, b) {
  const [optionA, optionB] = [synOption(`${what} of A`, a), synOption(`${what} of B`, b)];
  same(`${what} of A: bit b`, 0, (optionA.global ?? 0) & 1);
  same(`${what} of B: bit b`, 1, (optionB.global ?? 0) & 1);
  const tep = (suboption) => suboption.byte & 0x7f;
  const offered = new Map(optionA.teps.map((s) => [tep(s), s]));
  const answer = optionB.teps.filter((s) => offered.has(tep(s))).at(-1);
  if (answer === undefined) throw new Error(`${what}: no TEP in common`);
  return { tep: tep(answer), answer, offer: offered.get(tep(answer)) };
}

// --- section 4.1: Init1 and Init2

function initMessage(magic, ciphers, nonce, publicKey, ignored) {
  const rest = Buffer.concat([ciphers, nonce, publicKey, ignored]);
  return Buffer.concat([Buffer.from(magic, "hex"), number(8 + rest.length, 4), rest]);
}

// --- sections 3.6 to 3.8: frames

function verifyFrames(what, frames, aead, starts, trafficKey) {
  const offset = { ...starts };
  const generation = { A: 0, B: 0 };
  const ended = { A: false, B: false };
  frames.forEach((frame, index) => {
    const name = `${what}[${index}]`;
    const who = { A: "A", B: "B", "original A": "A", "original B": "B" }[frame.sender];
    if (who === undefined) throw new Error(`${name}.sender: ${frame.sender}`);
    if (ended[who]) throw new Error(`${name}: follows the frame with FINp`);
    const wire = unhex(`${name}.frame`, frame.frame);
    const data = unhex(`${name}.data`, frame.data);
    const [rekey, fin] = [frame.rekey ?? false, frame.fin ?? false];
    const urgent = frame.urgent ?? null;
    if (rekey) generation[who] += 1;
    same(`${name}.offset`, frame.offset, offset[who]);
    same(`${name}.generation`, frame.generation ?? generation[who], generation[who]);
    const key = trafficKey(who, generation[who]);

    const flags = Buffer.of((fin ? 1 : 0) | (urgent === null ? 0 : 2));
    const field = urgent === null ? Buffer.alloc(0) : number(urgent, 2);
    const plaintext = Buffer.concat([flags, field, data]);
    const header = Buffer.concat([Buffer.of(rekey ? 1 : 0), number(plaintext.length + TAG, 2)]);
    let opened;
    try {
      opened = open(aead, key, offset[who], wire.subarray(0, 3), wire.subarray(3));
    } catch {
      throw new Error(`${name}.frame: does not authenticate`);
    }
    same(`${name}: plaintext`, plaintext, opened);
    const sealed = seal(aead, key, offset[who], header, plaintext);
    same(`${name}.frame`, wire, Buffer.concat([header, sealed]));
    offset[who] += wire.length;
    ended[who] = fin;
  });
}

// --- sections 3.3 to 3.5

function verifyVector(v) {
  const get = (name) => unhex(name, v[name]);
  const aead = AEADS[v.aead];
  if (aead === undefined) throw new Error(`aead: ${v.aead} is not known`);
  const keyLength = aead.key + NONCE;
  const { tep, answer } = negotiate("eno", get("eno_a"), get("eno_b"));
  same("tep", v.tep, tep);
  const group = GROUPS[tep];
  if (group === undefined) throw new Error(`tep: ${tep} is not known`);

  const publicA = group.publicOf(get("private_a"));
  const publicB = group.publicOf(get("private_b"));
  same("public key length", group.wireLength, publicA.length);
  if (!v.ciphers.includes(v.aead)) throw new Error("aead: not in ciphers");
  const list = Buffer.concat([Buffer.of(v.ciphers.length), ...v.ciphers.map((c) => number(c, 2))]);
  const [ignored1, ignored2] = [v.init1_ignored ?? "", v.init2_ignored ?? ""].map((text) =>
    unhex("ignored", text));
  const [init1, init2] = [get("init1"), get("init2")];
  same("init1", init1, initMessage("15101a0e", list, get("n_a"), publicA, ignored1));
  same("init2", init2, initMessage("097105e0", number(v.aead, 2), get("n_b"), publicB, ignored2));
  const es = group.shared(get("private_a"), publicB);
  same("es", get("es"), es);
  same("es", get("es"), group.shared(get("private_b"), publicA));

  const prk = hmac(get("n_a"), get("eno_a"), get("eno_b"), init1, init2, es);
  same("prk", get("prk"), prk);
  const sessionId = (byte, ss, sn) =>
    Buffer.concat([Buffer.of(byte), cprf(ss, Buffer.concat([Buffer.of(2), sn]), 32)]);
  same("session_id", get("session_id"), sessionId(answer.byte, prk, Buffer.alloc(0)));
  const ss1 = cprf(prk, Buffer.of(1), 32);
  same("ss1", get("ss1"), ss1);
  same("ss2", get("ss2"), cprf(ss1, Buffer.of(1), 32));
  const resume1 = cprf(ss1, Buffer.of(6), 18);
  same("resume1", get("resume1"), resume1);

  const masters = [cprf(prk, Buffer.of(3), 32)];
  const master = (j) => (masters[j] ??= cprf(master(j - 1), Buffer.of(3), 32));
  const trafficKey = (who, j) => cprf(master(j), Buffer.of(who === "A" ? 4 : 5), keyLength);
  v.mk.forEach((mk, j) => same(`mk[${j}]`, unhex("mk", mk), master(j)));
  v.k_ab.forEach((k, j) => same(`k_ab[${j}]`, unhex("k_ab", k), trafficKey("A", j)));
  v.k_ba.forEach((k, j) => same(`k_ba[${j}]`, unhex("k_ba", k), trafficKey("B", j)));
  const starts = { A: init1.length, B: init2.length };
  verifyFrames("frames", v.frames, aead, starts, trafficKey);

  if (v.resumed !== undefined) {
    const getR = (name) => unhex(`resumed.${name}`, v.resumed[name]);
    const options = negotiate("resumed.eno", getR("eno_opener"), getR("eno_passive"));
    same("resumed: tep", tep | 0x80, options.answer.byte);
    same("resumed: tep", tep | 0x80, options.offer.byte);
    const [nonceA, nonceB] = [getR("nonce_a"), getR("nonce_b")];
    if (Math.max(nonceA.length, nonceB.length) > 8) throw new Error("resumed: nonce over 8 bytes");
    // What a host sends follows from its role in the original session.
    const sent = [
      Buffer.concat([resume1.subarray(0, 9), nonceA]),
      Buffer.concat([resume1.subarray(9), nonceB]),
    ];
    const openerIsA = { "original A": true, "original B": false }[v.resumed.opener];
    if (openerIsA === undefined) throw new Error(`resumed.opener: ${v.resumed.opener}`);
    same("resumed.eno_opener", options.offer.data, sent[openerIsA ? 0 : 1]);
    same("resumed.eno_passive", options.answer.data, sent[openerIsA ? 1 : 0]);
    const sn = Buffer.concat([nonceA, nonceB]);
    same("resumed.session_id", getR("session_id"), sessionId(tep | 0x80, ss1, sn));
    const mk0 = cprf(ss1, Buffer.concat([Buffer.of(3), sn]), 32);
    same("resumed.mk0", getR("mk0"), mk0);
    const keys = { A: cprf(mk0, Buffer.of(4), keyLength), B: cprf(mk0, Buffer.of(5), keyLength) };
    same("resumed.k_ab0", getR("k_ab0"), keys.A);
    same("resumed.k_ba0", getR("k_ba0"), keys.B);
    const keyOf = (who, j) => {
      if (j > 0) throw new Error("resumed: frames of generation 0 alone are published");
      return keys[who];
    };
    verifyFrames("resumed.frames", v.resumed.frames, aead, { A: 0, B: 0 }, keyOf);
  }
}

function published() {
  const here = dirname(fileURLToPath(import.meta.url));
  return ["", "peers"].flatMap((folder) =>
    readdirSync(join(here, folder))
      .filter((name) => /^rfc8548.*\.json$/.test(name))
      .map((name) => join(here, folder, name)));
}

let failed = false;
const files = process.argv.length > 2 ? process.argv.slice(2) : published();
for (const file of files) {
  const { format, vectors } = JSON.parse(readFileSync(file, "utf8"));
  if (format !== "tcpcrypt-vectors-1") throw new Error(`${file}: format ${format}`);
  let good = 0;
  for (const vector of vectors) {
    try {
      verifyVector(vector);
      good += 1;
    } catch (error) {
      failed = true;
      console.log(`${file}: ${vector.name}: ${error.message}`);
    }
  }
  console.log(`${file}: ${good} of ${vectors.length} vectors match`);
}
console.log(`${checked} values checked`);
process.exit(failed || files.length === 0 ? 1 : 0);
