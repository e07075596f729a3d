// What the parts of the kit share. `wws` is gone when a worker's own code runs.
"use strict";
wws.define = (names) => {
  for (const [name, value] of Object.entries(names)) {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
  }
};

// Things that the host does while the worker waits.
{
  const pending = new Map();
  let last = 0;
  // What cannot be started throws: a rejected promise for each would fill the memory where thousands are asked for.
  wws.start = (name, ...args) => {
    const id = ++last;
    const why = wws.host.start(id, name, ...args);
    if (why !== undefined) throw new Error(`${name}: ${why}`);
    return new Promise((resolve, reject) => { pending.set(id, { resolve, reject }); });
  };

  // Random numbers that were drawn while the worker is loaded would be the same in every request.
  wws.random = (count) => {
    const bytes = wws.host.random(count);
    if (bytes === undefined) throw new Error("random values can be drawn only while a request is handled: not where the worker is loaded");
    return bytes;
  };
  // Called by the host. `failure` is [name, message].
  wws.settle = (id, failure, head, body) => {
    const { resolve, reject } = pending.get(id) ?? {};
    pending.delete(id);
    if (failure === undefined) resolve?.([head, body]);
    else reject?.(wws.error(failure));
  };
}

wws.error = (failure) => {
  const at = failure.indexOf(":");
  const [name, message] = [failure.slice(0, at), failure.slice(at + 1)];
  const [type, code] = name.split("/");
  if (type === "TypeError") return Object.assign(new TypeError(message), code ? { code } : {});
  if (name === "Error") return new Error(message);
  return Object.assign(new Error(message), { code: name });
};

wws.bytes = (source, what) => {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  throw new TypeError(`${what} is neither an ArrayBuffer nor a view of one`);
};

wws.join = (parts) => {
  let length = 0;
  for (const part of parts) length += part.byteLength;
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.byteLength; }
  return whole;
};
