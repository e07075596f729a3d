// crypto and Math.random: every request draws its own numbers, though all start from one state.
// https://w3c.github.io/webcrypto
{
  const { host, bytes: bytes_of, needs } = wws;
  const data = (source) => bytes_of(source, "the data");
  const fail = (name, message) => { throw new DOMException(message, name); };
  const HASHES = ["SHA-1", "SHA-256", "SHA-384", "SHA-512"];
  const hash_of = (algorithm) => {
    const given = typeof algorithm === "object" ? algorithm?.name : algorithm;
    if (given === undefined) throw new TypeError("the algorithm has no name");
    const name = `${given}`.toUpperCase();
    if (!HASHES.includes(name)) fail("NotSupportedError", `${name} is not one of ${HASHES.join(", ")}`);
    return name;
  };
  const only_hmac = (algorithm) => {
    const given = typeof algorithm === "object" ? algorithm?.name : algorithm;
    if (given === undefined) throw new TypeError("the algorithm has no name");
    if (`${given}`.toUpperCase() !== "HMAC") fail("NotSupportedError", `keys of ${given} are not there: only HMAC is`);
  };
  const usages_of = (usages) => {
    usages = [...new Set(usages)];
    for (const usage of usages) {
      if (!["encrypt", "decrypt", "sign", "verify", "deriveKey", "deriveBits", "wrapKey", "unwrapKey"].includes(usage)) {
        throw new TypeError(`${JSON.stringify(usage)} is not a usage of keys`);
      }
      if (usage !== "sign" && usage !== "verify") fail("SyntaxError", `a key of HMAC cannot ${usage}`);
    }
    if (usages.length === 0) fail("SyntaxError", "a secret key needs a usage");
    return usages;
  };

  const make = Symbol("make");
  class CryptoKey {
    #raw; #algorithm; #extractable; #usages;
    constructor(key, raw, algorithm, extractable, usages) {
      if (key !== make) throw new TypeError("Illegal constructor");
      this.#raw = raw; this.#algorithm = algorithm; this.#extractable = Boolean(extractable); this.#usages = usages;
    }
    get type() { return "secret"; }
    get algorithm() { return this.#algorithm; }
    get extractable() { return this.#extractable; }
    get usages() { return this.#usages; }
    get [Symbol.toStringTag]() { return "CryptoKey"; }
    static raw(key) {
      if (!(key instanceof CryptoKey)) throw new TypeError("the key is no CryptoKey");
      return key.#raw;
    }
  }
  const raw_of = CryptoKey.raw;
  delete CryptoKey.raw;
  const equal = (a, b) => {
    let difference = a.length ^ b.length;
    for (let i = 0; i < a.length; i++) difference |= a[i] ^ b[i % (b.length || 1)];
    return difference === 0;
  };
  const hmac = (algorithm, key, usage, source) => {
    only_hmac(algorithm);
    const raw = raw_of(key);
    if (!key.usages.includes(usage)) fail("InvalidAccessError", `the key is not for ${usage}`);
    return host.hmac(key.algorithm.hash.name, raw, data(source));
  };
  // The bytes of a key, of whose last one only some bits may count.
  const key_of = (raw, length, hash, extractable, usages) => {
    const bits = 8 * raw.length;
    if (length !== undefined && (length > bits || length <= bits - 8)) fail("DataError", `the key has ${bits} bits, not ${length}`);
    return new CryptoKey(make, raw, { name: "HMAC", hash: { name: hash }, length: length ?? bits }, extractable, usages);
  };
  const from_jwk = (jwk, hash, extractable, usages) => {
    if (typeof jwk !== "object" || jwk === null || ArrayBuffer.isView(jwk) || jwk instanceof ArrayBuffer) throw new TypeError("a key of the format jwk is an object");
    if (jwk.kty !== "oct") fail("DataError", "the key's kty is not oct");
    if (typeof jwk.k !== "string") fail("DataError", "the key has no k");
    if (jwk.alg !== undefined && jwk.alg !== `HS${hash.slice(4)}`) fail("DataError", `the key's alg is ${jwk.alg}, not HS${hash.slice(4)}`);
    if (jwk.use !== undefined && jwk.use !== "sig") fail("DataError", "the key's use is not sig");
    if (jwk.key_ops !== undefined && !usages.every((usage) => jwk.key_ops.includes(usage))) fail("DataError", "the key's key_ops do not have all usages");
    if (jwk.ext === false && extractable) fail("DataError", "the key says that it is not extractable");
    try { return Uint8Array.fromBase64(jwk.k, { alphabet: "base64url" }); } catch { fail("DataError", "the key's k is not base64url"); }
  };

  class SubtleCrypto {
    constructor(key) { if (key !== make) throw new TypeError("Illegal constructor"); }
    async digest(algorithm, source) {
      needs(arguments.length, 2, "digest");
      return host.digest(hash_of(algorithm), data(source)).buffer;
    }
    async importKey(format, key, algorithm, extractable, usages) {
      needs(arguments.length, 5, "importKey");
      only_hmac(algorithm);
      const hash = hash_of(algorithm.hash);
      usages = usages_of(usages);
      let raw;
      if (format === "raw") raw = data(key).slice();
      else if (format === "jwk") raw = from_jwk(key, hash, extractable, usages);
      else fail("NotSupportedError", `keys of the format ${format} are not there: raw and jwk are`);
      if (raw.length === 0) fail("DataError", "the key has no bytes");
      return key_of(raw, algorithm.length, hash, extractable, usages);
    }
    async exportKey(format, key) {
      needs(arguments.length, 2, "exportKey");
      const raw = raw_of(key);
      if (!key.extractable) fail("InvalidAccessError", "the key is not extractable");
      if (format === "raw") return raw.slice().buffer;
      if (format !== "jwk") fail("NotSupportedError", `keys of the format ${format} are not there: raw and jwk are`);
      return {
        kty: "oct", k: raw.toBase64({ alphabet: "base64url", omitPadding: true }), alg: `HS${key.algorithm.hash.name.slice(4)}`,
        ext: key.extractable, key_ops: [...key.usages],
      };
    }
    async generateKey(algorithm, extractable, usages) {
      needs(arguments.length, 3, "generateKey");
      only_hmac(algorithm);
      const hash = hash_of(algorithm.hash);
      usages = usages_of(usages);
      const { length } = algorithm;
      if (length !== undefined && !(length > 0 && length <= 65536)) fail("OperationError", `a key cannot have ${length} bits`);
      const bits = length ?? (hash === "SHA-1" || hash === "SHA-256" ? 512 : 1024);
      return key_of(wws.random(Math.ceil(bits / 8)), bits, hash, extractable, usages);
    }
    async sign(algorithm, key, source) {
      needs(arguments.length, 3, "sign");
      return hmac(algorithm, key, "sign", source).buffer;
    }
    async verify(algorithm, key, signature, source) {
      needs(arguments.length, 4, "verify");
      return equal(hmac(algorithm, key, "verify", source), data(signature));
    }
    get [Symbol.toStringTag]() { return "SubtleCrypto"; }
  }
  for (const name of ["encrypt", "decrypt", "deriveBits", "deriveKey", "wrapKey", "unwrapKey"]) {
    Object.defineProperty(SubtleCrypto.prototype, name, {
      value: { async [name]() { fail("NotSupportedError", `crypto.subtle.${name} is not there: digest, and HMAC with sign and verify, are`); } }[name],
      writable: true, enumerable: true, configurable: true,
    });
  }

  class Crypto {
    #subtle = new SubtleCrypto(make);
    constructor(key) { if (key !== make) throw new TypeError("Illegal constructor"); }
    get subtle() { return this.#subtle; }
    getRandomValues(array) {
      const is_integers = ArrayBuffer.isView(array) && !(array instanceof DataView) && !/^Float/.test(array[Symbol.toStringTag]);
      if (!is_integers) throw new DOMException("only arrays of integers can be filled", "TypeMismatchError");
      if (array.byteLength > 65536) throw new DOMException("more than 65536 bytes at once", "QuotaExceededError");
      bytes_of(array, "the array").set(wws.random(array.byteLength));
      return array;
    }
    randomUUID() {
      const b = wws.random(16);
      b[6] = (b[6] & 0x0f) | 0x40;
      b[8] = (b[8] & 0x3f) | 0x80;
      const hex = b.toHex();
      return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
    }
    get [Symbol.toStringTag]() { return "Crypto"; }
  }

  Math.random = () => host.number();

  wws.enumerable(CryptoKey, SubtleCrypto, Crypto);
  wws.define({ crypto: new Crypto(make), Crypto, CryptoKey, SubtleCrypto });
}
