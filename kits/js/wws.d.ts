/**
 * What workers in JavaScript and TypeScript find beyond the web's own interfaces. Those are the ones of TypeScript's library
 * `webworker`:
 *
 *     { "compilerOptions": { "lib": ["es2024", "webworker"], "types": ["./wws.d.ts"], "module": "esnext", "noEmit": true } }
 *
 * Each variable of `[vars]` is a global constant, too: `declare const GREETING: string;` says so of one.
 */

/**
 * The worker's key/value store: `[data.kv]` in its TOML. What a request sets is stored when it has been answered. The web has an
 * interface of the same name, so say which one you mean:
 *
 *     const store = Cache as unknown as KeyValueStore;
 */
interface KeyValueStore {
  /** The value of a key, or null. */
  get(key: string): string | null;
  set(key: string, value: unknown): void;
  delete(key: string): void;
  /** Adds at once, also among requests that run at the same time. Gives the sum. */
  increment(key: string, by?: number): Promise<number>;
}

interface Request {
  /** Parameters of the route: of `[id].js` the key `id`. */
  params: Record<string, string>;
}

interface Headers {
  /** A value for each line of that name. */
  getAll(name: string): string[];
}

/** What `fetch` rejects with when a request was not sent or not answered. */
interface FetchFailure extends TypeError {
  code:
    | "not-allowed"
    | "timeout"
    | "redirect-loop"
    | "invalid-request"
    | "invalid-request-body"
    | "invalid-response-body"
    | "internal-error";
}

/** `export default` of a worker: this, or its `fetch` alone. */
interface WorkerModule {
  fetch(
    request: Request,
    env: Record<string, string>,
    ctx: { waitUntil(promise: Promise<unknown>): void; passThroughOnException(): void },
  ): Response | Promise<Response>;
}

/** Files of `[folders]`. A failure has Node's `code`: `ENOENT`, `EACCES`, `EROFS`, ... */
declare module "node:fs/promises" {
  type Options = string | { encoding?: string | null } | null;
  export function readFile(path: string | URL): Promise<Uint8Array>;
  export function readFile(path: string | URL, options: string | { encoding: string }): Promise<string>;
  export function readFile(path: string | URL, options?: Options): Promise<string | Uint8Array>;
  export function writeFile(path: string | URL, data: string | ArrayBuffer | ArrayBufferView): Promise<void>;
  export function appendFile(path: string | URL, data: string | ArrayBuffer | ArrayBufferView): Promise<void>;
  export function readdir(path: string | URL): Promise<string[]>;
  export function stat(path: string | URL): Promise<{ size: number; mtimeMs: number; mtime: Date; isFile(): boolean; isDirectory(): boolean }>;
  export function mkdir(path: string | URL, options?: { recursive?: boolean }): Promise<void>;
  export function rmdir(path: string | URL): Promise<void>;
  export function rm(path: string | URL, options?: { recursive?: boolean; force?: boolean }): Promise<void>;
  export function unlink(path: string | URL): Promise<void>;
  export function rename(from: string | URL, to: string | URL): Promise<void>;
  export function access(path: string | URL): Promise<void>;
}
