// Request and Response. https://fetch.spec.whatwg.org
{
  const { host, bytes, join, form, headers: flat } = wws;
  const incoming = Symbol("the request that is being handled");

  // What a body can be made of: text, bytes or a stream, with the type that it brings along.
  const extract = (body) => {
    if (body === null || body === undefined) return { source: null };
    if (typeof body === "string") return { source: body, type: "text/plain;charset=UTF-8", text: true };
    if (body instanceof ReadableStream) return { source: body };
    if (body instanceof URLSearchParams) return { source: body.toString(), type: "application/x-www-form-urlencoded;charset=UTF-8" };
    if (body instanceof Blob) return { source: form.content(body), type: body.type };
    if (body instanceof FormData) {
      const { bytes, type } = form.to_multipart(body);
      return { source: bytes, type };
    }
    if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) return { source: bytes(body, "the body").slice() };
    if (typeof body[Symbol.asyncIterator] === "function") return { source: ReadableStream.from(body) };
    return { source: String(body), type: "text/plain;charset=UTF-8", text: true };
  };

  const read_all = async (stream) => {
    const parts = [];
    const reader = stream.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return join(parts);
      if (typeof value === "string") parts.push(host.encode(value));
      else parts.push(bytes(value, "a part of a stream that is a body"));
    }
  };

  class Body {
    #source; #used = false; #stream;
    constructor(source) { this.#source = source; }
    get body() {
      if (this.#source === null) return null;
      if (this.#stream) return this.#stream;
      if (this.#source instanceof ReadableStream) return this.#stream = this.#source;
      const self = this;
      return this.#stream = new ReadableStream({
        type: "bytes",
        pull(controller) {
          const all = self.#bytes();
          if (all.byteLength) controller.enqueue(all.slice());
          controller.close();
          controller.byobRequest?.respond(0);
        },
      });
    }
    get bodyUsed() { return this.#used || Boolean(this.#stream && disturbed(this.#stream)); }
    #take() {
      if (this.bodyUsed || this.#stream?.locked) throw new TypeError("The body was already read");
      if (this.#source !== null) this.#used = true;
    }
    #bytes() {
      if (this.#source === null) return new Uint8Array(0);
      if (this.#source === incoming) return this.#source = host.body();
      if (typeof this.#source === "string") return host.encode(this.#source);
      return this.#source;
    }
    // For the kit: text or bytes, at once if they are there.
    static take(self) {
      self.#take();
      const stream = self.#stream ?? self.#source;
      if (stream instanceof ReadableStream) return read_all(stream);
      return typeof self.#source === "string" || self.#source === null ? self.#source : self.#bytes();
    }
    static copy(self) {
      if (self.bodyUsed) throw new TypeError("The body was already read");
      if (self.#source instanceof ReadableStream || self.#stream) {
        const [a, b] = self.body.tee();
        self.#stream = self.#source = a;
        return b;
      }
      return self.#source;
    }
    async bytes() {
      const taken = await take(this);
      if (taken === null) return new Uint8Array(0);
      return typeof taken === "string" ? host.encode(taken) : taken.slice();
    }
    async arrayBuffer() { return (await this.bytes()).buffer; }
    async text() {
      if (this.#source === incoming && !this.#stream) {
        this.#take();
        return host.bodyText();
      }
      const taken = await take(this);
      return taken === null ? "" : typeof taken === "string" ? taken : host.decode("utf-8", taken, false);
    }
    async json() { return JSON.parse(await this.text()); }
    async blob() { return new Blob([await this.bytes()], { type: this.headers.get("content-type") ?? "" }); }
    async formData() {
      const type = this.headers.get("content-type") ?? "";
      if (/^application\/x-www-form-urlencoded\b/i.test(type)) {
        const data = new FormData();
        for (const [name, value] of new URLSearchParams(await this.text())) data.append(name, value);
        return data;
      }
      const boundary = /^multipart\/form-data\b.*?;\s*boundary=(?:"([^"]+)"|([^;\s]+))/i.exec(type);
      if (!boundary) throw new TypeError(`a body of type ${JSON.stringify(type)} is no form`);
      return form.from_multipart(await this.bytes(), boundary[1] ?? boundary[2]);
    }
  }
  const { take, copy } = Body;
  delete Body.take;
  delete Body.copy;
  const disturbed = (stream) => stream._disturbed === true;

  const METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"];
  const method_of = (method) => {
    method = String(method);
    const upper = method.toUpperCase();
    return METHODS.includes(upper) || upper === "PATCH" ? upper : method;
  };

  class Request extends Body {
    #method; #url; #headers; #lines; #params; #signal; #redirect;
    constructor(input, init = {}) {
      if (input === incoming) {
        super(init.method === "GET" || init.method === "HEAD" ? null : incoming);
        this.#method = init.method;
        this.#url = init.url;
        this.#lines = init.lines;
        this.#params = init.params;
        this.#redirect = "follow";
        return;
      }
      const from = input instanceof Request ? input : null;
      const body = init.body !== undefined ? extract(init.body) : from ? { source: from.bodyUsed ? null : copy(from) } : { source: null };
      const method = method_of(init.method ?? from?.method ?? "GET");
      if (init.body != null && (method === "GET" || method === "HEAD")) throw new TypeError(`a ${method} request has no body`);
      super(body.source);
      this.#method = method;
      this.#url = from ? from.url : new URL(input).href;
      this.#headers = new Headers(init.headers ?? from?.headers);
      this.#signal = init.signal ?? from?.signal;
      this.#redirect = init.redirect ?? from?.redirect ?? "follow";
      if (!["follow", "manual", "error"].includes(this.#redirect)) throw new TypeError(`redirect is ${this.#redirect}, not follow, manual or error`);
      this.#params = from?.params;
      if (body.type && !this.#headers.has("content-type")) this.#headers.set("content-type", body.type);
    }
    get method() { return this.#method; }
    get url() { return this.#url; }
    get headers() { return this.#headers ??= flat.of(this.#lines, 3); }
    get params() { return this.#params = typeof this.#params === "string" ? JSON.parse(this.#params) : this.#params ?? {}; }
    // Routers put their own there.
    set params(params) { this.#params = params; }
    get signal() { return this.#signal ??= new AbortController().signal; }
    get redirect() { return this.#redirect; }
    get cf() { return undefined; }
    clone() { return new Request(this); }
    get [Symbol.toStringTag]() { return "Request"; }
  }

  class Response extends Body {
    #status; #statusText; #headers; #url = ""; #type = "default";
    constructor(body = null, init = {}) {
      init ??= {};
      const status = init.status === undefined ? 200 : Number(init.status);
      if (!Number.isInteger(status) || status < 200 || status > 599) throw new RangeError(`${init.status} is not a status from 200 to 599`);
      const { source, type, text } = extract(body);
      if (source !== null && (status === 204 || status === 205 || status === 304)) throw new TypeError(`an answer of status ${status} has no body`);
      super(source);
      this.#status = status;
      this.#statusText = String(init.statusText ?? "");
      this.#headers = new Headers(init.headers);
      // Text alone gets the server's default, text/html, as workers of the old server expect.
      if (type && !text && !this.#headers.has("content-type")) this.#headers.set("content-type", type);
    }
    get status() { return this.#status; }
    get statusText() { return this.#statusText; }
    get ok() { return this.#status >= 200 && this.#status < 300; }
    get headers() { return this.#headers; }
    get url() { return this.#url; }
    get redirected() { return false; }
    get type() { return this.#type; }
    clone() {
      const response = new Response(null, { status: this.#status === 0 ? 200 : this.#status, statusText: this.#statusText, headers: this.#headers });
      return Response.with(response, copy(this), this.#url);
    }
    static with(response, source, url) {
      const made = new Response(source, { status: response.status, statusText: response.statusText, headers: response.headers });
      made.#url = url;
      return made;
    }
    static redirect(url, status = 302) {
      if (![301, 302, 303, 307, 308].includes(status)) throw new RangeError(`${status} is not the status of a redirect`);
      return new Response(null, { status, headers: { location: String(url) } });
    }
    static json(data, init = {}) {
      const headers = new Headers(init?.headers);
      if (!headers.has("content-type")) headers.set("content-type", "application/json");
      return new Response(JSON.stringify(data), { ...init, headers });
    }
    static error() {
      const response = new Response(null);
      response.#status = 0;
      response.#type = "error";
      return response;
    }
    get [Symbol.toStringTag]() { return "Response"; }
  }
  wws.body = { take, incoming, with: Response.with };
  delete Response.with;
  const with_ = wws.body.with;
  Response.prototype.clone = function clone() {
    return with_(this, copy(this), this.url);
  };
  wws.define({ Request, Response });
}
