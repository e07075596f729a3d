// URL and URLSearchParams. https://url.spec.whatwg.org; the host parses.
{
  const { host } = wws;
  const PARTS = ["href", "origin", "protocol", "username", "password", "host", "hostname", "port", "pathname", "search", "hash"];

  const update = Symbol("update");
  const reset = Symbol("reset");

  const decode = (text) => {
    text = text.replaceAll("+", " ");
    if (!text.includes("%")) return text;
    try { return decodeURIComponent(text); } catch { return host.percentDecode(text); }
  };
  const encode = (text) => encodeURIComponent(text.toWellFormed())
    .replace(/%20/g, "+").replace(/[!'()~]/g, (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase());

  class URLSearchParams {
    #list = []; #url = null;
    constructor(init = "", url) {
      if (url?.[update]) this.#url = url;
      if (typeof init === "object" && init !== null) {
        if (typeof init[Symbol.iterator] === "function") {
          for (const pair of init) {
            const [name, value, ...more] = pair;
            if (value === undefined || more.length) throw new TypeError("each pair must have a name and a value");
            this.#list.push([String(name), String(value)]);
          }
        } else {
          for (const name of Object.keys(init)) this.#list.push([name, String(init[name])]);
        }
      } else {
        this.#parse(String(init));
      }
    }
    #parse(text) {
      this.#list = [];
      for (const part of (text[0] === "?" ? text.slice(1) : text).split("&")) {
        if (part === "") continue;
        const at = part.indexOf("=");
        this.#list.push(at < 0 ? [decode(part), ""] : [decode(part.slice(0, at)), decode(part.slice(at + 1))]);
      }
    }
    #changed() { this.#url?.[update](this.toString()); }
    [reset](text) { this.#parse(text); }
    get size() { return this.#list.length; }
    append(name, value) { this.#list.push([String(name), String(value)]); this.#changed(); }
    delete(name, value) {
      this.#list = this.#list.filter(([n, v]) => n !== String(name) || (value !== undefined && v !== String(value)));
      this.#changed();
    }
    get(name) { return this.#list.find(([n]) => n === String(name))?.[1] ?? null; }
    getAll(name) { return this.#list.filter(([n]) => n === String(name)).map(([, v]) => v); }
    has(name, value) { return this.#list.some(([n, v]) => n === String(name) && (value === undefined || v === String(value))); }
    set(name, value) {
      const at = this.#list.findIndex(([n]) => n === String(name));
      if (at < 0) { this.append(name, value); return; }
      this.#list[at][1] = String(value);
      this.#list = this.#list.filter(([n], i) => i <= at || n !== String(name));
      this.#changed();
    }
    sort() { this.#list.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)); this.#changed(); }
    forEach(callback, self) { for (const [name, value] of this.#list) callback.call(self, value, name, this); }
    *entries() { for (const [name, value] of this.#list) yield [name, value]; }
    *keys() { for (const [name] of this.#list) yield name; }
    *values() { for (const [, value] of this.#list) yield value; }
    [Symbol.iterator]() { return this.entries(); }
    toString() { return this.#list.map(([name, value]) => `${encode(name)}=${encode(value)}`).join("&"); }
    get [Symbol.toStringTag]() { return "URLSearchParams"; }
  }

  class URL {
    #parts; #params = null;
    constructor(url, base) {
      const parts = host.url(String(url), base === undefined ? "" : String(base), base !== undefined);
      if (parts === undefined) throw new TypeError(`Invalid URL: ${url}`);
      this.#parts = parts.split("\0");
    }
    #set(part, value) {
      const parts = host.urlSet(this.#parts[0], part, String(value));
      if (parts !== undefined) this.#parts = parts.split("\0");
    }
    [update](query) { this.#set("search", query); }
    static {
      PARTS.forEach((part, index) => {
        const get = { [part]() { return this.#parts[index]; } }[part];
        const set = part === "origin" ? undefined : function (value) {
          if (part === "href") this.#parts = new URL(value).#parts;
          else this.#set(part, value);
          if (part === "href" || part === "search") this.#params?.[reset](this.#parts[9]);
        };
        Object.defineProperty(URL.prototype, part, { get, set, enumerable: true, configurable: true });
      });
    }
    get searchParams() { return this.#params ??= new URLSearchParams(this.#parts[9], this); }
    toString() { return this.#parts[0]; }
    toJSON() { return this.#parts[0]; }
    static canParse(url, base) { return URL.parse(url, base) !== null; }
    static parse(url, base) { try { return new URL(url, base); } catch { return null; } }
    get [Symbol.toStringTag]() { return "URL"; }
  }

  wws.define({ URL, URLSearchParams });
}
