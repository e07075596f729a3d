// The part of node:fs/promises that works on a worker's [[folders]].
{
  const { host, start, bytes: bytes_of, utf8, URL } = wws;

  const invalid = (message) => Object.assign(new TypeError(message), { code: "ERR_INVALID_ARG_VALUE" });
  const path_of = (path) => {
    if (path instanceof URL) {
      if (path.protocol !== "file:") throw invalid(`${path.href} is no file: URL`);
      path = decodeURIComponent(path.pathname);
    }
    if (path instanceof Uint8Array) path = utf8.decode(path, true);
    if (typeof path !== "string" || path.includes("\0")) throw invalid("a path must be a text without NUL characters");
    return path;
  };
  // An operation of the host on a path, with the properties that errors of Node have.
  const fs = async (name, syscall, path, ...rest) => {
    try {
      return await start("file", name, path, ...rest);
    } catch (error) {
      if (error.code) Object.assign(error, { syscall, path });
      throw error;
    }
  };

  // Options that are not known are a mistake, and are not passed over.
  const options_of = (options, known, what) => {
    if (options === undefined || options === null) return {};
    if (typeof options === "string") options = { encoding: options };
    if (typeof options !== "object") throw invalid(`the options of ${what} must be an object or the name of an encoding`);
    for (const name of Object.keys(options)) {
      if (!known.includes(name) && options[name] !== undefined) {
        throw invalid(`${what} does not know the option ${JSON.stringify(name)}; it knows ${known.join(", ")}`);
      }
    }
    options.signal?.throwIfAborted();
    return options;
  };

  const binary = (bytes) => {
    let text = "";
    for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode.apply(null, bytes.subarray(at, at + 8192));
    return text;
  };
  const units = (text, mask) => Uint8Array.from({ length: text.length }, (_, at) => text.charCodeAt(at) & mask);
  const from_base64 = (text) => {
    text = text.replaceAll("-", "+").replaceAll("_", "/").replace(/[^A-Za-z0-9+/]/g, "");
    return Uint8Array.fromBase64(text.length % 4 === 1 ? text.slice(0, -1) : text, { lastChunkHandling: "loose" });
  };
  const two_byte = {
    decode: (bytes) => host.decode("utf-16le", bytes.subarray(0, bytes.length & ~1), 1, 0),
    encode(text) {
      const bytes = new Uint8Array(2 * text.length);
      for (let at = 0; at < text.length; at++) {
        const unit = text.charCodeAt(at);
        bytes[2 * at] = unit;
        bytes[2 * at + 1] = unit >> 8;
      }
      return bytes;
    },
  };
  // As Node's Buffer has them.
  const ENCODINGS = {
    utf8: { decode: (bytes) => utf8.decode(bytes, true), encode: (text) => text },
    utf16le: two_byte,
    latin1: { decode: binary, encode: (text) => units(text, 0xff) },
    ascii: { decode: (bytes) => binary(bytes.map((byte) => byte & 0x7f)), encode: (text) => units(text, 0xff) },
    base64: { decode: (bytes) => bytes.toBase64(), encode: from_base64 },
    base64url: { decode: (bytes) => bytes.toBase64({ alphabet: "base64url", omitPadding: true }), encode: from_base64 },
    hex: { decode: (bytes) => bytes.toHex(), encode: (text) => Uint8Array.fromHex(/^(?:[0-9a-f]{2})*/i.exec(text)[0]) },
  };
  const ALIASES = { "utf-8": "utf8", "utf-16le": "utf16le", ucs2: "utf16le", "ucs-2": "utf16le", binary: "latin1" };
  const encoding_of = (name) => {
    const key = `${name}`.toLowerCase();
    const encoding = ENCODINGS[Object.hasOwn(ALIASES, key) ? ALIASES[key] : Object.hasOwn(ENCODINGS, key) ? key : ""];
    if (!encoding) throw invalid(`${JSON.stringify(name)} is not an encoding of files; they are ${Object.keys(ENCODINGS).join(", ")}; TextDecoder knows others`);
    return encoding;
  };
  const content = (data, encoding) => {
    if (typeof data === "string") return encoding_of(encoding ?? "utf8").encode(data);
    if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) return bytes_of(data, "the content");
    throw Object.assign(new TypeError("the content must be a text, an ArrayBuffer or a view of one"), { code: "ERR_INVALID_ARG_TYPE" });
  };
  // What Node calls `flag`, and what the host does.
  const WRITES = { w: "write", wx: "create", xw: "create", a: "append", ax: "create", xa: "create" };
  const write = async (path, data, options, flag, what) => {
    options = options_of(options, ["encoding", "flag", "mode", "flush", "signal"], what);
    const how = options.flag ?? flag;
    if (!Object.hasOwn(WRITES, how)) throw invalid(`${what} does not know the flag ${JSON.stringify(how)}; it knows ${Object.keys(WRITES).join(", ")}`);
    await fs(WRITES[how], "open", path_of(path), content(data, options.encoding));
  };

  const stats = (line) => {
    const [kind, size, mtimeMs] = line.split(" ");
    return {
      size: Number(size), mtimeMs: Number(mtimeMs), mtime: new Date(Number(mtimeMs)),
      isFile: () => kind === "file", isDirectory: () => kind === "directory", isSymbolicLink: () => kind === "link",
    };
  };
  const trimmed = (path) => path.replace(/(?<=[^/])\/+$/, "");

  const files = {
    async readFile(path, options) {
      options = options_of(options, ["encoding", "flag", "signal"], "readFile");
      if (options.flag !== undefined && options.flag !== "r") throw invalid(`readFile does not know the flag ${JSON.stringify(options.flag)}; it knows r`);
      const encoding = options.encoding ? encoding_of(options.encoding) : null;
      const [, data] = await fs("read", "open", path_of(path));
      return encoding ? encoding.decode(data) : data;
    },
    async writeFile(path, data, options) { await write(path, data, options, "w", "writeFile"); },
    async appendFile(path, data, options) { await write(path, data, options, "a", "appendFile"); },
    async readdir(path, options) {
      options = options_of(options, ["encoding", "withFileTypes", "recursive"], "readdir");
      if (options.encoding && encoding_of(options.encoding) !== ENCODINGS.utf8) throw invalid("readdir gives names as utf8");
      path = path_of(path);
      const [text] = await fs("list", "scandir", path);
      const names = text === "" ? [] : text.split("\0");
      if (!options.withFileTypes && !options.recursive) return names;
      const all = [];
      for (const name of names) {
        const inner = `${trimmed(path) === "/" ? "" : trimmed(path)}/${name}`;
        const { isFile, isDirectory, isSymbolicLink } = await files.lstat(inner);
        all.push(options.withFileTypes ? { name, parentPath: path, path, isFile, isDirectory, isSymbolicLink } : name);
        if (options.recursive && isDirectory()) {
          for (const entry of await files.readdir(inner, options)) all.push(options.withFileTypes ? entry : `${name}/${entry}`);
        }
      }
      return all;
    },
    async stat(path, options) {
      options_of(options, [], "stat");
      return stats((await fs("stat", "stat", path_of(path)))[0]);
    },
    async lstat(path, options) {
      options_of(options, [], "lstat");
      return stats((await fs("lstat", "lstat", path_of(path)))[0]);
    },
    async access(path, mode = 0) {
      if (![0, 4].includes(mode)) throw invalid("access looks only whether a file is there (F_OK, R_OK)");
      await fs("stat", "access", path_of(path));
    },
    async mkdir(path, options) {
      if (typeof options === "number") options = { mode: options };
      const { recursive } = options_of(options, ["recursive", "mode"], "mkdir");
      path = trimmed(path_of(path));
      if (!recursive) { await fs("make", "mkdir", path); return; }
      const parts = path.split("/");
      let first;
      for (let i = 2; i <= parts.length; i++) {
        const part = parts.slice(0, i).join("/");
        try {
          await fs("make", "mkdir", part);
          first ??= part;
        } catch (error) {
          if (i < parts.length) continue;
          if (error.code !== "EEXIST" || !(await files.stat(path)).isDirectory()) throw error;
        }
      }
      return first;
    },
    async unlink(path) { await fs("unlink", "unlink", path_of(path)); },
    async rmdir(path, options) {
      options_of(options, [], "rmdir");
      await fs("rmdir", "rmdir", path_of(path));
    },
    async rm(path, options) {
      const { recursive, force } = options_of(options, ["recursive", "force", "maxRetries", "retryDelay"], "rm");
      path = path_of(path);
      try {
        await fs("unlink", "rm", path);
      } catch (error) {
        if (force && error.code === "ENOENT") return;
        if (error.code !== "EISDIR") throw error;
        if (!recursive) {
          throw Object.assign(new Error(`Path is a directory: rm of ${path} needs { recursive: true }`), { code: "ERR_FS_EISDIR", syscall: "rm", path });
        }
        for (const name of await files.readdir(path)) await files.rm(`${trimmed(path)}/${name}`, { recursive, force });
        await fs("rmdir", "rm", path);
      }
    },
    async rename(from, to) { await fs("rename", "rename", path_of(from), path_of(to)); },
  };
  // The module node:fs/promises takes it from here.
  Object.defineProperty(globalThis, Symbol.for("wws.files"), { value: files });
}
