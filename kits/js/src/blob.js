// Blob, File, FormData. https://w3c.github.io/FileAPI, https://xhr.spec.whatwg.org/#interface-formdata
{
  const { host, bytes, join } = wws;

  class Blob {
    #bytes; #type;
    constructor(parts = [], options = {}) {
      if (typeof parts !== "object" || typeof parts[Symbol.iterator] !== "function") throw new TypeError("the parts of a Blob must be a list");
      this.#bytes = join([...parts].map((part) => {
        if (part instanceof Blob) return part.#bytes;
        if (part instanceof ArrayBuffer || ArrayBuffer.isView(part)) return bytes(part, "a part");
        return host.encode(String(part));
      }));
      const type = String(options.type ?? "");
      this.#type = /[^\x20-\x7e]/.test(type) ? "" : type.toLowerCase();
    }
    get size() { return this.#bytes.length; }
    get type() { return this.#type; }
    async arrayBuffer() { return this.#bytes.slice().buffer; }
    async bytes() { return this.#bytes.slice(); }
    async text() { return host.decode("utf-8", this.#bytes, false); }
    slice(start, end, type = "") { return new Blob([this.#bytes.slice(start, end)], { type }); }
    stream() {
      const all = this.#bytes.slice();
      return new ReadableStream({ start(controller) { if (all.length) controller.enqueue(all); controller.close(); } });
    }
    get [Symbol.toStringTag]() { return "Blob"; }
    static bytes(blob) { return blob.#bytes; }
  }
  const content = Blob.bytes;
  delete Blob.bytes;

  class File extends Blob {
    #name; #modified;
    constructor(parts, name, options = {}) {
      super(parts, options);
      this.#name = String(name);
      this.#modified = Number(options.lastModified ?? Date.now());
    }
    get name() { return this.#name; }
    get lastModified() { return this.#modified; }
    get [Symbol.toStringTag]() { return "File"; }
  }

  class FormData {
    #list = [];
    static #entry(name, value, filename) {
      if (!(value instanceof Blob)) return [String(name), String(value)];
      if (value instanceof File && filename === undefined) return [String(name), value];
      return [String(name), new File([value], filename ?? "blob", { type: value.type })];
    }
    append(name, value, filename) { this.#list.push(FormData.#entry(name, value, filename)); }
    delete(name) { this.#list = this.#list.filter(([n]) => n !== String(name)); }
    get(name) { return this.#list.find(([n]) => n === String(name))?.[1] ?? null; }
    getAll(name) { return this.#list.filter(([n]) => n === String(name)).map(([, v]) => v); }
    has(name) { return this.#list.some(([n]) => n === String(name)); }
    set(name, value, filename) {
      const at = this.#list.findIndex(([n]) => n === String(name));
      if (at < 0) { this.append(name, value, filename); return; }
      this.#list[at] = FormData.#entry(name, value, filename);
      this.#list = this.#list.filter(([n], i) => i <= at || n !== String(name));
    }
    forEach(callback, self) { for (const [name, value] of this.#list) callback.call(self, value, name, this); }
    *entries() { for (const [name, value] of this.#list) yield [name, value]; }
    *keys() { for (const [name] of this.#list) yield name; }
    *values() { for (const [, value] of this.#list) yield value; }
    [Symbol.iterator]() { return this.entries(); }
    get [Symbol.toStringTag]() { return "FormData"; }
  }

  const escape = (text) => text.replace(/\r?\n|\r/g, "\r\n").replace(/\r/g, "%0D").replace(/\n/g, "%0A").replace(/"/g, "%22");
  const unescape = (text) => text.replace(/%0D/gi, "\r").replace(/%0A/gi, "\n").replace(/%22/g, '"');

  // RFC 7578.
  const to_multipart = (form) => {
    const boundary = "----wws" + [...wws.random(16)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const parts = [];
    for (const [name, value] of form) {
      let head = `--${boundary}\r\ncontent-disposition: form-data; name="${escape(name)}"`;
      if (value instanceof Blob) {
        head += `; filename="${escape(value.name)}"\r\ncontent-type: ${value.type || "application/octet-stream"}`;
        parts.push(host.encode(head + "\r\n\r\n"), content(value));
      } else {
        parts.push(host.encode(`${head}\r\n\r\n${value}`));
      }
      parts.push(host.encode("\r\n"));
    }
    parts.push(host.encode(`--${boundary}--\r\n`));
    return { bytes: join(parts), type: `multipart/form-data; boundary=${boundary}` };
  };

  const from_multipart = (bytes, boundary) => {
    const bad = () => new TypeError("the body is not multipart/form-data of that boundary");
    // One character for one byte: positions in the text are positions in the bytes.
    const text = host.decode("latin1", bytes, true);
    const mark = "--" + boundary;
    const form = new FormData();
    let at = text.indexOf(mark);
    if (at < 0) throw bad();
    for (;;) {
      at += mark.length;
      if (text.startsWith("--", at)) return form;
      const head_end = text.indexOf("\r\n\r\n", at);
      const next = text.indexOf("\r\n" + mark, head_end);
      if (head_end < 0 || next < 0) throw bad();
      const head = host.decode("utf-8", bytes.subarray(at, head_end), false);
      const name = /;\s*name="([^"]*)"/i.exec(head);
      if (!name) throw bad();
      const filename = /;\s*filename="([^"]*)"/i.exec(head);
      const part = bytes.slice(head_end + 4, next);
      if (filename) {
        const type = /^content-type:\s*(.+?)\s*$/im.exec(head)?.[1] ?? "text/plain";
        form.append(unescape(name[1]), new File([part], unescape(filename[1]), { type }));
      } else {
        form.append(unescape(name[1]), host.decode("utf-8", part, true));
      }
      at = next + 2;
    }
  };

  wws.form = { content, to_multipart, from_multipart };
  wws.define({ Blob, File, FormData });
}
