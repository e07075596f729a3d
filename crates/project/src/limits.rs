//! Limits of a worker: `[limits]` in `.wws.toml` for all workers, in a worker's TOML for that one.

use std::time::Duration;

use crate::setting::settings;

const DAY: u64 = 24 * 3600 * 1000;
const GIB: u64 = 1 << 30;

settings! {
    /// Limits of one call of a worker.
    pub struct Limits in "limits" {
        /// Linear memory.
        memory: u64 = 128 << 20, 64 << 10 => 4 * GIB;
        /// Elements of a table.
        table_elements: u32 = 100_000, 1 => 100_000_000;
        /// CPU time of a call; then it gets a 504.
        cpu_time: Duration = Duration::from_secs(5), 1 => DAY;
        /// Wall-clock time of a call, of one that streams until the head of its response and
        /// without the time in which it waits for its client; then it gets a 504.
        wall_time: Duration = Duration::from_secs(30), 1 => DAY;
        /// Time in which the next piece of a body has to come: of the response from the worker,
        /// which is aborted then, and of the request from the client, while the worker waits for
        /// it. For workers that stream.
        stream_idle: Duration = Duration::from_secs(60), 1 => DAY;
        /// Time of a streamed response from its head to its end; then it is aborted. Time of a
        /// WebSocket; then it is closed with the code 1001. 0 sets no bound.
        stream_time: Duration = Duration::ZERO, 0 => DAY;
        /// Size of a streamed body, of the request (a larger one gets a 413) and of the response
        /// (which is aborted then); 0 sets no bound.
        stream_bytes: u64 = 0, 0 => u64::MAX;
        /// Size of a message of a WebSocket, in both directions; a client that sends a larger one
        /// is closed with the code 1009.
        socket_message: u64 = 1 << 20, 1 << 10 => GIB;
        /// Size of a frame that a client of a WebSocket sends; a larger one closes it with the code
        /// 1009.
        socket_frame: u64 = 1 << 20, 125 => GIB;
        /// Messages of a WebSocket that wait, in each direction: the client is not read, or the
        /// worker waits, while there are more.
        socket_queue: u64 = 1 << 20, 1 << 10 => GIB;
        /// Time in which something has to come from the client of a WebSocket, if only the answer
        /// to the ping that the server sends after half of it; then it is closed with the code
        /// 1001.
        socket_idle: Duration = Duration::from_secs(60), 100 => DAY;
        /// Bytes that a worker may print: the response, before it is decoded.
        output: u64 = 16 << 20, 1 << 10 => 4 * GIB;
        /// Bytes that the server holds for a call in addition to its memory: output, messages,
        /// contents of files.
        buffers: u64 = 64 << 20, 64 << 10 => 4 * GIB;
        /// Bytes that a call may write to the log.
        log: u64 = 1 << 20, 0 => GIB;
        /// Concurrent calls of the worker; 0 sets no bound of its own.
        concurrency: u32 = 0, 0 => 100_000;
        /// Files that a call may have open at once.
        open_files: u32 = 64, 0 => 100_000;
        /// Outgoing requests of a call.
        http_calls: u32 = 50, 0 => 100_000;
        /// Size of the response to an outgoing request.
        http_response: u64 = 10 << 20, 0 => 4 * GIB;
        /// Time of an outgoing request, including redirects.
        http_timeout: Duration = Duration::from_secs(10), 1 => DAY;
        /// Time between two pieces of the response to an outgoing request that is read as it comes;
        /// then reading fails. 0 takes `http_timeout`.
        http_idle: Duration = Duration::ZERO, 0 => DAY;
    }
}
