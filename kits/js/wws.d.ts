/**
 * What workers in JavaScript and TypeScript find beyond the web's own interfaces. Those are the ones of TypeScript's library
 * `webworker`:
 *
 *     { "compilerOptions": { "lib": ["es2024", "webworker"], "types": ["./wws.d.ts"], "module": "esnext", "noEmit": true } }
 *
 * Each variable of `[vars]` is a global constant, too, unless there is a global of its name:
 * `declare const GREETING: string;` says so of one.
 */

/**
 * The worker's key/value store: `[data.kv]` in its TOML. What a request sets is stored when it has been answered. The web has an
 * interface of the same name, so say which one you mean:
 *
 *     const store = Cache as unknown as KeyValueStore;
 */
interface KeyValueStore {
  /** The value of a key, or undefined. */
  get(key: string): string | undefined;
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
  /** Names and values, for `JSON.stringify`. */
  toJSON(): Record<string, string>;
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

/** The two ends of a WebSocket: one for the client, in a response; one for the worker, which accepts it. */
declare class WebSocketPair {
  0: WebSocket;
  1: WebSocket;
}

interface WebSocket {
  /** Begins to send and receive, on an end of a pair. */
  accept(): void;
}

interface ResponseInit {
  /** The end of a new WebSocketPair that the client gets, with the status 101. */
  webSocket?: WebSocket | null;
}

interface Response {
  readonly webSocket: WebSocket | null;
}

/** `export default` of a worker: this, or its `fetch` alone. */
interface WorkerModule {
  fetch(
    request: Request,
    env: Record<string, string>,
    ctx: { waitUntil(promise: Promise<unknown>): void; passThroughOnException(): void },
  ): Response | Promise<Response>;
}

/** Files of `[[folders]]`. A failure has Node's `code`: `ENOENT`, `EACCES`, `EROFS`, ... */
declare module "node:fs/promises" {
  type Path = string | URL | Uint8Array;
  type Data = string | ArrayBuffer | ArrayBufferView;
  type Encoding = "utf8" | "utf-8" | "utf16le" | "ucs2" | "latin1" | "binary" | "ascii" | "base64" | "base64url" | "hex";
  type ReadOptions = { encoding?: Encoding | null; flag?: "r"; signal?: AbortSignal };
  /** `mode` and `flush` have no effect. */
  type WriteOptions = { encoding?: Encoding | null; flag?: "w" | "wx" | "a" | "ax"; mode?: number; flush?: boolean; signal?: AbortSignal };
  interface FileKind {
    isFile(): boolean;
    isDirectory(): boolean;
    isSymbolicLink(): boolean;
  }
  interface Stats extends FileKind {
    size: number;
    mtimeMs: number;
    mtime: Date;
  }
  interface Dirent extends FileKind {
    name: string;
    parentPath: string;
  }
  export function readFile(path: Path, options?: (ReadOptions & { encoding?: null }) | null): Promise<Uint8Array>;
  export function readFile(path: Path, options: Encoding | (ReadOptions & { encoding: Encoding })): Promise<string>;
  export function writeFile(path: Path, data: Data, options?: Encoding | WriteOptions | null): Promise<void>;
  export function appendFile(path: Path, data: Data, options?: Encoding | WriteOptions | null): Promise<void>;
  export function readdir(path: Path, options?: { withFileTypes?: false; recursive?: boolean } | null): Promise<string[]>;
  export function readdir(path: Path, options: { withFileTypes: true; recursive?: boolean }): Promise<Dirent[]>;
  export function stat(path: Path): Promise<Stats>;
  export function lstat(path: Path): Promise<Stats>;
  /** The first directory that was made, where `recursive` made one. */
  export function mkdir(path: Path, options?: { recursive?: boolean; mode?: number } | null): Promise<string | undefined>;
  export function rmdir(path: Path): Promise<void>;
  export function rm(path: Path, options?: { recursive?: boolean; force?: boolean } | null): Promise<void>;
  export function unlink(path: Path): Promise<void>;
  export function rename(from: Path, to: Path): Promise<void>;
  export function access(path: Path, mode?: number): Promise<void>;
}
