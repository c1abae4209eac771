#!/usr/bin/env node
// Check tcpcrypt-authenticated-1 files with code that shares nothing with the package:
//
//     node vectors/verify_authenticated.mjs [FILE...]
//
// Every value is recomputed from the private keys, nonces, options and data, with
// Node's crypto alone; C_B and every frame are opened and sealed again.  The
// protocol is that of docs/authenticated-tep.md.  Where this Node has ML-KEM (from
// version 24.7 on) the ciphertext of version 2 is decapsulated; elsewhere the
// stated ML-KEM secret is taken, and the last line says so.  (It is one of
// Wycheproof's, as are the key and the ciphertext.)

import * as crypto from "node:crypto";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const { createCipheriv, createDecipheriv, createHash, createHmac } = crypto;
let [checked, kemTaken] = [0, 0];

const clip = (value) => (String(value).length > 80 ? `${String(value).slice(0, 80)}...` : value);

function same(what, stated, computed) {
  checked += 1;
  const [x, y] = [stated, computed].map((v) => (Buffer.isBuffer(v) ? v.toString("hex") : v));
  if (x !== y) throw new Error(`${what}: stated ${clip(x)}, computed ${clip(y)}`);
}

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

// --- primitives

const hmac = (key, ...parts) =>
  parts.reduce((mac, part) => mac.update(part), createHmac("sha256", key)).digest();
const sha256 = (data) => createHash("sha256").update(data).digest();

function cprf(key, info, length) {
  const blocks = [];
  for (let last = Buffer.alloc(0), n = 1; blocks.length * 32 < length; n += 1) {
    last = hmac(key, last, info, Buffer.of(n));
    blocks.push(last);
  }
  return Buffer.concat(blocks).subarray(0, length);
}

// The DER that comes before a raw X25519 key (RFC 8410 section 7), and before the
// seed of an ML-KEM-768 key (RFC 9935).
const PKCS8 = Buffer.from("302e020100300506032b656e04220420", "hex");
const SPKI = Buffer.from("302a300506032b656e032100", "hex");
const KEM_SEED = Buffer.from("3054020100300b060960864801650304040204428040", "hex");

const privateKey = (prefix, raw) =>
  crypto.createPrivateKey({ key: Buffer.concat([prefix, raw]), format: "der", type: "pkcs8" });
const publicOf = (raw) =>
  crypto.createPublicKey(privateKey(PKCS8, raw)).export({ format: "der", type: "spki" }).subarray(-32);
const dh = (raw, peer) =>
  crypto.diffieHellman({
    privateKey: privateKey(PKCS8, raw),
    publicKey: crypto.createPublicKey({
      key: Buffer.concat([SPKI, peer]), format: "der", type: "spki",
    }),
  });

const AEADS = {
  0x0001: { cipher: "aes-128-gcm", key: 16 },
  0x0002: { cipher: "aes-256-gcm", key: 32 },
  0x0010: { cipher: "chacha20-poly1305", key: 32 },
};
const [NONCE, TAG] = [12, 16];

