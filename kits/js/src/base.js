// What the parts of the kit share. `wws` is gone when a worker's own code runs, and the kit takes what it needs from there: a
// worker that replaces a global, or has a variable of its name, changes nothing for the kit.
"use strict";
wws.define = (names) => {
  for (const [name, value] of Object.entries(names)) {
    wws[name] = value;
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
  }
};

// Operations of the host that run while the worker waits.
{
  const pending = new Map();
  let last = 0;
  // What cannot be started throws: a rejected promise for each would fill the memory where thousands are asked for.
  wws.begin = (name, ...args) => {
    const id = ++last;
    const why = wws.host.start(id, name, ...args);
    if (why !== undefined) throw wws.error(why);
    return { id, ended: new Promise((resolve, reject) => { pending.set(id, { resolve, reject }); }) };
  };
  wws.start = (name, ...args) => wws.begin(name, ...args).ended;

  // Ends an operation: its promise is never settled, and its place is free.
  wws.cancel = (id) => { if (pending.delete(id)) wws.host.cancel(id); };

  // Random numbers that were drawn while the worker is loaded would be the same in every request.
  wws.random = (count) => {
    const bytes = wws.host.random(count);
    if (bytes === undefined) throw new Error("random values can be drawn only while a request is handled: not where the worker is loaded");
    return bytes;
  };
  // Called by the host. `failure` is "name:message".
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

// An error that nobody can catch any more, as a line of the log.
wws.report = (where, error) => { wws.console.error(`${where}:`, error); };

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

// A text as Web IDL's USVString. Symbols throw.
wws.text = (value) => `${value}`.toWellFormed();

// A dictionary of options: undefined and null are none.
{
  const none = Object.freeze({ __proto__: null });
  wws.options = (options, what) => {
    if (options === undefined || options === null) return none;
    if (typeof options !== "object" && typeof options !== "function") throw new TypeError(`${what} must be an object`);
    return options;
  };
}

// Throws where a function was called with fewer arguments than it needs.
wws.needs = (given, count, name) => {
  if (given < count) throw new TypeError(`${name} needs ${count} argument${count === 1 ? "" : "s"}, ${given} given`);
};

// Gives a class the iterators of a list of pairs that may change meanwhile. `at(object, index)` is a pair, or undefined.
{
  const prototype_of_iterators = Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]()));
  wws.iterable = (type, name, at) => {
    const states = new WeakMap();
    const prototype = Object.create(prototype_of_iterators, {
      next: {
        value: function next() {
          const state = states.get(this);
          if (!state) throw new TypeError(`next was called on something that is no ${name} Iterator`);
          const pair = at(state.object, state.index);
          if (pair === undefined) return { value: undefined, done: true };
          state.index++;
          return { value: state.part === undefined ? [pair[0], pair[1]] : pair[state.part], done: false };
        },
        writable: true, enumerable: true, configurable: true,
      },
      [Symbol.toStringTag]: { value: `${name} Iterator`, configurable: true },
    });
    const iterator = (object, part) => {
      at(object, 0);
      const made = Object.create(prototype);
      states.set(made, { object, part, index: 0 });
      return made;
    };
    const methods = {
      entries() { return iterator(this); },
      keys() { return iterator(this, 0); },
      values() { return iterator(this, 1); },
      forEach(callback, self) {
        if (typeof callback !== "function") throw new TypeError("forEach needs a function");
        let pair;
        for (let index = 0; (pair = at(this, index)) !== undefined; index++) callback.call(self, pair[1], pair[0], this);
      },
    };
    for (const [key, value] of Object.entries(methods)) {
      Object.defineProperty(type.prototype, key, { value, writable: true, enumerable: true, configurable: true });
    }
    Object.defineProperty(type.prototype, Symbol.iterator, { value: methods.entries, writable: true, enumerable: false, configurable: true });
  };
}

// The attributes and functions of a class are enumerable, as Web IDL has it.
wws.enumerable = (...types) => {
  for (const type of types) {
    for (const target of [type.prototype, type]) {
      for (const [key, property] of Object.entries(Object.getOwnPropertyDescriptors(target))) {
        if (key === "constructor" || key === "prototype" || key === "length" || key === "name") continue;
        Object.defineProperty(target, key, { ...property, enumerable: true });
      }
    }
  }
};
