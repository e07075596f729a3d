// Blob, File, FormData, and the types of their content. https://w3c.github.io/FileAPI, https://xhr.spec.whatwg.org/#interface-formdata
{
  const { host, bytes: bytes_of, join, text, utf8, needs, options: options_of } = wws;
  const { ReadableStream } = globalThis;

  // A stream of bytes that are there. `made` may end the stream before it was read.
  const stream_of = (take) => new ReadableStream({
    type: "bytes",
    pull(controller) {
      const all = take();
      if (all.byteLength) controller.enqueue(all.slice());
      controller.close();
      controller.byobRequest?.respond(0);
    },
  });

  const type_of = (type) => {
    type = `${type ?? ""}`;
    return /[^\x20-\x7e]/.test(type) ? "" : type.toLowerCase();
  };
  const inner = Symbol("bytes of the kit");

  class Blob {
    #bytes; #type;
    constructor(parts, options) {
      if (parts === inner) { this.#bytes = options.bytes; this.#type = options.type; return; }
      const { type, endings = "transparent" } = options_of(options, "the options of a Blob");
      if (parts === undefined) parts = [];
      if (parts === null || typeof parts !== "object" || typeof parts[Symbol.iterator] !== "function") throw new TypeError("the parts of a Blob must be a list");
      if (endings !== "transparent" && endings !== "native") throw new TypeError("the option `endings` is neither transparent nor native");
      const lines = (part) => (endings === "native" ? part.replace(/\r\n?/g, "\n") : part);
      this.#bytes = join([...parts].map((part) => {
        if (typeof part === "object" && part !== null && #bytes in part) return part.#bytes;
        if (part instanceof ArrayBuffer || ArrayBuffer.isView(part)) return bytes_of(part, "a part").slice();
        return host.encode(lines(`${part}`));
      }));
      this.#type = type_of(type);
    }
    get size() { return this.#bytes.length; }
    get type() { return this.#type; }
    async arrayBuffer() { return this.#bytes.slice().buffer; }
    async bytes() { return this.#bytes.slice(); }
    async text() { return utf8.decode(this.#bytes, false); }
    slice(start = 0, end = this.size, type = "") {
      return new Blob(inner, { bytes: this.#bytes.subarray(start, end), type: type_of(type) });
    }
    stream() { return stream_of(() => this.#bytes); }
    get [Symbol.toStringTag]() { return "Blob"; }
    static bytes(blob) { return blob.#bytes; }
  }
  const content = Blob.bytes;
  delete Blob.bytes;

  class File extends Blob {
    #name; #modified;
    constructor(parts, name, options) {
      needs(arguments.length, 2, "File");
      if (parts === undefined || parts === null) throw new TypeError("the parts of a File must be a list");
      super(parts, options);
      this.#name = text(name);
      const modified = options?.lastModified;
      this.#modified = modified === undefined ? Date.now() : Math.trunc(Number(modified)) || 0;
    }
    get name() { return this.#name; }
    get lastModified() { return this.#modified; }
    get webkitRelativePath() { return ""; }
    get [Symbol.toStringTag]() { return "File"; }
  }

  class FormData {
    #list = [];
    constructor(form) {
      if (form !== undefined) throw new TypeError("FormData takes no argument: there are no HTML forms");
    }
    static #entry(count, name, value, filename) {
      needs(count, 2, "append and set");
      if (count > 2 && !(value instanceof Blob)) throw new TypeError("only a Blob has a file name");
      name = text(name);
      if (!(value instanceof Blob)) return [name, text(value)];
      if (value instanceof File && count < 3) return [name, value];
      const lastModified = value instanceof File ? value.lastModified : Date.now();
      return [name, new File([value], count < 3 ? "blob" : text(filename), { type: value.type, lastModified })];
    }
    static at(form, index) { return form.#list[index]; }
    append(name, value, filename) { this.#list.push(FormData.#entry(arguments.length, name, value, filename)); }
    delete(name) {
      needs(arguments.length, 1, "delete");
      name = text(name);
      this.#list = this.#list.filter(([n]) => n !== name);
    }
    get(name) {
      needs(arguments.length, 1, "get");
      name = text(name);
      return this.#list.find(([n]) => n === name)?.[1] ?? null;
    }
    getAll(name) {
      needs(arguments.length, 1, "getAll");
      name = text(name);
      return this.#list.filter(([n]) => n === name).map(([, v]) => v);
    }
    has(name) {
      needs(arguments.length, 1, "has");
      name = text(name);
      return this.#list.some(([n]) => n === name);
    }
    set(name, value, filename) {
      const entry = FormData.#entry(arguments.length, name, value, filename);
      const at = this.#list.findIndex(([n]) => n === entry[0]);
      if (at < 0) { this.#list.push(entry); return; }
      this.#list[at] = entry;
      this.#list = this.#list.filter(([n], i) => i <= at || n !== entry[0]);
    }
    get [Symbol.toStringTag]() { return "FormData"; }
  }
  const at = FormData.at;
  delete FormData.at;
  wws.iterable(FormData, "FormData", at);

  const lines = (part) => part.replace(/\r\n|\r|\n/g, "\r\n");
  const escape = (name) => name.replace(/\r/g, "%0D").replace(/\n/g, "%0A").replace(/"/g, "%22");

  // The list of a form, whatever became of its iterators.
  const list = (form) => {
    const all = [];
    for (let index = 0; at(form, index) !== undefined; index++) all.push(at(form, index));
    return all;
  };

  // RFC 7578.
  const to_multipart = (form) => {
    const boundary = "----wws" + wws.random(16).toHex();
    const parts = [];
    for (const [name, value] of list(form)) {
      let head = `--${boundary}\r\nContent-Disposition: form-data; name="${escape(lines(name))}"`;
      if (value instanceof Blob) {
        head += `; filename="${escape(value.name)}"\r\nContent-Type: ${value.type || "application/octet-stream"}`;
        parts.push(host.encode(head + "\r\n\r\n"), content(value), host.encode("\r\n"));
      } else {
        parts.push(host.encode(`${head}\r\n\r\n${lines(value)}\r\n`));
      }
    }
    parts.push(host.encode(`--${boundary}--\r\n`));
    return { bytes: join(parts), type: `multipart/form-data; boundary=${boundary}` };
  };

  const from_multipart = (bytes, boundary) => {
    const parts = JSON.parse(host.multipart(bytes, boundary));
    if (typeof parts === "string") throw new TypeError(`the body is not multipart/form-data: ${parts}`);
    const form = new FormData();
    for (const { name, filename, type, start, end } of parts) {
      const part = bytes.subarray(start, end);
      if (filename === null) form.append(name, utf8.decode(part, true));
      else form.append(name, new File([part], filename, { type: type ?? "text/plain" }));
    }
    return form;
  };

  // A media type: its essence and parameters. https://mimesniff.spec.whatwg.org/#parsing-a-mime-type
  const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  const mime = (source) => {
    source = source.replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
    const [, type, subtype, rest] = /^([^/]*)\/([^;]*)(.*)$/s.exec(source) ?? [];
    const sub = subtype?.replace(/[\t\n\r ]+$/, "");
    if (sub === undefined || !TOKEN.test(type) || !TOKEN.test(sub)) return null;
    const parameters = new Map();
    const each = /;[\t\n\r ]*([^;=]*)(?:=(?:"((?:[^"\\]|\\.|\\$)*)"?[^;]*|([^;]*)))?/gs;
    for (const [, name, quoted, plain] of rest.matchAll(each)) {
      const value = quoted !== undefined ? quoted.replace(/\\(.)/gs, "$1") : plain?.replace(/[\t\n\r ]+$/, "");
      const key = name.toLowerCase();
      if (value === undefined || (quoted === undefined && value === "") || !TOKEN.test(key) || parameters.has(key)) continue;
      if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) continue;
      parameters.set(key, value);
    }
    const essence = `${type}/${sub}`.toLowerCase();
    const shown = [...parameters].map(([key, value]) => `;${key}=${TOKEN.test(value) ? value : `"${value.replace(/["\\]/g, "\\$&")}"`}`);
    return { essence, parameters, text: essence + shown.join("") };
  };

  wws.form = { content, to_multipart, from_multipart };
  Object.assign(wws, { stream_of, mime });
  wws.enumerable(Blob, File, FormData);
  wws.define({ Blob, File, FormData });
}
