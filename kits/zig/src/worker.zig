//! Answers HTTP requests in WebAssembly: a worker of wws in Zig.
//!
//!     const std = @import("std");
//!     const worker = @import("worker");
//!
//!     pub fn main(init: std.process.Init) !void {
//!         return worker.serve(init, hello);
//!     }
//!
//!     fn hello(w: *worker.Worker) !void {
//!         try w.print("Hello from {s}", .{w.url});
//!     }
//!
//! A program answers one request and ends: memory of `Worker.arena` is never freed, and what is kept in variables is gone with it.

const std = @import("std");
const protocol = @import("protocol.zig");
const http = @import("http.zig");

const Allocator = std.mem.Allocator;

pub const Outgoing = http.Outgoing;
pub const Reply = http.Reply;
pub const FetchError = http.Error;
pub const Method = http.Method;
pub const errorName = http.errorName;

/// A header line or a parameter.
pub const Pair = struct {
    name: []const u8,
    value: []const u8,
};

/// The worker's key/value namespace as it was when the request came. Changes are stored if the handler returns no error.
pub const Store = struct {
    arena: Allocator,
    map: std.array_hash_map.String([]const u8) = .empty,
    changed: bool = false,

    pub fn get(store: *const Store, key: []const u8) ?[]const u8 {
        return store.map.get(key);
    }

    /// Keys and values are UTF-8.
    pub fn put(store: *Store, key: []const u8, value: []const u8) error{ OutOfMemory, InvalidUtf8 }!void {
        if (!std.unicode.utf8ValidateSlice(key) or !std.unicode.utf8ValidateSlice(value)) return error.InvalidUtf8;
        try store.map.put(store.arena, try store.arena.dupe(u8, key), try store.arena.dupe(u8, value));
        store.changed = true;
    }

    pub fn remove(store: *Store, key: []const u8) void {
        if (store.map.swapRemove(key)) store.changed = true;
    }
};

