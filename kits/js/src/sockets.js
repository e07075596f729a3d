// WebSocket, WebSocketPair and their events. https://websockets.spec.whatwg.org, and for pairs
// https://developers.cloudflare.com/workers/runtime-apis/websockets/
{
  const { host, begin, start, Event, EventTarget, on_event, deliver, form, bytes: bytes_of, options: options_of, needs, text, Blob, URL } = wws;
  const { DOMException } = globalThis;

  class MessageEvent extends Event {
    #init;
    constructor(type, init) { super(type, init); this.#init = options_of(init, "the options of a MessageEvent"); }
    get data() { return this.#init.data ?? null; }
    get origin() { return this.#init.origin ?? ""; }
    get lastEventId() { return this.#init.lastEventId ?? ""; }
    get source() { return null; }
    get ports() { return []; }
    get [Symbol.toStringTag]() { return "MessageEvent"; }
  }
  class CloseEvent extends Event {
    #init;
    constructor(type, init) { super(type, init); this.#init = options_of(init, "the options of a CloseEvent"); }
    get wasClean() { return Boolean(this.#init.wasClean); }
    get code() { return this.#init.code ?? 0; }
    get reason() { return this.#init.reason ?? ""; }
    get [Symbol.toStringTag]() { return "CloseEvent"; }
  }
  class ErrorEvent extends Event {
    #init;
    constructor(type, init) { super(type, init); this.#init = options_of(init, "the options of an ErrorEvent"); }
    get message() { return this.#init.message ?? ""; }
    get filename() { return this.#init.filename ?? ""; }
    get lineno() { return this.#init.lineno ?? 0; }
    get colno() { return this.#init.colno ?? 0; }
    get error() { return this.#init.error; }
    get [Symbol.toStringTag]() { return "ErrorEvent"; }
  }

  const CONNECTING = 0, OPEN = 1, CLOSING = 2, CLOSED = 3;
  const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  const half = Symbol("an end of a pair");
  const NO_CODE = 1005, ABNORMAL = 1006, MAX_REASON = 123;

  // The code and the reason of a close that can be sent.
  const close_of = (code, reason) => {
    if (code !== undefined) {
      code = Math.trunc(Number(code)) || 0;
      const can_be = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
      if (!can_be) throw new DOMException(`${code} is not a close code that can be sent`, "InvalidAccessError");
    }
    reason = reason === undefined ? "" : text(reason);
    if (host.encode(reason).byteLength > MAX_REASON) throw new DOMException(`the reason of a close has more than ${MAX_REASON} bytes`, "SyntaxError");
    if (reason !== "") code ??= 1000;
    return { code: code ?? NO_CODE, reason };
  };

  class WebSocket extends EventTarget {
    #state = CONNECTING; #url = ""; #protocol = ""; #binary = "arraybuffer";
    // The host's number of the socket, once this end has one. Until then, an end of a pair has the other end.
    #id; #other = null;
    #is_accepted = false; #was_closed = false;
    // What came for an end that is not accepted, or not sent to a client yet: messages, and a close.
    #inbox = []; #is_draining = false;
    // Listeners that have not ended, and what waits for the end of everything.
    #running = new Set(); #ended = Promise.withResolvers();

    constructor(url, protocols) {
      super();
      if (url === half) return;
      needs(arguments.length, 1, "WebSocket");
      let parsed;
      try { parsed = new URL(text(url)); } catch { throw new DOMException(`${JSON.stringify(`${url}`)} is not a URL`, "SyntaxError"); }
      if (parsed.protocol === "http:" || parsed.protocol === "https:") parsed = new URL(parsed.href.replace(/^http/, "ws"));
      if (parsed.protocol !== "ws:" && parsed.protocol !== "wss:") throw new DOMException("the URL of a WebSocket begins with ws: or wss:", "SyntaxError");
      if (parsed.hash !== "" || parsed.href.endsWith("#")) throw new DOMException("the URL of a WebSocket has no fragment", "SyntaxError");
      const names = protocols === undefined ? [] : typeof protocols === "string" ? [protocols] : [...protocols].map((name) => `${name}`);
      if (new Set(names).size < names.length || !names.every((name) => TOKEN.test(name))) {
        throw new DOMException("the protocols of a WebSocket are different names", "SyntaxError");
      }
      this.#url = parsed.href;
      this.#is_accepted = true;
      const { id, ended } = begin("connect", [parsed.href.replace(/^ws/, "http"), ...names].join("\0"));
      ended.then(([protocol]) => {
        this.#id = id;
        this.#protocol = protocol;
        if (this.#state !== CONNECTING) { host.socketClose(id, NO_CODE, ""); } else {
          this.#state = OPEN;
          this.#tell(new Event("open"));
        }
        return this.#read();
      }, (error) => this.#finish(ABNORMAL, "", false, error)).catch((error) => wws.report("in a WebSocket", error));
    }

    static pair() {
      const [one, other] = [new WebSocket(half), new WebSocket(half)];
      one.#other = other;
      other.#other = one;
      return [one, other];
    }
    // Gives the other end of this one, which a client has, to the worker. Returns a promise for its end. Throws where this end
    // cannot be given to a client.
    static attach(self) {
      const own = self.#other;
      if (!own || self.#is_accepted || self.#id !== undefined) {
        throw new TypeError("the WebSocket of a response is the end of a new WebSocketPair that was not accepted");
      }
      own.#id = 0;
      [own.#other, self.#other] = [null, null];
      for (const { message, close } of self.#inbox.splice(0)) {
        if (close) host.socketClose(0, close.code, close.reason);
        else own.#pass(message);
      }
      if (own.#is_accepted) own.#begin();
      return own.#ended.promise;
    }
    static is_free(self) { return self instanceof WebSocket && self.#other !== null && !self.#is_accepted; }

    get url() { return this.#url; }
    get readyState() { return this.#state; }
    get protocol() { return this.#protocol; }
    get extensions() { return ""; }
    get bufferedAmount() { return 0; }
    get binaryType() { return this.#binary; }
    set binaryType(type) { if (type === "blob" || type === "arraybuffer") this.#binary = type; }

    accept() {
      if (this.#url !== "") throw new TypeError("accept is for the ends of a WebSocketPair");
      if (this.#is_accepted) throw new TypeError("the WebSocket was accepted before");
      if (this.#other === null && this.#id === undefined) throw new TypeError("the WebSocket was sent in a response");
      this.#is_accepted = true;
      if (this.#state === CONNECTING) this.#state = OPEN;
      if (this.#id === undefined) this.#drain();
      else this.#begin();
    }

    send(data) {
      needs(arguments.length, 1, "send");
      if (!this.#is_accepted) throw new TypeError("accept() comes before send()");
      if (this.#state === CONNECTING) throw new DOMException("the WebSocket is not open yet", "InvalidStateError");
      if (this.#was_closed) throw new TypeError("send() cannot follow close()");
      let message;
      if (data instanceof Blob) message = form.content(data);
      else if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) message = bytes_of(data, "the message");
      else message = text(data);
      // To a peer that is gone, nothing is sent.
      if (this.#state !== OPEN) return;
      if (this.#id !== undefined) { this.#pass(message); return; }
      if (typeof message !== "string") message = message.slice();
      this.#other.#inbox.push({ message });
      this.#other.#drain();
    }

    close(code, reason) {
      const close = close_of(code, reason);
      if (this.#state >= CLOSING) return;
      this.#state = CLOSING;
      this.#was_closed = true;
      if (this.#id !== undefined) host.socketClose(this.#id, close.code, close.reason);
      else if (this.#other) {
        this.#other.#inbox.push({ close });
        this.#other.#drain();
      }
    }

    // Waits while the peer takes nothing.
    #pass(message) {
      const why = host.socketSend(this.#id, message);
      if (why !== undefined) throw wws.error(why);
    }

    #begin() { this.#read().catch((error) => wws.report("in a WebSocket", error)); }

    // Reads what comes until the close.
    async #read() {
      for (;;) {
        const [head, bytes] = await start("receive", this.#id);
        if (bytes === undefined) this.#message(head);
        else if (head === "") this.#message(bytes);
        else {
          const [code, clean, ...reason] = head.split("\0");
          await this.#finish(Number(code), reason.join("\0"), clean === "1");
          return;
        }
      }
    }

    // Passes on what the other end of a pair has sent within the worker.
    async #drain() {
      if (!this.#is_accepted || this.#is_draining) return;
      this.#is_draining = true;
      await undefined;
      while (this.#inbox.length) {
        const { message, close } = this.#inbox.shift();
        if (!close) { this.#message(message); continue; }
        const other = this.#other;
        if (this.#state === OPEN) other?.#inbox.push({ close });
        await this.#finish(close.code, close.reason, true);
        other?.#drain();
      }
      this.#is_draining = false;
    }

    #message(data) {
      if (this.#state >= CLOSED) return;
      if (typeof data !== "string") data = this.#binary === "blob" ? new Blob([data]) : data.buffer;
      this.#tell(new MessageEvent("message", { data, origin: this.#url }));
    }

    async #finish(code, reason, wasClean, error) {
      if (this.#state === CLOSED) return;
      this.#state = CLOSED;
      if (!wasClean) this.#tell(new ErrorEvent("error", { message: error ? `${error.message}` : "the connection was lost", error }));
      this.#tell(new CloseEvent("close", { code, reason, wasClean }));
      while (this.#running.size) await Promise.all(this.#running);
      this.#ended.resolve();
    }

    // Dispatches an event. Listeners may go on after it.
    #tell(event) {
      for (const returned of deliver(this, event)) {
        if (!(returned instanceof Promise)) continue;
        const running = returned.catch((error) => wws.report(`in a listener for ${JSON.stringify(event.type)}`, error)).finally(() => this.#running.delete(running));
        this.#running.add(running);
      }
    }
    get [Symbol.toStringTag]() { return "WebSocket"; }
  }
  const { pair, attach, is_free } = WebSocket;
  for (const name of ["pair", "attach", "is_free"]) delete WebSocket[name];
  for (const name of ["open", "message", "error", "close"]) on_event(WebSocket, name);

  class WebSocketPair {
    constructor() { [this[0], this[1]] = pair(); }
    get [Symbol.toStringTag]() { return "WebSocketPair"; }
  }

  wws.sockets = { attach, is_free };
  wws.enumerable(MessageEvent, CloseEvent, ErrorEvent, WebSocket);
  for (const target of [WebSocket, WebSocket.prototype]) {
    Object.entries({ CONNECTING, OPEN, CLOSING, CLOSED }).forEach(([name, value]) => Object.defineProperty(target, name, { value, enumerable: true }));
  }
  wws.define({ MessageEvent, CloseEvent, ErrorEvent, WebSocket, WebSocketPair });
}
