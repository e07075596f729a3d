// Headers. https://fetch.spec.whatwg.org/#headers-class
{
  const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  const name_of = (name) => {
    name = String(name);
    if (!NAME.test(name)) throw new TypeError(`${JSON.stringify(name)} is not the name of a header`);
    return name.toLowerCase();
  };
  const value_of = (value) => {
    value = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
    if (/[\0\n\r]/.test(value)) throw new TypeError("a header's value has a line break or a NUL character");
    return value;
  };

  class Headers {
    #map = new Map();
    constructor(init) {
      if (init === undefined || init === null) return;
      if (init instanceof Headers) {
        for (const [name, values] of init.#map) this.#map.set(name, [...values]);
      } else if (typeof init[Symbol.iterator] === "function") {
        for (const pair of init) {
          if (pair.length !== 2) throw new TypeError("each header must have a name and a value");
          this.append(pair[0], pair[1]);
        }
      } else if (typeof init === "object") {
        for (const name of Object.keys(init)) this.append(name, init[name]);
      } else {
        throw new TypeError("headers must be an object, a list of pairs or Headers");
      }
    }
    append(name, value) {
      name = name_of(name);
      value = value_of(value);
      const values = this.#map.get(name);
      if (values) values.push(value); else this.#map.set(name, [value]);
    }
    delete(name) { this.#map.delete(name_of(name)); }
    get(name) {
      name = name_of(name);
      return this.#map.get(name)?.join(name === "cookie" ? "; " : ", ") ?? null;
    }
    getAll(name) { return [...(this.#map.get(name_of(name)) ?? [])]; }
    getSetCookie() { return this.getAll("set-cookie"); }
    has(name) { return this.#map.has(name_of(name)); }
    set(name, value) { this.#map.set(name_of(name), [value_of(value)]); }
    forEach(callback, self) { for (const [name, value] of this) callback.call(self, value, name, this); }
    *entries() {
      for (const name of [...this.#map.keys()].sort()) {
        if (name === "set-cookie") for (const value of this.#map.get(name)) yield [name, value];
        else yield [name, this.get(name)];
      }
    }
    *keys() { for (const [name] of this.entries()) yield name; }
    *values() { for (const [, value] of this.entries()) yield value; }
    [Symbol.iterator]() { return this.entries(); }
    get [Symbol.toStringTag]() { return "Headers"; }

    // For the kit: names and values in a flat list, repeated names repeated; and back, without checks.
    static flat(headers) {
      const list = [];
      for (const [name, values] of headers.#map) for (const value of values) list.push(name, value);
      return list;
    }
    static of(list, from) {
      const headers = new Headers();
      for (let i = from; i + 1 < list.length; i += 2) {
        const values = headers.#map.get(list[i]);
        if (values) values.push(list[i + 1]); else headers.#map.set(list[i], [list[i + 1]]);
      }
      return headers;
    }
  }

  wws.headers = { flat: Headers.flat, of: Headers.of };
  delete Headers.flat;
  delete Headers.of;
  wws.define({ Headers });
}
