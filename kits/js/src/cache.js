// Cache: the worker's key/value namespace. Reads and writes see a snapshot of it and what this request changed; that
// reaches the store when the request was answered. `increment` asks the store itself.
{
  const { host, start } = wws;
  const Cache = {
    get(key) { return host.kvGet(String(key)) ?? null; },
    set(key, value) { host.kvSet(String(key), String(value)); },
    delete(key) { host.kvDelete(String(key)); },
    async increment(key, by = 1) {
      if (!Number.isSafeInteger(by)) throw new TypeError("the increment must be a whole number");
      const [sum] = await start("increment", String(key), by);
      return Number(sum);
    },
  };
  wws.define({ Cache });
}
