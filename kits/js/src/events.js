// Event, EventTarget, AbortController. https://dom.spec.whatwg.org
{
  const { options: options_of, needs } = wws;
  const state = Symbol("state");

  class Event {
    #type; #bubbles; #cancelable; #composed; #time = wws.host.now();
    constructor(type, init) {
      needs(arguments.length, 1, "Event");
      init = options_of(init, "the options of an Event");
      this.#type = `${type}`;
      this.#bubbles = Boolean(init.bubbles);
      this.#cancelable = Boolean(init.cancelable);
      this.#composed = Boolean(init.composed);
      // Not seen by a worker: symbols of the kit are not found by names, and the property is not enumerable.
      Object.defineProperty(this, state, { value: { target: null, current: null, phase: 0, prevented: false, passive: false, stopped: false, ended: false, returned: null } });
    }
    get type() { return this.#type; }
    get bubbles() { return this.#bubbles; }
    get cancelable() { return this.#cancelable; }
    get composed() { return this.#composed; }
    get timeStamp() { return this.#time; }
    get isTrusted() { return false; }
    get target() { return this[state].target; }
    get srcElement() { return this[state].target; }
    get currentTarget() { return this[state].current; }
    get eventPhase() { return this[state].phase; }
    get defaultPrevented() { return this[state].prevented; }
    get returnValue() { return !this[state].prevented; }
    set returnValue(value) { if (!value) this.preventDefault(); }
    get cancelBubble() { return this[state].stopped; }
    set cancelBubble(value) { if (value) this[state].stopped = true; }
    composedPath() { return this[state].current ? [this[state].current] : []; }
    preventDefault() { if (this.#cancelable && !this[state].passive) this[state].prevented = true; }
    stopPropagation() { this[state].stopped = true; }
    stopImmediatePropagation() { this[state].stopped = this[state].ended = true; }
    get [Symbol.toStringTag]() { return "Event"; }
    static NONE = 0; static CAPTURING_PHASE = 1; static AT_TARGET = 2; static BUBBLING_PHASE = 3;
  }

  class CustomEvent extends Event {
    #detail;
    constructor(type, init) {
      super(type, init);
      this.#detail = init?.detail ?? null;
    }
    get detail() { return this.#detail; }
    get [Symbol.toStringTag]() { return "CustomEvent"; }
  }

  class EventTarget {
    #listeners = [];
    addEventListener(type, listener, options) {
      needs(arguments.length, 2, "addEventListener");
      const { capture = false, once = false, passive = false, signal } =
        typeof options === "object" && options !== null ? options : { capture: Boolean(options) };
      if (signal !== undefined && !(signal instanceof AbortSignal)) throw new TypeError("the option `signal` is no AbortSignal");
      if (listener === null || listener === undefined || signal?.aborted) return;
      if (typeof listener !== "object" && typeof listener !== "function") throw new TypeError("a listener must be a function or an object");
      type = `${type}`;
      const same = (entry) => entry.type === type && entry.listener === listener && entry.capture === Boolean(capture);
      if (this.#listeners.some(same)) return;
      const entry = { type, listener, capture: Boolean(capture), once: Boolean(once), passive: Boolean(passive), removed: false };
      this.#listeners.push(entry);
      signal?.addEventListener("abort", () => this.#remove(entry), { once: true });
    }
    removeEventListener(type, listener, options) {
      const capture = Boolean(typeof options === "object" && options !== null ? options.capture : options);
      const found = this.#listeners.find((entry) => entry.type === `${type}` && entry.listener === listener && entry.capture === capture);
      if (found) this.#remove(found);
    }
    #remove(entry) {
      entry.removed = true;
      const at = this.#listeners.indexOf(entry);
      if (at >= 0) this.#listeners.splice(at, 1);
    }
    dispatchEvent(event) {
      if (!(event instanceof Event)) throw new TypeError("dispatchEvent needs an Event");
      const own = event[state];
      if (own.phase !== 0) throw new DOMException("the event is being dispatched", "InvalidStateError");
      Object.assign(own, { target: this, current: this, phase: 2 });
      for (const entry of this.#listeners.filter((entry) => entry.type === event.type)) {
        if (entry.removed) continue;
        if (entry.once) this.#remove(entry);
        own.passive = entry.passive;
        try {
          const returned = typeof entry.listener === "function" ? entry.listener.call(this, event) : entry.listener.handleEvent(event);
          own.returned?.push(returned);
        } catch (error) {
          wws.report(`in a listener for ${JSON.stringify(event.type)}`, error);
        }
        own.passive = false;
        if (own.ended) break;
      }
      Object.assign(own, { current: null, phase: 0, stopped: false, ended: false });
      return !own.prevented;
    }
    get [Symbol.toStringTag]() { return "EventTarget"; }
  }

  // `on...`: a listener that keeps the place of the first one that was set.
  const handler = (type, name) => {
    const handlers = new WeakMap();
    Object.defineProperty(type.prototype, `on${name}`, {
      get() { return handlers.get(this)?.callback ?? null; },
      set(callback) {
        callback = typeof callback === "function" ? callback : null;
        const own = handlers.get(this);
        if (own) { own.callback = callback; return; }
        const made = { callback };
        handlers.set(this, made);
        this.addEventListener(name, (event) => made.callback?.call(this, event));
      },
      enumerable: true, configurable: true,
    });
  };

  // Dispatches an event. Returns what its listeners have returned.
  wws.deliver = (target, event) => {
    const returned = event[state].returned = [];
    EventTarget.prototype.dispatchEvent.call(target, event);
    return returned;
  };
  wws.on_event = handler;

  const make = Symbol("make");
  class AbortSignal extends EventTarget {
    #reason; #aborted = false; #dependent = []; #roots = null; #steps = [];
    constructor(key) {
      super();
      if (key !== make) throw new TypeError("Illegal constructor");
    }
    get aborted() { return this.#aborted; }
    get reason() { return this.#reason; }
    throwIfAborted() { if (this.#aborted) throw this.#reason; }
    // Runs `step` when the signal is aborted, before its listeners. Returns what forgets it.
    static follow(signal, step) {
      signal.#steps.push(step);
      return () => {
        const at = signal.#steps.indexOf(step);
        if (at >= 0) signal.#steps.splice(at, 1);
      };
    }
    static abort_now(signal, reason) {
      if (signal.#aborted) return;
      const all = [signal, ...signal.#dependent.filter((other) => !other.#aborted)];
      for (const one of all) {
        one.#aborted = true;
        one.#reason = reason === undefined ? new DOMException("This operation was aborted", "AbortError") : reason;
        reason = one.#reason;
      }
      for (const one of all) {
        for (const step of one.#steps.splice(0)) step();
        one.dispatchEvent(new Event("abort"));
      }
    }
    static abort(reason) { const signal = new AbortSignal(make); abort_now(signal, reason); return signal; }
    static timeout(milliseconds) {
      needs(arguments.length, 1, "AbortSignal.timeout");
      const delay = Number(milliseconds);
      if (!(delay >= 0 && delay <= Number.MAX_SAFE_INTEGER)) throw new TypeError("AbortSignal.timeout needs a number of milliseconds");
      const signal = new AbortSignal(make);
      wws.timers.set(() => abort_now(signal, new DOMException("The operation was aborted due to timeout", "TimeoutError")), delay);
      return signal;
    }
    static any(signals) {
      const sources = [...signals];
      for (const source of sources) if (!(source instanceof AbortSignal)) throw new TypeError("AbortSignal.any needs a list of AbortSignals");
      const signal = new AbortSignal(make);
      const aborted = sources.find((source) => source.#aborted);
      if (aborted) { signal.#aborted = true; signal.#reason = aborted.#reason; return signal; }
      // A signal that follows dependent ones follows what these follow.
      const roots = new Set(sources.flatMap((source) => source.#roots ?? [source]));
      for (const root of roots) root.#dependent.push(signal);
      signal.#roots = [...roots];
      return signal;
    }
    get [Symbol.toStringTag]() { return "AbortSignal"; }
  }
  const { follow, abort_now } = AbortSignal;
  delete AbortSignal.follow;
  delete AbortSignal.abort_now;
  handler(AbortSignal, "abort");

  class AbortController {
    #signal = new AbortSignal(make);
    get signal() { return this.#signal; }
    abort(reason) { abort_now(this.#signal, reason); }
    get [Symbol.toStringTag]() { return "AbortController"; }
  }

  wws.signals = { follow, never: () => new AbortSignal(make) };
  wws.enumerable(Event, CustomEvent, EventTarget, AbortSignal, AbortController);
  wws.define({ Event, CustomEvent, EventTarget, AbortSignal, AbortController });
}