function seal(aead, key, nonce, associated, plaintext) {
  const cipher = createCipheriv(aead.cipher, key, nonce, { authTagLength: TAG });
  cipher.setAAD(associated, { plaintextLength: plaintext.length });
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

function open(what, aead, key, nonce, associated, sealed) {
  const decipher = createDecipheriv(aead.cipher, key, nonce, { authTagLength: TAG });
  const length = sealed.length - TAG;
  decipher.setAAD(associated, { plaintextLength: length });
  decipher.setAuthTag(sealed.subarray(length));
  try {
    return Buffer.concat([decipher.update(sealed.subarray(0, length)), decipher.final()]);
  } catch {
    throw new Error(`${what}: does not authenticate`);
  }
}

// --- messages

/** The data of TEP 0x20 in a SYN option; a length byte stands before it unless it is last. */
function suboption(what, option, roleB) {
  if (option[0] !== 69 || option[1] !== option.length) throw new Error(`${what}: not an ENO option`);
  let [rest, globalByte, found] = [option.subarray(2), null, null];
  while (rest.length > 0) {
    const announced = rest[0] >= 0x80 && rest[0] < 0xa0;
    const from = announced ? 2 : 1;
    let used = 1;
    if (rest[0] < 0x20) globalByte ??= rest[0];
    if (rest[0] >= 0x80) used = announced ? 2 + (rest[0] & 0x1f) + 1 : rest.length;
    if (rest[from - 1] === 0xa0) found = rest.subarray(from, used);
    rest = rest.subarray(used);
  }
  same(`${what}: bit b`, roleB ? 1 : 0, (globalByte ?? 0) & 1);
  if (found === null) throw new Error(`${what}: no TEP 0x20`);
  return found;
}

function message(magic, ...parts) {
  const rest = Buffer.concat(parts);
  return Buffer.concat([Buffer.from(magic, "hex"), number(8 + rest.length, 4), rest]);
}

function verifyFrames(what, frames, aead, keys, offsets) {
  frames.forEach((frame, index) => {
    const name = `${what}[${index}]`;
    const who = frame.sender.at(-1);
    const key = keys[who];
    const nonce = Buffer.from(key.subarray(-NONCE));
    nonce.writeBigUInt64BE(nonce.readBigUInt64BE(4) ^ BigInt(offsets[who]), 4);
    same(`${name}.offset`, frame.offset, offsets[who]);
    const plaintext = Buffer.concat([Buffer.of(frame.fin ? 1 : 0), unhex(name, frame.data)]);
    const header = Buffer.concat([Buffer.of(0), number(plaintext.length + TAG, 2)]);
    const wire = unhex(name, frame.frame);
    const bare = key.subarray(0, aead.key);
    same(`${name}: plaintext`, plaintext,
      open(name, aead, bare, nonce, wire.subarray(0, 3), wire.subarray(3)));
    same(`${name}.frame`, wire,
      Buffer.concat([header, seal(aead, bare, nonce, header, plaintext)]));
    offsets[who] += wire.length;
  });
}

// --- one vector

function kemSecret(v, get) {
  if (v.version === 1) return Buffer.alloc(0);
  const stated = get("mlkem_secret");
  if (crypto.decapsulate === undefined) {
    kemTaken += 1;
    return stated;
  }
  const key = privateKey(KEM_SEED, get("mlkem_seed_a"));
  same("mlkem_secret", stated, Buffer.from(crypto.decapsulate(key, get("mlkem_ciphertext"))));
  return stated;
}

function verifyVector(v) {
  const get = (name) => unhex(name, v[name]);
  const aead = AEADS[v.aead];
  const [Z, empty] = [Buffer.alloc(32), Buffer.alloc(0)];
  const head = Buffer.concat([Buffer.from("TA"), Buffer.of(v.version)]);
  same("eno_a", head, suboption("eno_a", get("eno_a"), false));
  same("eno_b", head, suboption("eno_b", get("eno_b"), true));
  const eno = Buffer.concat([get("eno_a"), get("eno_b")]);

  const [eA, eB] = [publicOf(get("private_a")), publicOf(get("private_b"))];
  const [showsA, showsB] = [v.static_a !== undefined, v.static_b !== undefined];
  const [sA, sB] = [showsA ? publicOf(get("static_a")) : empty, showsB ? publicOf(get("static_b")) : empty];
  const hybrid = v.version === 2;
  const init1 = get("init1");
  // Of version 2 the encapsulation key is taken from the message where it cannot be computed.
  const keyAt = 8 + 1 + 2 * v.ciphers.length + 32;
  const kemKey = hybrid ? init1.subarray(keyAt, keyAt + 1184) : empty;
  if (hybrid && crypto.decapsulate !== undefined) {
    const spki = crypto.createPublicKey(privateKey(KEM_SEED, get("mlkem_seed_a")))
      .export({ format: "der", type: "spki" });
    same("init1: encapsulation key", kemKey, spki.subarray(-1184));
  }
  const ciphers = Buffer.concat([Buffer.of(v.ciphers.length), ...v.ciphers.map((c) => number(c, 2))]);
  const hint = v.psk === undefined ? empty : get("psk_hint");
  const f1 = Buffer.of((showsA ? 1 : 0) | (v.psk === undefined ? 0 : 2));
  same("init1", init1, message("15101a0e", ciphers, get("n_a"), kemKey, eA, f1, sA, hint));
  const size1 = (hybrid ? 1258 : 74) + 2 * v.ciphers.length;
  same("init1: length", init1.length, size1 + 32 * showsA + 8 * (hint.length > 0));

  const kem = kemSecret(v, get);
  const ES = Buffer.concat([kem, dh(get("private_a"), eB)]);
  same("es_ephemeral", get("es_ephemeral"), ES);
  same("es_ephemeral", ES, Buffer.concat([kem, dh(get("private_b"), eA)]));
  const se = showsA ? dh(get("static_a"), eB) : Z;
  const es = showsB ? dh(get("private_a"), sB) : Z;
  same("se", get("se"), se);
  same("es", get("es"), es);
  if (showsA) same("se", se, dh(get("private_b"), sA));
  if (showsB) same("es", es, dh(get("static_b"), eA));

  const init2 = get("init2");
  const fixed = hybrid ? 1163 : 75;
  const [i2a, i2b] = [init2.subarray(0, fixed), init2.subarray(0, -32)];
  let sealed = empty;
  if (showsB) {
    const k1 = hmac(get("n_a"), eno, init1, i2a, ES, se);
    same("k1", get("k1"), k1);
    const key = cprf(k1, Buffer.of(0x20), aead.key);
    const associated = Buffer.concat([init1, i2a]);
    sealed = seal(aead, key, Buffer.alloc(NONCE), associated, sB);
    same("c_b", get("c_b"), sealed);
    same("c_b: S_B", sB, open("c_b", aead, key, Buffer.alloc(NONCE), associated, sealed));
  }
  const prk = hmac(get("n_a"), eno, init1, i2b, ES, se, es, v.psk_used ? get("psk") : Z);
  same("prk", get("prk"), prk);
  const proof = cprf(prk, Buffer.of(0x21), 32);
  same("v_b", get("v_b"), proof);
  const f2 = Buffer.of((showsB ? 1 : 0) | (v.psk_used ? 2 : 0));
  const ciphertext = hybrid ? get("mlkem_ciphertext") : empty;
  same("init2", init2,
    message("097105e0", number(v.aead, 2), get("n_b"), ciphertext, eB, f2, sealed, proof));
  same("init2: length", init2.length, (hybrid ? 1195 : 107) + 48 * showsB);

  // Below PRK it is RFC 8548.
  const sessionId = (ss, sn) =>
    Buffer.concat([Buffer.of(0xa0), cprf(ss, Buffer.concat([Buffer.of(2), sn]), 32)]);
  const trafficKeys = (mk) => ({
    A: cprf(mk, Buffer.of(4), aead.key + NONCE), B: cprf(mk, Buffer.of(5), aead.key + NONCE),
  });
  same("session_id", get("session_id"), sessionId(prk, empty));
  const mk0 = cprf(prk, Buffer.of(3), 32);
  same("mk0", get("mk0"), mk0);
  const keys = trafficKeys(mk0);
  same("k_ab0", get("k_ab0"), keys.A);
  same("k_ba0", get("k_ba0"), keys.B);
  verifyFrames("frames", v.frames, aead, keys, { A: init1.length, B: init2.length });
  const ss1 = cprf(prk, Buffer.of(1), 32);
  same("ss1", get("ss1"), ss1);
  const resume1 = cprf(ss1, Buffer.of(6), 18);
  same("resume1", get("resume1"), resume1);

  const getR = (name) => unhex(`resumed.${name}`, v.resumed[name]);
  const [opener, passive] = v.resumed.opener === "original A" ? "AB" : "BA";
  const half = { A: resume1.subarray(0, 9), B: resume1.subarray(9) };
  const nonce = { A: getR("nonce_a"), B: getR("nonce_b") };
  same("resumed: nonce of the opener", 5, nonce[opener].length);
  same("resumed: nonce", 4, nonce[passive].length);
  for (const [name, who, roleB] of [["eno_opener", opener, false], ["eno_passive", passive, true]]) {
    same(`resumed.${name}`, suboption(name, getR(name), roleB),
      Buffer.concat([head, half[who], nonce[who]]));
    same(`resumed.${name}: length`, 20, getR(name).length);
  }
  const options = Buffer.concat([getR("eno_opener"), getR("eno_passive")]);
  const sn = Buffer.concat([nonce.A, nonce.B, sha256(options)]);
  same("resumed.sn", getR("sn"), sn);
  same("resumed.session_id", getR("session_id"), sessionId(ss1, sn));
  const master = cprf(ss1, Buffer.concat([Buffer.of(3), sn]), 32);
  same("resumed.mk0", getR("mk0"), master);
  const again = trafficKeys(master);
  same("resumed.k_ab0", getR("k_ab0"), again.A);
  same("resumed.k_ba0", getR("k_ba0"), again.B);
  verifyFrames("resumed.frames", v.resumed.frames, aead, again, { A: 0, B: 0 });
}

const here = dirname(fileURLToPath(import.meta.url));
const published = [1, 2].map((version) => join(here, `authenticated-v${version}.json`));
const files = process.argv.length > 2 ? process.argv.slice(2) : published;
let failed = false;
for (const file of files) {
  const { format, vectors } = JSON.parse(readFileSync(file, "utf8"));
  if (format !== "tcpcrypt-authenticated-1") throw new Error(`${file}: format ${format}`);
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
const taken = kemTaken > 0 ? `, the ML-KEM secret of ${kemTaken} vectors taken as stated` : "";
console.log(`${checked} values checked${taken}`);
process.exit(failed ? 1 : 0);
