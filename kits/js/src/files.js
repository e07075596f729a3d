// The part of node:fs/promises that works on a worker's [[folders]].
{
  const { host, start, bytes } = wws;
  const fs = async (name, ...args) => start("file", name, ...args);
  const encoding_of = (options) => (typeof options === "string" ? options : options?.encoding);
  const content = (data) => (typeof data === "string" ? data : bytes(data, "the content"));
  const path_of = (path) => {
    if (path instanceof URL) return decodeURIComponent(path.pathname);
    if (typeof path !== "string" || path.includes("\0")) throw new TypeError("a path must be a text without NUL characters");
    return path;
  };

  const files = {
    async readFile(path, options) {
      const [, data] = await fs("read", path_of(path));
      const encoding = encoding_of(options);
      return encoding ? host.decode(host.encodingName(encoding) ?? "utf-8", data, true) : data;
    },
    async writeFile(path, data, options) { await fs(options?.flag === "a" ? "append" : "write", path_of(path), content(data)); },
    async appendFile(path, data) { await fs("append", path_of(path), content(data)); },
    async readdir(path) { const [names] = await fs("list", path_of(path)); return names === "" ? [] : names.split("\0"); },
    async stat(path) {
      const [line] = await fs("stat", path_of(path));
      const [kind, size, mtimeMs] = line.split(" ");
      return {
        size: Number(size), mtimeMs: Number(mtimeMs), mtime: new Date(Number(mtimeMs)),
        isFile: () => kind === "file", isDirectory: () => kind === "folder",
      };
    },
    async access(path) { await fs("stat", path_of(path)); },
    async mkdir(path, options) {
      path = path_of(path);
      if (!options?.recursive) { await fs("make", path); return; }
      const parts = path.split("/");
      for (let i = 2; i <= parts.length; i++) {
        try { await fs("make", parts.slice(0, i).join("/")); } catch (error) {
          if (i === parts.length && error.code !== "EEXIST") throw error;
        }
      }
    },
    async unlink(path) { await fs("remove", path_of(path)); },
    async rmdir(path) { await fs("remove", path_of(path)); },
    async rm(path, options = {}) {
      path = path_of(path);
      try {
        if (options.recursive && (await files.stat(path)).isDirectory()) {
          for (const name of await files.readdir(path)) await files.rm(`${path}/${name}`, options);
        }
        await fs("remove", path);
      } catch (error) {
        if (!(options.force && error.code === "ENOENT")) throw error;
      }
    },
    async rename(from, to) { await fs("rename", path_of(from), path_of(to)); },
  };
  // The module node:fs/promises takes it from here.
  Object.defineProperty(globalThis, Symbol.for("wws.files"), { value: files });
}
