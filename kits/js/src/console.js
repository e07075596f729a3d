// console: lines of the worker's log.
{
  const { host } = wws;
  const LEVELS = { error: 1, warn: 2, info: 3, log: 3, debug: 4, trace: 4 };
  const MAX_DEPTH = 4, MAX_ITEMS = 100, MAX_CAUSES = 8, MAX_ERRORS = 10;

  const show = (value, depth, seen) => {
    switch (typeof value) {
      case "string": return depth === 0 ? value : JSON.stringify(value);
      case "bigint": return `${value}n`;
      case "function": return `[Function ${value.name || "(anonymous)"}]`;
      case "symbol": case "undefined": case "boolean": case "number": return String(value);
    }
    if (value === null) return "null";
    if (seen.includes(value)) return "[Circular]";
    if (value instanceof Error) return show_error(value, seen);
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
    if (value instanceof RegExp) return String(value);
    if (depth >= MAX_DEPTH) return Array.isArray(value) ? "[Array]" : "[Object]";
    const inner = (item) => show(item, depth + 1, [...seen, value]);
    const list = (items) => {
      const shown = items.slice(0, MAX_ITEMS);
      if (items.length > MAX_ITEMS) shown.push(`... ${items.length - MAX_ITEMS} more`);
      return shown.join(", ");
    };
    if (Array.isArray(value)) return `[${list(value.slice(0, MAX_ITEMS + 1).map(inner))}]`;
    if (ArrayBuffer.isView(value) && !(value instanceof DataView)) return `${value.constructor.name}(${value.length}) [${list([...value.subarray(0, MAX_ITEMS)].map(String))}]`;
    if (value instanceof Map) return `Map(${value.size}) {${list([...value].map(([k, v]) => `${inner(k)} => ${inner(v)}`))}}`;
    if (value instanceof Set) return `Set(${value.size}) {${list([...value].map(inner))}}`;
    if (value instanceof wws.Headers || value instanceof wws.FormData || value instanceof wws.URLSearchParams) {
      return `${value[Symbol.toStringTag]} {${list([...value].map(([k, v]) => `${k}: ${inner(v)}`))}}`;
    }
    if (value instanceof wws.URL || value instanceof wws.Request) return `${value[Symbol.toStringTag]} ${value.href ?? value.url}`;
    if (value instanceof wws.Response) return `Response ${value.status}`;
    const name = value.constructor?.name;
    return `${name && name !== "Object" ? name + " " : ""}{${list(Object.keys(value).map((key) => `${key}: ${inner(value[key])}`))}}`;
  };

  // The interpreter's frames, without those of the kit.
  const frames = (error) => `${error.stack ?? ""}`.split("\n")
    .filter((line) => line.trim() !== "" && !line.includes("(wws:") && !line.includes("(native)") && !line.includes("at wws:")).join("\n");
  // An error as a text: its name and message, where it came from without the kit's own frames, and the errors behind it.
  const show_error = (error, seen) => {
    const stack = frames(error);
    let text = `${error.name}: ${error.message}${stack ? "\n" + stack : ""}`;
    if (seen.length >= MAX_CAUSES) return text;
    const inner = (what) => show(what, 1, [...seen, error]);
    if (Array.isArray(error.errors)) {
      for (const [at, one] of error.errors.slice(0, MAX_ERRORS).entries()) text += `\nerror ${at + 1} of ${error.errors.length}: ${inner(one)}`;
    }
    if (error.cause !== undefined) text += `\ncaused by ${inner(error.cause)}`;
    return text;
  };
  // Whatever was thrown, as a text; reading it may throw, too.
  const describe = (error) => {
    try { return show(error, 1, []); } catch { return "an error that cannot be shown: reading it throws"; }
  };
  wws.describe = describe;
  // The frames of what was thrown; none if it is not an error. Reading them may throw, too.
  wws.stackOf = (error) => {
    try { return error instanceof Error ? frames(error) : ""; } catch { return ""; }
  };
  wws.show = (value) => show(value, 1, []);

  const format = (args) => {
    let rest = args;
    let text = "";
    if (typeof args[0] === "string" && args.length > 1 && args[0].includes("%")) {
      rest = args.slice(1);
      text = args[0].replace(/%[sdifoOjc%]/g, (mark) => {
        if (mark === "%%") return "%";
        if (rest.length === 0) return mark;
        const value = rest.shift();
        if (mark === "%c") return "";
        if (mark === "%d" || mark === "%i") return String(mark === "%i" ? Math.trunc(Number(value)) : Number(value));
        if (mark === "%f") return String(Number(value));
        return mark === "%s" ? show(value, 0, []) : show(value, 1, []);
      });
      rest = rest.length ? ["", ...rest] : [];
    }
    return text + rest.map((value) => show(value, 0, [])).join(" ");
  };

  const counts = new Map(), times = new Map();
  let indent = "";
  const write = (level, args) => host.log(level, indent + format(args));
  const console = Object.create({}, { [Symbol.toStringTag]: { value: "console", configurable: true } });
  for (const [name, level] of Object.entries(LEVELS)) console[name] = (...args) => write(level, args);
  console.dir = (value) => write(3, [value]);
  console.table = console.dir;
  console.assert = (condition, ...args) => { if (!condition) write(1, ["assertion failed:", ...args]); };
  console.count = (label = "default") => { counts.set(label, (counts.get(label) ?? 0) + 1); write(3, [`${label}: ${counts.get(label)}`]); };
  console.countReset = (label = "default") => { counts.delete(label); };
  console.group = (...args) => { if (args.length) write(3, args); indent += "  "; };
  console.groupCollapsed = console.group;
  console.groupEnd = () => { indent = indent.slice(2); };
  console.time = (label = "default") => { times.set(label, host.now()); };
  console.timeLog = (label = "default", ...args) => write(3, [`${label}: ${(host.now() - (times.get(label) ?? 0)).toFixed(3)} ms`, ...args]);
  console.timeEnd = (label = "default") => { console.timeLog(label); times.delete(label); };
  wws.define({ console });
}
