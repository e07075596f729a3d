//! Outgoing HTTP: the import `http.send-http-request`.

const std = @import("std");
const builtin = @import("builtin");
const worker = @import("worker.zig");

const Allocator = std.mem.Allocator;

/// In the order of the interface.
pub const Method = enum(i32) { GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD };

pub const Outgoing = struct {
    url: []const u8,
    method: Method = .GET,
    headers: []const worker.Pair = &.{},
    body: []const u8 = "",
};

pub const Reply = struct {
    status: u16,
    headers: []const worker.Pair,
    body: []const u8,

    /// The first value of a header; upper and lower case are the same.
    pub fn header(reply: *const Reply, name: []const u8) ?[]const u8 {
        for (reply.headers) |line| {
            if (std.ascii.eqlIgnoreCase(line.name, name)) return line.value;
        }
        return null;
    }
};

pub const Error = error{
    InvalidRequest,
    InvalidRequestBody,
    InvalidResponseBody,
    /// The worker's TOML does not allow the host, the method, plain http, or the address.
    NotAllowed,
    InternalError,
    Timeout,
    RedirectLoop,
};

const errors = [_]struct { Error, []const u8 }{
    .{ error.InvalidRequest, "invalid-request" },
    .{ error.InvalidRequestBody, "invalid-request-body" },
    .{ error.InvalidResponseBody, "invalid-response-body" },
    .{ error.NotAllowed, "not-allowed" },
    .{ error.InternalError, "internal-error" },
    .{ error.Timeout, "timeout" },
    .{ error.RedirectLoop, "redirect-loop" },
};

/// The interface's name of an error, as "not-allowed"; the error's own where it is none of these.
pub fn errorName(err: anyerror) []const u8 {
    for (errors) |known| {
        if (err == known[0]) return known[1];
    }
    return @errorName(err);
}

const import = struct {
    extern "http" fn @"send-http-request"(
        has_body: i32,
        body: [*]const u8,
        body_len: usize,
        headers: [*]const [4]u32,
        header_count: usize,
        method: i32,
        params: usize,
        param_count: usize,
        uri: [*]const u8,
        uri_len: usize,
        result: *[7]u32,
    ) void;
};

/// Where the server's answer is put while a request is sent.
var answer_arena: ?Allocator = null;

fn realloc(old: ?[*]u8, old_len: usize, alignment: usize, len: usize) callconv(.c) [*]u8 {
    const arena = answer_arena orelse @panic("worker: memory was asked for without a request");
    if (len == 0) return @ptrFromInt(alignment);
    const memory = arena.rawAlloc(len, .fromByteUnits(alignment), @returnAddress()) orelse
        @panic("worker: out of memory for the answer of an outgoing request");
    if (old) |bytes| @memcpy(memory[0..@min(old_len, len)], bytes[0..@min(old_len, len)]);
    return memory;
}

comptime {
    if (builtin.cpu.arch == .wasm32) @export(&realloc, .{ .name = "canonical_abi_realloc" });
}

fn bytesAt(at: u32, len: u32) []const u8 {
    if (len == 0) return "";
    return @as([*]const u8, @ptrFromInt(at))[0..len];
}

fn listEntry(pair: worker.Pair) [4]u32 {
    return .{ @intCast(@intFromPtr(pair.name.ptr)), @intCast(pair.name.len), @intCast(@intFromPtr(pair.value.ptr)), @intCast(pair.value.len) };
}

pub fn send(arena: Allocator, request: Outgoing, message: *[]const u8) (Error || Allocator.Error)!Reply {
    if (builtin.cpu.arch != .wasm32) {
        message.* = "requests can be sent by WebAssembly workers only";
        return error.InternalError;
    }
    const headers = try arena.alloc([4]u32, request.headers.len);
    for (headers, request.headers) |*entry, pair| entry.* = listEntry(pair);
    answer_arena = arena;
    defer answer_arena = null;
    // Byte 0 says whether it failed; the rest is laid out in words.
    var result: [7]u32 = @splat(0);
    import.@"send-http-request"(@intFromBool(request.body.len > 0), request.body.ptr, request.body.len, headers.ptr, headers.len, @backingInt(request.method), 0, 0, request.url.ptr, request.url.len, &result);
    if (result[0] & 0xff != 0) {
        message.* = bytesAt(result[2], result[3]);
        const kind = result[1] & 0xff;
        return if (kind < errors.len) errors[kind][0] else error.InternalError;
    }
    const lines = try arena.alloc(worker.Pair, result[5]);
    const list: [*]const [4]u32 = if (lines.len == 0) &.{} else @ptrFromInt(result[4]);
    for (lines, list[0..lines.len]) |*line, entry| line.* = .{
        .name = bytesAt(entry[0], entry[1]),
        .value = bytesAt(entry[2], entry[3]),
    };
    return .{
        .status = @truncate(result[6]),
        .headers = lines,
        .body = if (result[1] & 0xff == 0) "" else bytesAt(result[2], result[3]),
    };
}
