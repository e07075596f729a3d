// crypto, performance and Math.random: every request draws its own numbers, though all start from one state.
// https://w3c.github.io/webcrypto
{
  const { host, bytes } = wws;
  const data = (source) => bytes(source, "the data");
  const hash_of = (algorithm) => {
    const name = String(typeof algorithm === "object" ? algorithm?.name : algorithm).toUpperCase();
    if (!["SHA-1", "SHA-256", "SHA-384", "SHA-512"].includes(name)) {
      throw new DOMException(`${name} is not one of SHA-1, SHA-256, SHA-384, SHA-512`, "NotSupportedError");
    }
    return name;
  };

  class CryptoKey {
    #raw;
    constructor(raw, algorithm, extractable, usages) {
      this.#raw = raw;
      Object.assign(this, { type: "secret", algorithm, extractable, usages });
    }
    static raw(key) { return key.#raw; }
  }
  const raw_of = CryptoKey.raw;
  delete CryptoKey.raw;
  const equal = (a, b) => {
    let difference = a.length ^ b.length;
    for (let i = 0; i < a.length; i++) difference |= a[i] ^ b[i % (b.length || 1)];
    return difference === 0;
  };
  const hmac = (key, source) => host.hmac(key.algorithm.hash.name, raw_of(key), data(source));

  const subtle = {
    async digest(algorithm, source) { return host.digest(hash_of(algorithm), data(source)).buffer; },
    async importKey(format, key, algorithm, extractable, usages) {
      if (format !== "raw" || (algorithm.name ?? algorithm) !== "HMAC") {
        throw new DOMException("only raw keys for HMAC are supported", "NotSupportedError");
      }
      return new CryptoKey(data(key).slice(), { name: "HMAC", hash: { name: hash_of(algorithm.hash) } }, extractable, usages);
    },
    async sign(algorithm, key, source) { return hmac(key, source).buffer; },
    async verify(algorithm, key, signature, source) { return equal(hmac(key, source), data(signature)); },
  };

  const crypto = {
    subtle,
    getRandomValues(array) {
      if (!ArrayBuffer.isView(array) || array instanceof Float32Array || array instanceof Float64Array || array instanceof DataView) {
        throw new DOMException("only arrays of integers can be filled", "TypeMismatchError");
      }
      if (array.byteLength > 65536) throw new DOMException("more than 65536 bytes at once", "QuotaExceededError");
      bytes(array, "the array").set(wws.random(array.byteLength));
      return array;
    },
    randomUUID() {
      const b = wws.random(16);
      b[6] = (b[6] & 0x0f) | 0x40;
      b[8] = (b[8] & 0x3f) | 0x80;
      const hex = b.toHex();
      return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
    },
  };

  Math.random = () => host.number();

  // Time since the request came.
  const performance = { now: () => host.now(), timeOrigin: 0, mark() {}, measure() {}, toJSON() { return { timeOrigin: this.timeOrigin }; } };
  Object.defineProperty(performance, "timeOrigin", { get: () => Date.now() - host.now(), enumerable: true });

  wws.define({ crypto, CryptoKey, performance });
}
