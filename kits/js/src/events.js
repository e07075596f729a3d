// Event, EventTarget, AbortController. https://dom.spec.whatwg.org
{
  class Event {
    #type; #stopped = false; #prevented = false; #cancelable;
    constructor(type, init = {}) {
      this.#type = String(type);
      this.#cancelable = Boolean(init.cancelable);
      this.bubbles = Boolean(init.bubbles);
      this.timeStamp = 0;
      this.target = null;
      this.currentTarget = null;
    }
    get type() { return this.#type; }
    get cancelable() { return this.#cancelable; }
    get defaultPrevented() { return this.#prevented; }
    get stopped() { return this.#stopped; }
    preventDefault() { if (this.#cancelable) this.#prevented = true; }
    stopPropagation() {}
    stopImmediatePropagation() { this.#stopped = true; }
  }

  class CustomEvent extends Event {
    constructor(type, init = {}) { super(type, init); this.detail = init.detail ?? null; }
  }

  class EventTarget {
    #listeners = new Map();
    addEventListener(type, listener, options) {
      if (listener == null) return;
      const list = this.#listeners.get(type) ?? [];
      if (list.some((entry) => entry.listener === listener)) return;
      const once = typeof options === "object" && Boolean(options?.once);
      list.push({ listener, once });
      this.#listeners.set(type, list);
    }
    removeEventListener(type, listener) {
      const list = this.#listeners.get(type);
      if (list) this.#listeners.set(type, list.filter((entry) => entry.listener !== listener));
    }
    dispatchEvent(event) {
      event.target ??= this;
      event.currentTarget = this;
      for (const { listener, once } of [...(this.#listeners.get(event.type) ?? [])]) {
        if (once) this.removeEventListener(event.type, listener);
        if (typeof listener === "function") listener.call(this, event);
        else listener.handleEvent(event);
        if (event.stopped) break;
      }
      return !event.defaultPrevented;
    }
  }

  const make = Symbol("make");
  class AbortSignal extends EventTarget {
    #reason; #aborted = false;
    onabort = null;
    constructor(key) {
      super();
      if (key !== make) throw new TypeError("Illegal constructor");
    }
    get aborted() { return this.#aborted; }
    get reason() { return this.#reason; }
    throwIfAborted() { if (this.#aborted) throw this.#reason; }
    [make](reason) {
      if (this.#aborted) return;
      this.#aborted = true;
      this.#reason = reason === undefined ? new DOMException("This operation was aborted", "AbortError") : reason;
      const event = new Event("abort");
      this.onabort?.(event);
      this.dispatchEvent(event);
    }
    static abort(reason) { const signal = new AbortSignal(make); signal[make](reason); return signal; }
    static timeout(milliseconds) {
      const signal = new AbortSignal(make);
      setTimeout(() => signal[make](new DOMException("The operation timed out", "TimeoutError")), milliseconds);
      return signal;
    }
    static any(signals) {
      const signal = new AbortSignal(make);
      for (const source of signals) {
        if (source.aborted) { signal[make](source.reason); break; }
        source.addEventListener("abort", () => signal[make](source.reason), { once: true });
      }
      return signal;
    }
  }

  class AbortController {
    #signal = new AbortSignal(make);
    get signal() { return this.#signal; }
    abort(reason) { this.#signal[make](reason); }
  }

  wws.define({ Event, CustomEvent, EventTarget, AbortSignal, AbortController });
}
