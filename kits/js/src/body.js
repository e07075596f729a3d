// Request and Response. https://fetch.spec.whatwg.org
{
  const { host, bytes: bytes_of, join, form, headers: flat, mime, stream_of, text, utf8, options: options_of } = wws;
  const { URLSearchParams, Headers, FormData, Blob, URL, signals, AbortSignal, begin, cancel, sockets } = wws;
  const { ReadableStream } = globalThis;
  const incoming = Symbol("the body of the request that is being handled");
  const inner = Symbol("the kit's own way");

  const is_disturbed = (stream) => stream._disturbed === true;
  // What reads a body by its source keeps its stream as if it had read that: disturbed and locked.
  const use_up = (stream) => {
    stream._disturbed = true;
    stream.getReader();
  };

  // A body that the host has: of the request that is handled, whose number is 0, or of what `fetch` was answered. It is read as a
  // whole or piece by piece. `signal` ends that.
  class Flow {
    #id; #signal;
    constructor(id, signal) { this.#id = id; this.#signal = signal; }
    async #run(name) {
      this.#signal?.throwIfAborted();
      const { id, ended } = begin(name, this.#id);
      if (!this.#signal) return (await ended)[1];
      let forget;
      const aborted = new Promise((_, reject) => {
        forget = signals.follow(this.#signal, () => {
          cancel(id);
          this.close();
          reject(this.#signal.reason);
        });
      });
      try { return (await Promise.race([ended, aborted]))[1]; } finally { forget(); }
    }
    // Undefined at its end.
    next() { return this.#run("read"); }
    async all() { return await this.#run("readAll") ?? new Uint8Array(0); }
    close() { host.close(this.#id); }
    stream() {
      return new ReadableStream({
        type: "bytes",
        pull: async (controller) => {
          const piece = await this.next();
          if (piece !== undefined) { controller.enqueue(piece); return; }
          controller.close();
          controller.byobRequest?.respond(0);
        },
        cancel: () => this.close(),
      });
    }
  }

  // What a body can be made of: text, bytes or a stream, with the type that it brings along.
  const extract = (body) => {
    if (body === null || body === undefined) return { source: null };
    if (typeof body === "string") return { source: body, type: "text/plain;charset=UTF-8", is_text: true };
    if (body instanceof ReadableStream) {
      if (is_disturbed(body) || body.locked) throw new TypeError("a stream that was read or is being read cannot be a body");
      return { source: body };
    }
    if (body instanceof URLSearchParams) return { source: body.toString(), type: "application/x-www-form-urlencoded;charset=UTF-8" };
    if (body instanceof Blob) return { source: form.content(body), type: body.type };
    if (body instanceof FormData) {
      const { bytes, type } = form.to_multipart(body);
      return { source: bytes, type };
    }
    if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) return { source: bytes_of(body, "the body").slice() };
    if (typeof body[Symbol.asyncIterator] === "function") return { source: ReadableStream.from(body) };
    return { source: `${body}`, type: "text/plain;charset=UTF-8", is_text: true };
  };

  const read_all = async (stream) => {
    const parts = [];
    const reader = stream.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return join(parts);
      if (typeof value === "string") parts.push(host.encode(value));
      else parts.push(bytes_of(value, "a part of a stream that is a body"));
    }
  };

  const used_up = () => new TypeError("The body was already read, or is being read");

  class Body {
    // `#source`: null, a text, bytes, a stream, a body that the host has, or the mark of the request's body. `#stream`: a stream over
    // it, once somebody asked.
    #source; #stream = null; #used = false; #is_text = false;
    constructor(source, is_text = false) { this.#source = source; this.#is_text = is_text; }
    get body() {
      if (this.#source === null) return null;
      if (this.#stream) return this.#stream;
      if (this.#source instanceof Flow) {
        const stream = this.#used ? stream_of(() => new Uint8Array(0)) : this.#source.stream();
        if (this.#used) use_up(stream);
        this.#source = stream;
      }
      if (this.#source instanceof ReadableStream) return this.#stream = this.#source;
      const source = this.#source;
      const stream = stream_of(() => (this.#used ? new Uint8Array(0) : as_bytes(source)));
      if (this.#used) use_up(stream);
      // In Wasm Workers Server 1.x `body` was the text itself: converted to a text, the stream of a body that is there still is.
      const as_text = () => as_string(source);
      for (const [key, value] of [["toString", as_text], ["toJSON", as_text], [Symbol.toPrimitive, as_text]]) {
        Object.defineProperty(stream, key, { value, writable: true, configurable: true });
      }
      return this.#stream = stream;
    }
    get bodyUsed() { return is_used(this); }
    // At once if it is there: null, text, bytes, or the mark of the request's own body. Uses the body up.
    static take(self) {
      if (is_unusable(self)) throw used_up();
      if (self.#source === null) return null;
      const stream = self.#source instanceof ReadableStream ? self.#source : null;
      self.#used = true;
      if (stream) return read_all(stream);
      if (self.#source instanceof Flow) return self.#source.all();
      if (self.#stream) use_up(self.#stream);
      return self.#source;
    }
    // What reads the body piece by piece, if it is no body that is there. Uses the body up.
    static pieces(self) {
      const source = self.#source;
      if (!(source instanceof Flow) && !(source instanceof ReadableStream)) return null;
      if (is_unusable(self)) throw used_up();
      self.#used = true;
      if (source instanceof Flow) return { next: () => source.next(), cancel: () => source.close() };
      const reader = source.getReader();
      return {
        next: async () => {
          const { done, value } = await reader.read();
          if (done) return undefined;
          return typeof value === "string" ? value : bytes_of(value, "a part of a stream that is a body");
        },
        cancel: (reason) => { reader.cancel(reason).catch(() => {}); },
      };
    }
    // A text that is there, or undefined. Uses the body up.
    static take_text(self) {
      if (self.#used || self.#stream !== null || typeof self.#source !== "string") return undefined;
      self.#used = true;
      return self.#source;
    }
    static is_used(self) {
      if (self.#used) return true;
      const stream = self.#stream ?? self.#source;
      return stream instanceof ReadableStream && is_disturbed(stream);
    }
    static is_unusable(self) {
      if (is_used(self)) return true;
      const stream = self.#stream ?? self.#source;
      return stream instanceof ReadableStream && stream.locked;
    }
    static is_text(self) { return self.#is_text; }
    // The body, for another one beside it.
    static copy(self) {
      if (is_unusable(self)) throw used_up();
      if (self.#source instanceof Flow) self.#source = self.#source.stream();
      if (!(self.#source instanceof ReadableStream)) return { source: self.#source, is_text: self.#is_text };
      const [own, other] = self.#source.tee();
      self.#source = own;
      self.#stream = null;
      return { source: other };
    }
    // The body, for another one in its place.
    static move(self) {
      if (is_unusable(self)) throw used_up();
      if (self.#source === null) return { source: null };
      const given = { source: self.#source, is_text: self.#is_text };
      if (self.#source instanceof ReadableStream) {
        // A stream that is piped through is locked and its pieces are read by the new body alone.
        given.source = self.#source.pipeThrough(new TransformStream());
      } else if (self.#stream) {
        use_up(self.#stream);
      }
      self.#used = true;
      return given;
    }
    static replace(self, { source, is_text }) {
      self.#source = source;
      self.#is_text = Boolean(is_text);
      self.#stream = null;
      self.#used = false;
    }
    async bytes() { return as_bytes(await take(this), true); }
    async arrayBuffer() { return as_bytes(await take(this), true).buffer; }
    async text() { return as_string(await take(this)); }
    async json() { return JSON.parse(as_string(await take(this))); }
    async blob() {
      const type = mime(this.headers.get("content-type") ?? "")?.text ?? "";
      return new Blob([as_bytes(await take(this))], { type });
    }
    async formData() {
      const given = this.headers.get("content-type");
      const type = mime(given ?? "");
      const taken = await take(this);
      if (type?.essence === "application/x-www-form-urlencoded") {
        const data = new FormData();
        const query = typeof taken === "string" ? taken : utf8.decode(as_bytes(taken), true);
        new URLSearchParams(`?${query}`).forEach((value, name) => data.append(name, value));
        return data;
      }
      const boundary = type?.essence === "multipart/form-data" ? type.parameters.get("boundary") : undefined;
      if (!boundary) throw new TypeError(`a body of type ${JSON.stringify(given)} is no form`);
      return form.from_multipart(as_bytes(taken), boundary);
    }
  }
  const as_bytes = (taken, own = false) => {
    if (taken === null) return new Uint8Array(0);
    if (taken === incoming) return host.body();
    if (typeof taken === "string") return host.encode(taken);
    return own ? taken.slice() : taken;
  };
  // As UTF-8 that is decoded: without a byte order mark at the beginning.
  const as_string = (taken) => {
    if (taken === null) return "";
    if (taken === incoming) return host.bodyText();
    if (typeof taken !== "string") return utf8.decode(taken, false);
    return (taken.charCodeAt(0) === 0xfeff ? taken.slice(1) : taken).toWellFormed();
  };
  const { take, take_text, pieces, copy, move, replace, is_used, is_unusable, is_text } = Body;
  for (const name of ["take", "take_text", "pieces", "copy", "move", "replace", "is_used", "is_unusable", "is_text"]) delete Body[name];
  const { TransformStream } = globalThis;

  const METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"];
  const method_of = (method) => {
    method = `${method}`;
    if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(method)) throw new TypeError(`${JSON.stringify(method)} is not a method`);
    const upper = method.toUpperCase();
    if (["CONNECT", "TRACE", "TRACK"].includes(upper)) throw new TypeError(`requests of the method ${upper} cannot be sent`);
    return METHODS.includes(upper) ? upper : method;
  };
  const one_of = (value, values, what) => {
    if (!values.includes(`${value}`)) throw new TypeError(`${what} is ${JSON.stringify(`${value}`)}, not one of ${values.join(", ")}`);
    return `${value}`;
  };
  // What Request has and a server does not use.
  const UNUSED = {
    mode: ["cors", "same-origin", "no-cors", "navigate", "websocket"],
    credentials: ["same-origin", "omit", "include"],
    cache: ["default", "no-store", "reload", "no-cache", "force-cache", "only-if-cached"],
    referrerPolicy: ["", "no-referrer", "no-referrer-when-downgrade", "same-origin", "origin", "strict-origin",
      "origin-when-cross-origin", "strict-origin-when-cross-origin", "unsafe-url"],
  };

  class Request extends Body {
    // `#lines`: method and URL. `#head`: what the host passed, until somebody reads the headers.
    #lines; #head; #headers; #params; #signal = null; #options = null;
    constructor(input, init = undefined, own = null, head = undefined) {
      if (input === inner) {
        super(own);
        this.#lines = init;
        this.#params = init[2];
        this.#head = head;
        return;
      }
      if (input === undefined) wws.needs(0, 1, "Request");
      init = options_of(init, "the options of a Request");
      const from = input instanceof Request ? input : null;
      let url;
      if (!from) {
        try { url = new URL(input); } catch { throw new TypeError(`${JSON.stringify(text(input))} is not an absolute URL`); }
        if (url.username || url.password) throw new TypeError("a request's URL has a user name or password: send an authorization header");
      }
      const method = init.method === undefined ? from?.method ?? "GET" : method_of(init.method);
      const has_no_body = method === "GET" || method === "HEAD";
      const given = init.body === undefined || init.body === null ? null : extract(init.body);
      if (given && has_no_body) throw new TypeError(`a ${method} request has no body`);
      const headers = new Headers(init.headers ?? from?.headers);
      const signal = init.signal === undefined ? from?.signal : init.signal;
      if (signal !== null && signal !== undefined && !(signal instanceof AbortSignal)) throw new TypeError("the option `signal` is no AbortSignal");
      const redirect = init.redirect === undefined ? from?.redirect ?? "follow" : one_of(init.redirect, ["follow", "manual", "error"], "redirect");
      if (init.duplex !== undefined) one_of(init.duplex, ["half"], "duplex");
      const unused = { redirect };
      for (const [name, values] of Object.entries(UNUSED)) {
        unused[name] = init[name] === undefined ? from?.[name] ?? values[0] : one_of(init[name], values, name);
      }
      if (unused.mode === "navigate" || unused.mode === "websocket") throw new TypeError(`mode is ${unused.mode}, which no script can ask for`);
      unused.integrity = init.integrity === undefined ? from?.integrity ?? "" : `${init.integrity}`;
      unused.keepalive = init.keepalive === undefined ? from?.keepalive ?? false : Boolean(init.keepalive);
      if (given === null && from && has_no_body && from.body !== null) throw new TypeError(`a ${method} request has no body`);
      const body = given ?? (from ? move(from) : { source: null });
      super(body.source, body.is_text);
      this.#lines = [method, from ? from.url : url.href];
      this.#headers = headers;
      this.#signal = signal ? AbortSignal.any([signal]) : null;
      this.#params = from?.params;
      this.#options = unused;
      if (given?.type && !headers.has("content-type")) headers.set("content-type", given.type);
    }
    get method() { return this.#lines[0]; }
    get url() { return this.#lines[1]; }
    get headers() { return this.#headers ??= flat.of(this.#head.split("\0"), 4); }
    get params() { return this.#params = typeof this.#params === "string" ? JSON.parse(this.#params) : this.#params ?? {}; }
    // Routers put their own there.
    set params(params) { this.#params = params; }
    get signal() { return this.#signal ??= signals.never(); }
    get redirect() { return this.#options?.redirect ?? "follow"; }
    get mode() { return this.#options?.mode ?? "cors"; }
    get credentials() { return this.#options?.credentials ?? "same-origin"; }
    get cache() { return this.#options?.cache ?? "default"; }
    get destination() { return ""; }
    get referrer() { return "about:client"; }
    get referrerPolicy() { return this.#options?.referrerPolicy ?? ""; }
    get integrity() { return this.#options?.integrity ?? ""; }
    get keepalive() { return this.#options?.keepalive ?? false; }
    get isReloadNavigation() { return false; }
    get isHistoryNavigation() { return false; }
    get duplex() { return "half"; }
    clone() {
      const { source, is_text } = copy(this);
      const made = new Request(inner, this.#lines);
      replace(made, { source, is_text });
      made.#headers = new Headers(this.headers);
      made.#params = this.#params;
      made.#signal = this.#signal ? AbortSignal.any([this.#signal]) : null;
      made.#options = this.#options;
      return made;
    }
    // What a request was as an object in Wasm Workers Server 1.x.
    toJSON() {
      return { url: this.url, method: this.method, headers: this.headers, body: this.body === null ? undefined : `${this.body}`, params: this.params };
    }
    get [Symbol.toStringTag]() { return "Request"; }
  }

  const status_of = (status, has_socket = false) => {
    if (status === undefined) return has_socket ? 101 : 200;
    const number = (Math.trunc(Number(status)) || 0) & 0xffff;
    if (has_socket && number === 101) return number;
    if (has_socket) throw new RangeError(`a response with a WebSocket has the status 101, not ${String(status)}`);
    if (number < 200 || number > 599) throw new RangeError(`${String(status)} is not a status from 200 to 599`);
    return number;
  };
  const byte_string = (value, what) => {
    value = `${value ?? ""}`;
    if (/[^\0-\xff]/.test(value)) throw new TypeError(`${what} has a character that is not Latin-1`);
    return value;
  };
  const status_text_of = (value) => {
    value = byte_string(value, "statusText");
    if (/[^\t\x20-\x7e\x80-\xff]/.test(value)) throw new TypeError("statusText has a line break or another character that cannot be sent");
    return value;
  };
  const has_no_body = (status) => status === 101 || status === 204 || status === 205 || status === 304;

  class Response extends Body {
    // `#received`: what only a response from elsewhere has.
    #status; #statusText; #headers; #received = null; #socket = null;
    constructor(body = null, init) {
      init = options_of(init, "the options of a Response");
      const given = init.statusText === undefined ? "" : byte_string(init.statusText, "statusText");
      const socket = init.webSocket ?? null;
      if (socket !== null && !sockets.is_free(socket)) {
        throw new TypeError("webSocket must be the end of a new WebSocketPair that was not accepted");
      }
      const status = status_of(init.status, socket !== null);
      const statusText = given === "" ? "" : status_text_of(given);
      const headers = new Headers(init.headers ?? undefined);
      const { source, type, is_text } = extract(body);
      if (source !== null && has_no_body(status)) throw new TypeError(`an answer of status ${status} has no body`);
      super(source, is_text);
      this.#socket = socket;
      this.#status = status;
      this.#statusText = statusText;
      this.#headers = headers;
      // Text gets its type when it is sent: text/html, as workers of Wasm Workers Server 1.x expect.
      if (type && !is_text && !headers.has("content-type")) headers.set("content-type", type);
    }
    get status() { return this.#status; }
    get statusText() { return this.#statusText; }
    get ok() { return this.#status >= 200 && this.#status < 300; }
    get headers() { return this.#headers; }
    get url() { return this.#received?.url ?? ""; }
    get redirected() { return this.#received?.redirected ?? false; }
    get type() { return this.#received?.type ?? "default"; }
    // The end of a WebSocketPair that the client gets.
    get webSocket() { return this.#socket; }
    // Responses of Wasm Workers Server 1.x were objects whose properties could be set.
    set status(status) {
      status = status_of(status);
      if (has_no_body(status) && super.body !== null) throw new TypeError(`an answer of status ${status} has no body`);
      this.#status = status;
    }
    set statusText(value) { this.#statusText = status_text_of(value); }
    set headers(headers) { this.#headers = new Headers(headers); }
    get body() { return super.body; }
    set body(body) {
      const given = extract(body);
      if (given.source !== null && has_no_body(this.#status)) throw new TypeError(`an answer of status ${this.#status} has no body`);
      replace(this, given);
      if (given.type && !given.is_text && !this.#headers.has("content-type")) this.#headers.set("content-type", given.type);
    }
    clone() {
      if (this.#socket !== null) throw new TypeError("a response with a WebSocket cannot be cloned");
      const made = new Response();
      replace(made, copy(this));
      made.#status = this.#status;
      made.#statusText = this.#statusText;
      made.#headers = new Headers(this.#headers);
      made.#received = this.#received;
      return made;
    }
    // For the kit: what a server answered.
    static answered({ status, statusText, headers, source, url, redirected }) {
      const made = new Response();
      replace(made, { source });
      made.#status = status;
      made.#statusText = statusText;
      made.#headers = headers;
      made.#received = { url, redirected, type: "basic" };
      return made;
    }
    static redirect(url, status = 302) {
      wws.needs(arguments.length, 1, "Response.redirect");
      if (![301, 302, 303, 307, 308].includes(Number(status))) throw new RangeError(`${String(status)} is not the status of a redirect`);
      return new Response(null, { status, headers: { location: location_of(text(url)) } });
    }
    static json(data, init) {
      wws.needs(arguments.length, 1, "Response.json");
      init = options_of(init, "the options of a Response");
      const body = JSON.stringify(data);
      if (body === undefined) throw new TypeError(`${typeof data === "symbol" ? "a symbol" : typeof data} has no JSON`);
      const headers = new Headers(init.headers ?? undefined);
      if (!headers.has("content-type")) headers.set("content-type", "application/json");
      return new Response(body, { status: init.status, statusText: init.statusText, headers });
    }
    static error() {
      const response = new Response();
      response.#status = 0;
      response.#received = { type: "error" };
      return response;
    }
    get [Symbol.toStringTag]() { return "Response"; }
  }
  // A reference without a scheme is left to the client, who knows what it is relative to.
  const location_of = (url) => {
    try { return new URL(url).href; } catch {
      return url.replace(/[\0-\x20\x7f-\uffff]+/g, encodeURIComponent);
    }
  };

  wws.body = {
    take, is_text, as_bytes, answered: Response.answered,
    // The request that is being handled. Its headers are read when somebody asks.
    incoming: (head) => {
      const lines = head.split("\0", 4);
      const body = lines[3] === "0" ? null : lines[3] === "1" ? incoming : new Flow(0);
      return new Request(inner, lines, body, head);
    },
    // The body of an answer to `fetch`, by the number of the operation.
    flow: (id, signal) => new Flow(id, signal),
    // What is sent: text or bytes that are there, or what reads the pieces of a stream, a body with a function `next`.
    sent: (body) => {
      const there = take_text(body);
      if (there !== undefined) return there;
      const stream = pieces(body);
      if (stream) return stream;
      const taken = take(body);
      return taken === incoming ? as_bytes(taken) : taken;
    },
    is_stream: (sent) => typeof sent?.next === "function",
  };
  delete Response.answered;
  wws.enumerable(Body, Request, Response);
  wws.define({ Request, Response });
}
