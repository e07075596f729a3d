// structuredClone. https://html.spec.whatwg.org/multipage/structured-data.html
{
  const clone = (value, seen) => {
    if (typeof value === "function" || typeof value === "symbol") throw new DOMException(`${String(value)} cannot be cloned`, "DataCloneError");
    if (typeof value !== "object" || value === null) return value;
    if (seen.has(value)) return seen.get(value);
    const keep = (copy) => { seen.set(value, copy); return copy; };
    const inner = (item) => clone(item, seen);
    if (value instanceof Boolean || value instanceof Number || value instanceof String || value instanceof BigInt) return keep(Object(value.valueOf()));
    if (value instanceof Date) return keep(new Date(value.getTime()));
    if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
    if (value instanceof ArrayBuffer) return keep(value.slice(0));
    if (ArrayBuffer.isView(value)) {
      const buffer = inner(value.buffer);
      return keep(new value.constructor(buffer, value.byteOffset, value instanceof DataView ? value.byteLength : value.length));
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
      const copy = keep(new (kinds[value.name] ?? Error)(value.message));
      if ("cause" in value) copy.cause = inner(value.cause);
      copy.stack = value.stack;
      return copy;
    }
    if (value instanceof File) return keep(new File([value], value.name, { type: value.type, lastModified: value.lastModified }));
    if (value instanceof Blob) return keep(new Blob([value], { type: value.type }));
    if (Array.isArray(value)) {
      const copy = keep(new Array(value.length));
      for (const key of Object.keys(value)) copy[key] = inner(value[key]);
      return copy;
    }
    if (value instanceof Promise || value instanceof WeakMap || value instanceof WeakSet || value instanceof WeakRef) {
      throw new DOMException(`${value[Symbol.toStringTag]} cannot be cloned`, "DataCloneError");
    }
    const copy = keep({});
    for (const key of Object.keys(value)) copy[key] = inner(value[key]);
    return copy;
  };
  wws.define({
    structuredClone(value, options = {}) {
      const copy = clone(value, new Map());
      for (const buffer of options?.transfer ?? []) if (buffer instanceof ArrayBuffer) buffer.transfer();
      return copy;
    },
  });
}
