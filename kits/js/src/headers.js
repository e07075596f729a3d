// Headers. https://fetch.spec.whatwg.org/#headers-class
{
  const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  // Regular expressions cost more than all the rest of a header: what is used most needs none.
  const KNOWN = new Map();
  for (const name of ["Accept", "Allow", "Authorization", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Length",
    "Content-Type", "Cookie", "Date", "ETag", "Expires", "Host", "Last-Modified", "Link", "Location", "Origin", "Retry-After", "Set-Cookie", "User-Agent",
    "Vary", "Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "Access-Control-Allow-Origin", "Access-Control-Max-Age", "X-Request-Id"]) {
    KNOWN.set(name, name.toLowerCase());
    KNOWN.set(name.toLowerCase(), name.toLowerCase());
  }
  const SENT_AS_IT_IS = new Set(["text/plain", "text/plain;charset=UTF-8", "text/plain; charset=utf-8", "text/html", "text/html; charset=utf-8",
    "application/json", "application/json; charset=utf-8", "text/event-stream", "no-cache", "no-store", "*"]);
  const name_of = (name) => {
    const known = KNOWN.get(name);
    if (known !== undefined) return known;
    name = `${name}`;
    if (!NAME.test(name)) throw new TypeError(`${JSON.stringify(name)} is not the name of a header`);
    return name.toLowerCase();
  };
  // Values are texts: they are sent as UTF-8, and read as UTF-8, or else as Latin-1.
  const value_of = (value) => {
    if (SENT_AS_IT_IS.has(value)) return value;
    value = `${value}`;
    if (value.trim() !== value) value = value.replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
    if (/[\0\n\r]/.test(value)) throw new TypeError("a header's value has a line break or a NUL character");
    return value;
  };

  const own_keys = Reflect.ownKeys;
  const is_enumerable = Object.prototype.propertyIsEnumerable;

  class Headers {
    #map = new Map(); #sorted = null;
    constructor(init) {
      if (init === undefined) return;
      if (typeof init !== "object" && typeof init !== "function" || init === null) {
        throw new TypeError("headers must be an object, a list of pairs or Headers");
      }
      if (#map in init && init[Symbol.iterator] === Headers.prototype[Symbol.iterator]) {
        for (const [name, values] of init.#map) this.#map.set(name, [...values]);
      } else if (init[Symbol.iterator] !== undefined && init[Symbol.iterator] !== null) {
        for (const pair of init) {
          if (typeof pair !== "object" || pair === null) throw new TypeError("each header must have a name and a value");
          const both = [...pair];
          if (both.length !== 2) throw new TypeError("each header must have a name and a value");
          this.#add(both[0], both[1]);
        }
      } else {
        for (const name of own_keys(init)) {
          if (is_enumerable.call(init, name)) this.#add(name, init[name]);
        }
      }
    }
    append(name, value) {
      wws.needs(arguments.length, 2, "append");
      this.#add(name, value);
    }
    #add(name, value) {
      name = name_of(name);
      value = value_of(value);
      const values = this.#map.get(name);
      if (values) values.push(value); else this.#map.set(name, [value]);
      this.#sorted = null;
    }
    delete(name) {
      wws.needs(arguments.length, 1, "delete");
      this.#map.delete(name_of(name));
      this.#sorted = null;
    }
    get(name) {
      wws.needs(arguments.length, 1, "get");
      name = name_of(name);
      return this.#map.get(name)?.join(name === "cookie" ? "; " : ", ") ?? null;
    }
    getAll(name) { return [...(this.#map.get(name_of(name)) ?? [])]; }
    getSetCookie() { return this.getAll("set-cookie"); }
    has(name) {
      wws.needs(arguments.length, 1, "has");
      return this.#map.has(name_of(name));
    }
    set(name, value) {
      wws.needs(arguments.length, 2, "set");
      this.#map.set(name_of(name), [value_of(value)]);
      this.#sorted = null;
    }
    // As objects of headers were in Wasm Workers Server 1.x.
    toJSON() {
      const all = {};
      for (const name of this.#map.keys()) Object.defineProperty(all, name, { value: this.get(name), writable: true, enumerable: true, configurable: true });
      return all;
    }
    get [Symbol.toStringTag]() { return "Headers"; }

    // For the kit: the pair at a place of the sorted list.
    static at(headers, index) {
      if (headers.#sorted === null) {
        headers.#sorted = [];
        for (const name of [...headers.#map.keys()].sort()) {
          if (name === "set-cookie") for (const value of headers.#map.get(name)) headers.#sorted.push([name, value]);
          else headers.#sorted.push([name, headers.get(name)]);
        }
      }
      return headers.#sorted[index];
    }
    // For the kit: names and values after a text, repeated names repeated, with a NUL character before each; and the type that is given
    // if there is none.
    static text(headers, text, type) {
      const map = headers.#map;
      if (map.size > 0) map.forEach((values, name) => { for (let at = 0; at < values.length; at++) text += `\0${name}\0${values[at]}`; });
      return type === undefined || map.has("content-type") ? text : `${text}\0content-type\0${type}`;
    }
    // For the kit: of names and values in a flat list, without checks.
    static of(list, from) {
      const headers = new Headers();
      for (let i = from; i + 1 < list.length; i += 2) {
        const values = headers.#map.get(list[i]);
        if (values) values.push(list[i + 1]); else headers.#map.set(list[i], [list[i + 1]]);
      }
      return headers;
    }
  }

  wws.headers = { of: Headers.of, text: Headers.text };
  wws.iterable(Headers, "Headers", Headers.at);
  delete Headers.of;
  delete Headers.text;
  delete Headers.at;
  wws.enumerable(Headers);
  wws.define({ Headers });
}
