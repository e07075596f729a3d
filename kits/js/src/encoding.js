// TextEncoder and TextDecoder. https://encoding.spec.whatwg.org; the host converts.
{
  const { host } = wws;

  class TextEncoder {
    get encoding() { return "utf-8"; }
    encode(text = "") { return host.encode(String(text)); }
    encodeInto(text, target) {
      let read = 0, written = 0;
      for (const character of String(text)) {
        const bytes = host.encode(character);
        if (written + bytes.length > target.length) break;
        target.set(bytes, written);
        written += bytes.length;
        read += character.length;
      }
      return { read, written };
    }
  }

  class TextDecoder {
    #encoding; #fatal; #ignoreBOM; #rest = new Uint8Array(0);
    constructor(label = "utf-8", options = {}) {
      this.#encoding = host.encodingName(String(label).trim());
      if (this.#encoding === undefined) throw new RangeError(`The encoding label ${label} is not known`);
      this.#fatal = Boolean(options.fatal);
      this.#ignoreBOM = Boolean(options.ignoreBOM);
    }
    get encoding() { return this.#encoding; }
    get fatal() { return this.#fatal; }
    get ignoreBOM() { return this.#ignoreBOM; }
    decode(input, { stream = false } = {}) {
      let bytes = input === undefined ? new Uint8Array(0) : wws_bytes(input, "the input");
      if (this.#rest.length) bytes = wws_join([this.#rest, bytes]);
      const keep = stream && this.#encoding === "utf-8" ? incomplete(bytes) : 0;
      this.#rest = bytes.slice(bytes.length - keep);
      const text = host.decode(this.#encoding, bytes.subarray(0, bytes.length - keep), this.#ignoreBOM);
      if (text === undefined || (this.#fatal && host.isMalformed(this.#encoding, bytes.subarray(0, bytes.length - keep)))) {
        throw new TypeError("The encoded data was not valid");
      }
      return text;
    }
  }

  // How many bytes at the end begin a character of UTF-8 that they don't complete.
  const incomplete = (bytes) => {
    for (let back = 1; back <= Math.min(3, bytes.length); back++) {
      const byte = bytes[bytes.length - back];
      if (byte < 0x80) return 0;
      if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? back : 0;
    }
    return 0;
  };

  const { bytes: wws_bytes, join: wws_join } = wws;
  wws.define({ TextEncoder, TextDecoder });
}