/// A request, and the answer that is being made.
pub const Worker = struct {
    /// Lasts as long as the request.
    arena: Allocator,
    io: std.Io,
    environ: *const std.process.Environ.Map,
    preopens: std.process.Preopens = .empty,

    method: []const u8 = "",
    /// The full URL, query included.
    url: []const u8 = "",
    body: []const u8 = "",
    /// Each header line in order; names in lower case.
    headers: []const Pair = &.{},
    params: []const Pair = &.{},
    kv: Store,

    status: u16 = 200,
    answer_headers: std.ArrayList(Pair) = .empty,
    answer: std.Io.Writer.Allocating,
    /// What went wrong in the last `fetch`, for people.
    fetch_message: []const u8 = "",

    /// The first value of a header; upper and lower case are the same.
    pub fn header(w: *const Worker, name: []const u8) ?[]const u8 {
        for (w.headers) |line| {
            if (std.ascii.eqlIgnoreCase(line.name, name)) return line.value;
        }
        return null;
    }

    /// A parameter of the route: [id].wasm has "id".
    pub fn param(w: *const Worker, name: []const u8) ?[]const u8 {
        for (w.params) |pair| {
            if (std.mem.eql(u8, pair.name, name)) return pair.value;
        }
        return null;
    }

    /// The first value of a name in the URL's query, decoded.
    pub fn query(w: *const Worker, name: []const u8) Allocator.Error!?[]const u8 {
        const start = std.mem.findScalar(u8, w.url, '?') orelse return null;
        const end = std.mem.findScalarPos(u8, w.url, start, '#') orelse w.url.len;
        var pairs = std.mem.splitScalar(u8, w.url[start + 1 .. end], '&');
        while (pairs.next()) |pair| {
            const equals = std.mem.findScalar(u8, pair, '=') orelse pair.len;
            if (!std.mem.eql(u8, try formDecode(w.arena, pair[0..equals]), name)) continue;
            return try formDecode(w.arena, pair[@min(equals + 1, pair.len)..]);
        }
        return null;
    }

    /// A variable of the worker's TOML.
    pub fn variable(w: *const Worker, name: []const u8) ?[]const u8 {
        return w.environ.get(name);
    }

    /// A directory of the worker's TOML, by its `to`.
    pub fn directory(w: *const Worker, to: []const u8) error{DirectoryNotGiven}!std.Io.Dir {
        const resource = w.preopens.get(to) orelse return error.DirectoryNotGiven;
        return switch (resource) {
            .dir => |dir| dir,
            .file => error.DirectoryNotGiven,
        };
    }

    /// The former name of `directory`.
    pub const folder = directory;

    /// Adds a header line to the answer.
    pub fn addHeader(w: *Worker, name: []const u8, value: []const u8) error{ OutOfMemory, InvalidHeader }!void {
        if (!isHeader(name, value)) return error.InvalidHeader;
        try w.answer_headers.append(w.arena, .{ .name = try w.arena.dupe(u8, name), .value = try w.arena.dupe(u8, value) });
    }

    /// Replaces all lines of a header by one.
    pub fn setHeader(w: *Worker, name: []const u8, value: []const u8) error{ OutOfMemory, InvalidHeader }!void {
        var at: usize = 0;
        while (at < w.answer_headers.items.len) {
            if (std.ascii.eqlIgnoreCase(w.answer_headers.items[at].name, name)) {
                _ = w.answer_headers.orderedRemove(at);
            } else at += 1;
        }
        return w.addHeader(name, value);
    }

    /// Appends to the answer's body; see also `answer.writer`.
    pub fn write(w: *Worker, bytes: []const u8) std.Io.Writer.Error!void {
        return w.answer.writer.writeAll(bytes);
    }

    pub fn print(w: *Worker, comptime format: []const u8, args: anytype) std.Io.Writer.Error!void {
        return w.answer.writer.print(format, args);
    }

    /// Sends a request and waits for the reply; redirects are followed. After an error, `fetch_message` says more.
    pub fn fetch(w: *Worker, request: Outgoing) (http.Error || Allocator.Error)!Reply {
        w.fetch_message = "";
        return http.send(w.arena, request, &w.fetch_message);
    }
};

pub const Handler = fn (w: *Worker) anyerror!void;

/// Answers the request: what main does. A handler that returns an error gives the caller status 500, and the log the error's name.
pub fn serve(init: std.process.Init, comptime handler: Handler) !void {
    const arena = init.arena.allocator();
    var read_buffer: [4096]u8 = undefined;
    var stdin = std.Io.File.stdin().readerStreaming(init.io, &read_buffer);
    const input = try stdin.interface.allocRemaining(arena, .unlimited);
    var w: Worker = .{
        .arena = arena,
        .io = init.io,
        .environ = init.environ_map,
        .preopens = init.preopens,
        .kv = .{ .arena = arena },
        .answer = .init(arena),
    };
    try protocol.read(&w, input);
    try handler(&w);
    var write_buffer: [4096]u8 = undefined;
    var stdout = std.Io.File.stdout().writerStreaming(init.io, &write_buffer);
    try protocol.write(&w, &stdout.interface);
    try stdout.interface.flush();
}

/// application/x-www-form-urlencoded; what is no escape stays as it is.
fn formDecode(arena: Allocator, text: []const u8) Allocator.Error![]const u8 {
    const copy = try arena.dupe(u8, text);
    std.mem.replaceScalar(u8, copy, '+', ' ');
    return std.Uri.percentDecodeInPlace(copy);
}

fn isHeader(name: []const u8, value: []const u8) bool {
    if (name.len == 0 or !std.unicode.utf8ValidateSlice(value)) return false;
    for (name) |c| switch (c) {
        'a'...'z', 'A'...'Z', '0'...'9', '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~' => {},
        else => return false,
    };
    for (value) |c| switch (c) {
        '\t' => {},
        0...8, 10...31, 127 => return false,
        else => {},
    };
    return true;
}

test {
    _ = @import("tests.zig");
}
