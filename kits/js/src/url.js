// URL and URLSearchParams. https://url.spec.whatwg.org; the host parses.
{
  const { host, text } = wws;
  const PARTS = ["href", "origin", "protocol", "username", "password", "host", "hostname", "port", "pathname", "search", "hash"];
  const SEARCH = PARTS.indexOf("search");

  const decode = (part) => {
    part = part.replaceAll("+", " ");
    if (!part.includes("%")) return part;
    try { return decodeURIComponent(part); } catch { return host.percentDecode(part); }
  };
  const encode = (part) => encodeURIComponent(part)
    .replace(/%20/g, "+").replace(/[!'()~]/g, (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase());

  class URLSearchParams {
    #list = []; #changed = null;
    constructor(init = "") {
      if (init !== null && (typeof init === "object" || typeof init === "function")) {
        const iterator = init[Symbol.iterator];
        if (iterator !== undefined && iterator !== null) {
          for (const pair of init) {
            if (typeof pair !== "object" || pair === null) throw new TypeError("each pair must have a name and a value");
            const both = [...pair];
            if (both.length !== 2) throw new TypeError("each pair must have a name and a value");
            this.#list.push([text(both[0]), text(both[1])]);
          }
        } else {
          // Names that are the same once they are well-formed are one.
          const all = new Map();
          for (const name of Reflect.ownKeys(init)) {
            if (Object.getOwnPropertyDescriptor(init, name)?.enumerable) all.set(text(name), text(init[name]));
          }
          this.#list = [...all];
        }
      } else {
        const query = text(init);
        this.#parse(query[0] === "?" ? query.slice(1) : query);
      }
    }
    #parse(query) {
      this.#list = [];
      for (const part of query.split("&")) {
        if (part === "") continue;
        const at = part.indexOf("=");
        this.#list.push(at < 0 ? [decode(part), ""] : [decode(part.slice(0, at)), decode(part.slice(at + 1))]);
      }
    }
    // For URL: parameters that tell `changed` of their new text, and the way to set them.
    static of(query, changed) {
      const params = new URLSearchParams();
      params.#changed = changed;
      params.#parse(query);
      return params;
    }
    static reset(params, query) { params.#parse(query); }
    static at(params, index) { return params.#list[index]; }
    get size() { return this.#list.length; }
    append(name, value) {
      wws.needs(arguments.length, 2, "append");
      this.#list.push([text(name), text(value)]);
      this.#changed?.(this.toString());
    }
    delete(name, value) {
      wws.needs(arguments.length, 1, "delete");
      name = text(name);
      if (value !== undefined) value = text(value);
      this.#list = this.#list.filter(([n, v]) => n !== name || (value !== undefined && v !== value));
      this.#changed?.(this.toString());
    }
    get(name) {
      wws.needs(arguments.length, 1, "get");
      name = text(name);
      return this.#list.find(([n]) => n === name)?.[1] ?? null;
    }
    getAll(name) {
      wws.needs(arguments.length, 1, "getAll");
      name = text(name);
      return this.#list.filter(([n]) => n === name).map(([, v]) => v);
    }
    has(name, value) {
      wws.needs(arguments.length, 1, "has");
      name = text(name);
      if (value !== undefined) value = text(value);
      return this.#list.some(([n, v]) => n === name && (value === undefined || v === value));
    }
    set(name, value) {
      wws.needs(arguments.length, 2, "set");
      name = text(name);
      value = text(value);
      const at = this.#list.findIndex(([n]) => n === name);
      if (at < 0) {
        this.#list.push([name, value]);
      } else {
        this.#list[at][1] = value;
        this.#list = this.#list.filter(([n], i) => i <= at || n !== name);
      }
      this.#changed?.(this.toString());
    }
    sort() {
      this.#list.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
      this.#changed?.(this.toString());
    }
    toString() { return this.#list.map(([name, value]) => `${encode(name)}=${encode(value)}`).join("&"); }
    get [Symbol.toStringTag]() { return "URLSearchParams"; }
  }
  const { of, reset } = URLSearchParams;
  wws.iterable(URLSearchParams, "URLSearchParams", URLSearchParams.at);
  delete URLSearchParams.of;
  delete URLSearchParams.reset;
  delete URLSearchParams.at;

  const parse = (url, base) => host.url(text(url), base === undefined ? "" : text(base), base !== undefined)?.split("\0");

  class URL {
    #parts; #params = null;
    constructor(url, base) {
      wws.needs(arguments.length, 1, "URL");
      this.#parts = parse(url, base);
      if (this.#parts === undefined) {
        throw Object.assign(new TypeError(`Invalid URL: ${text(url)}`), { code: "ERR_INVALID_URL", input: text(url) });
      }
    }
    #set(part, value) {
      const parts = host.urlSet(this.#parts[0], part, text(value));
      if (parts !== undefined) this.#parts = parts.split("\0");
    }
    static {
      PARTS.forEach((part, index) => {
        const get = { [part]() { return this.#parts[index]; } }[part];
        const set = part === "origin" ? undefined : function (value) {
          if (part === "href") this.#parts = new URL(value).#parts;
          else this.#set(part, value);
          if (this.#params && (part === "href" || part === "search")) reset(this.#params, this.#parts[SEARCH].slice(1));
        };
        Object.defineProperty(URL.prototype, part, { get, set, enumerable: true, configurable: true });
      });
    }
    get searchParams() {
      return this.#params ??= of(this.#parts[SEARCH].slice(1), (query) => this.#set("search", query));
    }
    toString() { return this.#parts[0]; }
    toJSON() { return this.#parts[0]; }
    static canParse(url, base) {
      wws.needs(arguments.length, 1, "URL.canParse");
      return parse(url, base) !== undefined;
    }
    static parse(url, base) {
      wws.needs(arguments.length, 1, "URL.parse");
      try { return new URL(url, base); } catch { return null; }
    }
    get [Symbol.toStringTag]() { return "URL"; }
  }

  wws.enumerable(URL, URLSearchParams);
  wws.define({ URL, URLSearchParams });
}
