// structuredClone. https://html.spec.whatwg.org/multipage/structured-data.html
{
  const { Blob, File, needs, options: options_of } = wws;
  const refused = (what) => new DOMException(`${what} cannot be cloned`, "DataCloneError");
  const is_detached = (buffer) => buffer.detached === true;
  // Sets a property, whatever its name: `__proto__` is one, too.
  const put = (object, key, value) => {
    if (key === "__proto__") Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
    else object[key] = value;
  };

  const clone = (value, seen) => {
    if (typeof value === "function") throw refused(`the function ${value.name || "(anonymous)"}`);
    if (typeof value === "symbol") throw refused(String(value));
    if (typeof value !== "object" || value === null) return value;
    if (seen.has(value)) return seen.get(value);
    const keep = (copy) => { seen.set(value, copy); return copy; };
    const inner = (item) => clone(item, seen);
    if (value instanceof Boolean || value instanceof Number || value instanceof String || value instanceof BigInt) return keep(Object(value.valueOf()));
    if (value instanceof Symbol) throw refused("a Symbol object");
    if (value instanceof Date) return keep(new Date(value.getTime()));
    if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
    if (value instanceof ArrayBuffer) {
      if (is_detached(value)) throw refused("an ArrayBuffer that was transferred");
      return keep(value.slice(0));
    }
    if (ArrayBuffer.isView(value)) {
      const buffer = inner(value.buffer);
      const type = value instanceof DataView ? DataView : globalThis[value[Symbol.toStringTag]];
      return keep(new type(buffer, value.byteOffset, value instanceof DataView ? value.byteLength : value.length));
    }
    if (value instanceof Map) {
      const copy = keep(new Map());
      for (const [key, item] of [...value]) copy.set(inner(key), inner(item));
      return copy;
    }
    if (value instanceof Set) {
      const copy = keep(new Set());
      for (const item of [...value]) copy.add(inner(item));
      return copy;
    }
    if (value instanceof DOMException) return keep(new DOMException(value.message, value.name));
    if (value instanceof Error) {
      const kinds = { EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };
      const name = `${value.name}`;
      const type = Object.hasOwn(kinds, name) ? kinds[name] : Error;
      const made = keep(new type(`${value.message}`));
      if (Object.hasOwn(value, "cause")) Object.defineProperty(made, "cause", { value: inner(value.cause), writable: true, enumerable: false, configurable: true });
      Object.defineProperty(made, "stack", { value: value.stack, writable: true, enumerable: false, configurable: true });
      return made;
    }
    if (value instanceof File) return keep(new File([value], value.name, { type: value.type, lastModified: value.lastModified }));
    if (value instanceof Blob) return keep(new Blob([value], { type: value.type }));
    if (Array.isArray(value)) {
      const copy = keep(new Array(value.length));
      for (const key of Object.keys(value)) put(copy, key, inner(value[key]));
      return copy;
    }
    if (value instanceof Promise || value instanceof WeakMap || value instanceof WeakSet || value instanceof WeakRef) {
      throw refused(`a ${value[Symbol.toStringTag]}`);
    }
    const copy = keep({});
    for (const key of Object.keys(value)) put(copy, key, inner(value[key]));
    return copy;
  };

  wws.define({
    structuredClone(value, options) {
      needs(arguments.length, 1, "structuredClone");
      const transfer = [...(options_of(options, "the options of structuredClone").transfer ?? [])];
      for (const [at, item] of transfer.entries()) {
        if (item === null || (typeof item !== "object" && typeof item !== "function")) throw new TypeError("what is to be transferred is no object");
        if (!(item instanceof ArrayBuffer)) throw refused("what is to be transferred and is no ArrayBuffer");
        if (is_detached(item) || transfer.indexOf(item) !== at) throw refused("an ArrayBuffer that was transferred");
      }
      const copy = clone(value, new Map());
      for (const buffer of transfer) buffer.transfer();
      return copy;
    },
  });
}
