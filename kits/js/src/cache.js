// Cache: the worker's key/value namespace. Reads and writes see a snapshot of it and what this request changed; that
// reaches the store when the request was answered. `increment` asks the store itself.
{
  const { host, start } = wws;
  const loading = () => new Error("Cache can be used only while a request is handled: not where the worker is loaded");
  const refused = () => new Error("Cache: only while a request is handled, and no more than `limits.output` bytes of changes");
  const Cache = {
    get(key) {
      const value = host.kvGet(String(key));
      if (value === false) throw loading();
      return value ?? null;
    },
    set(key, value) { if (host.kvSet(String(key), String(value)) === false) throw refused(); },
    delete(key) { if (host.kvDelete(String(key)) === false) throw refused(); },
    async increment(key, by = 1) {
      if (!Number.isSafeInteger(by)) throw new TypeError("the increment must be a whole number");
      const [sum] = await start("increment", String(key), by);
      return Number(sum);
    },
  };
  wws.define({ Cache });
}
