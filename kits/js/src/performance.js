// performance: time since the request came, marks and measures. https://w3c.github.io/user-timing
{
  const { host, needs, options: options_of } = wws;

  class PerformanceEntry {
    #name; #type; #start; #duration;
    constructor(key, name, type, start, duration) {
      if (key !== make) throw new TypeError("Illegal constructor");
      this.#name = name; this.#type = type; this.#start = start; this.#duration = duration;
    }
    get name() { return this.#name; }
    get entryType() { return this.#type; }
    get startTime() { return this.#start; }
    get duration() { return this.#duration; }
    toJSON() { return { name: this.name, entryType: this.entryType, startTime: this.startTime, duration: this.duration, detail: this.detail }; }
    get [Symbol.toStringTag]() { return "PerformanceEntry"; }
  }
  const make = Symbol("make");
  const time_of = (time) => {
    if (!(Number(time) >= 0)) throw new TypeError("startTime must be a number that is not negative");
    return Number(time);
  };
  const detail_of = (options) => (options.detail === undefined || options.detail === null ? null : structuredClone(options.detail));

  class PerformanceMark extends PerformanceEntry {
    #detail;
    constructor(name, options) {
      needs(arguments.length, 1, "PerformanceMark");
      options = options_of(options, "the options of a mark");
      super(make, `${name}`, "mark", options.startTime === undefined ? host.now() : time_of(options.startTime), 0);
      this.#detail = detail_of(options);
    }
    get detail() { return this.#detail; }
    get [Symbol.toStringTag]() { return "PerformanceMark"; }
  }

  class PerformanceMeasure extends PerformanceEntry {
    #detail;
    constructor(key, name, start, end, detail) {
      super(key, name, "measure", start, end - start);
      this.#detail = detail;
    }
    get detail() { return this.#detail; }
    get [Symbol.toStringTag]() { return "PerformanceMeasure"; }
  }

  // Entries of one request, of which it may keep this many.
  const MAX_ENTRIES = 10_000;
  let entries = [];
  const keep = (entry) => {
    if (entries.length >= MAX_ENTRIES) throw new RangeError(`more than ${MAX_ENTRIES} marks and measures: clearMarks() and clearMeasures() make room`);
    entries.push(entry);
    return entry;
  };
  const clear = (type, name) => {
    entries = entries.filter((entry) => entry.entryType !== type || (name !== undefined && entry.name !== `${name}`));
  };
  // A time, or the last mark of a name.
  const time_at = (mark) => {
    if (typeof mark === "number") return time_of(mark);
    const found = entries.findLast((entry) => entry.entryType === "mark" && entry.name === `${mark}`);
    if (!found) throw new DOMException(`there is no mark ${JSON.stringify(`${mark}`)}`, "SyntaxError");
    return found.startTime;
  };
  const sorted = (some) => some.sort((a, b) => a.startTime - b.startTime);

  class Performance extends wws.EventTarget {
    constructor(key) {
      super();
      if (key !== make) throw new TypeError("Illegal constructor");
    }
    now() { return host.now(); }
    get timeOrigin() { return Date.now() - host.now(); }
    mark(name, options) {
      needs(arguments.length, 1, "performance.mark");
      return keep(new PerformanceMark(name, options));
    }
    measure(name, start, end) {
      needs(arguments.length, 1, "performance.measure");
      let detail = null;
      if (typeof start === "object" && start !== null) {
        if (end !== undefined) throw new TypeError("a measure with options has no further end");
        const options = start;
        if (options.start === undefined && options.end === undefined && (options.duration !== undefined || options.detail !== undefined)) {
          throw new TypeError("a measure needs a start or an end");
        }
        if (options.start !== undefined && options.end !== undefined && options.duration !== undefined) {
          throw new TypeError("a measure has a start, an end and a duration: one is too many");
        }
        detail = detail_of(options);
        const duration = options.duration === undefined ? undefined : Number(options.duration);
        ({ start, end } = options);
        if (end === undefined && duration !== undefined) end = time_at(start) + duration;
        else if (start === undefined && duration !== undefined) start = time_at(end) - duration;
      }
      const to = end === undefined ? host.now() : time_at(end);
      const from = start === undefined ? 0 : time_at(start);
      return keep(new PerformanceMeasure(make, `${name}`, from, to, detail));
    }
    clearMarks(name) { clear("mark", name); }
    clearMeasures(name) { clear("measure", name); }
    getEntries() { return sorted([...entries]); }
    getEntriesByType(type) {
      needs(arguments.length, 1, "getEntriesByType");
      return sorted(entries.filter((entry) => entry.entryType === `${type}`));
    }
    getEntriesByName(name, type) {
      needs(arguments.length, 1, "getEntriesByName");
      return sorted(entries.filter((entry) => entry.name === `${name}` && (type === undefined || entry.entryType === `${type}`)));
    }
    toJSON() { return { timeOrigin: this.timeOrigin }; }
    get [Symbol.toStringTag]() { return "Performance"; }
  }

  wws.enumerable(PerformanceEntry, PerformanceMark, PerformanceMeasure, Performance);
  wws.define({ Performance, PerformanceEntry, PerformanceMark, PerformanceMeasure, performance: new Performance(make) });
}
