// TextEncoder, TextDecoder and their streams. https://encoding.spec.whatwg.org; the host converts.
{
  const { host, bytes: bytes_of, options: options_of } = wws;
  const { TransformStream } = globalThis;

  class TextEncoder {
    get encoding() { return "utf-8"; }
    encode(text = "") { return host.encode(`${text}`); }
    encodeInto(source, target) {
      wws.needs(arguments.length, 2, "encodeInto");
      source = `${source}`;
      if (!(target instanceof Uint8Array)) throw new TypeError("encodeInto needs a Uint8Array");
      // No character takes less than a byte; a pair of surrogates is not cut in two.
      const cut = /^[\ud800-\udbff][\udc00-\udfff]/.test(source.slice(target.length - 1, target.length + 1)) ? 1 : 0;
      const bytes = host.encode(source.slice(0, target.length + cut));
      let written = Math.min(bytes.length, target.length);
      while (written < bytes.length && (bytes[written] & 0xc0) === 0x80) written--;
      const head = bytes.subarray(0, written);
      let read = 0;
      for (const byte of head) if ((byte & 0xc0) !== 0x80) read += byte >= 0xf0 ? 2 : 1;
      target.set(head);
      return { read, written };
    }
    get [Symbol.toStringTag]() { return "TextEncoder"; }
  }

  // The host keeps what a decoder that is fed in parts has begun.
  let last = 0;
  const IGNORE_BOM = 1, FATAL = 2, STREAM = 4;

  class TextDecoder {
    #encoding; #flags; #id = ++last; #begun = false;
    constructor(label = "utf-8", options) {
      options = options_of(options, "the options of a TextDecoder");
      this.#encoding = host.encodingName(`${label}`);
      if (this.#encoding === undefined) throw new RangeError(`The encoding label ${JSON.stringify(`${label}`)} is not known`);
      this.#flags = (options.ignoreBOM ? IGNORE_BOM : 0) | (options.fatal ? FATAL : 0);
    }
    get encoding() { return this.#encoding; }
    get fatal() { return (this.#flags & FATAL) !== 0; }
    get ignoreBOM() { return (this.#flags & IGNORE_BOM) !== 0; }
    decode(input, options) {
      const bytes = input === undefined ? new Uint8Array(0) : bytes_of(input, "the input");
      const stream = Boolean(options_of(options, "the options of decode").stream);
      const id = stream || this.#begun ? this.#id : 0;
      this.#begun = stream;
      const text = host.decode(this.#encoding, bytes, this.#flags | (stream ? STREAM : 0), id);
      if (text === undefined) {
        this.#begun = false;
        throw Object.assign(new TypeError(`The encoded data was not valid for encoding ${this.#encoding}`), { code: "ERR_ENCODING_INVALID_ENCODED_DATA" });
      }
      if (text === false) throw new RangeError("more than 1,000 TextDecoders were fed a part and not the rest");
      return text;
    }
    get [Symbol.toStringTag]() { return "TextDecoder"; }
  }

  class TextEncoderStream {
    #stream; #rest = "";
    constructor() {
      this.#stream = new TransformStream({
        transform: (chunk, controller) => {
          let text = this.#rest + `${chunk}`;
          this.#rest = /[\ud800-\udbff]$/.exec(text)?.[0] ?? "";
          if (this.#rest) text = text.slice(0, -1);
          if (text) controller.enqueue(host.encode(text));
        },
        flush: (controller) => { if (this.#rest) controller.enqueue(host.encode(this.#rest)); },
      });
    }
    get encoding() { return "utf-8"; }
    get readable() { return this.#stream.readable; }
    get writable() { return this.#stream.writable; }
    get [Symbol.toStringTag]() { return "TextEncoderStream"; }
  }

  class TextDecoderStream {
    #stream; #decoder;
    constructor(label, options) {
      this.#decoder = new TextDecoder(label, options);
      const give = (text, controller) => { if (text) controller.enqueue(text); };
      this.#stream = new TransformStream({
        transform: (chunk, controller) => give(this.#decoder.decode(bytes_of(chunk, "a part of the stream"), { stream: true }), controller),
        flush: (controller) => give(this.#decoder.decode(), controller),
      });
    }
    get encoding() { return this.#decoder.encoding; }
    get fatal() { return this.#decoder.fatal; }
    get ignoreBOM() { return this.#decoder.ignoreBOM; }
    get readable() { return this.#stream.readable; }
    get writable() { return this.#stream.writable; }
    get [Symbol.toStringTag]() { return "TextDecoderStream"; }
  }

  wws.utf8 = { encode: host.encode, decode: (bytes, keep_mark) => host.decode("utf-8", bytes, keep_mark ? IGNORE_BOM : 0, 0) };
  wws.enumerable(TextEncoder, TextDecoder, TextEncoderStream, TextDecoderStream);
  wws.define({ TextEncoder, TextDecoder, TextEncoderStream, TextDecoderStream });
}
