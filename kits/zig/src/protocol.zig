//! The worker protocol: one JSON object in, one out.

const std = @import("std");
const worker = @import("worker.zig");

const Texts = std.json.ArrayHashMap([]const u8);

const Input = struct {
    url: []const u8,
    method: []const u8,
    headers: Texts = .{},
    header_list: ?[]const [2][]const u8 = null,
    body: []const u8 = "",
    body_base64: bool = false,
    kv: Texts = .{},
    params: Texts = .{},
};

pub fn read(w: *worker.Worker, text: []const u8) !void {
    const input = try std.json.parseFromSliceLeaky(Input, w.arena, text, .{
        .ignore_unknown_fields = true,
        .allocate = .alloc_if_needed,
    });
    w.url = input.url;
    w.method = input.method;
    w.body = if (input.body_base64) try decode(w.arena, input.body) else input.body;
    w.params = try pairs(w.arena, input.params);
    w.kv.map = input.kv.map;
    if (input.header_list) |list| {
        const headers = try w.arena.alloc(worker.Pair, list.len);
        for (headers, list) |*header, line| header.* = .{ .name = line[0], .value = line[1] };
        w.headers = headers;
    } else {
        w.headers = try pairs(w.arena, input.headers);
    }
}

fn decode(arena: std.mem.Allocator, text: []const u8) ![]const u8 {
    const decoder = std.base64.standard.Decoder;
    const bytes = try arena.alloc(u8, try decoder.calcSizeForSlice(text));
    try decoder.decode(bytes, text);
    return bytes;
}

fn pairs(arena: std.mem.Allocator, texts: Texts) ![]const worker.Pair {
    const list = try arena.alloc(worker.Pair, texts.map.count());
    for (list, texts.map.keys(), texts.map.values()) |*pair, name, value| pair.* = .{ .name = name, .value = value };
    return list;
}

pub fn write(w: *worker.Worker, to: *std.Io.Writer) !void {
    if (w.status < 200 or w.status > 599) return error.InvalidStatus;
    var json: std.json.Stringify = .{ .writer = to };
    try json.beginObject();
    const body = w.answer.written();
    try json.objectField("data");
    if (std.unicode.utf8ValidateSlice(body)) {
        try json.write(body);
    } else {
        try json.beginWriteRaw();
        try to.writeByte('"');
        try std.base64.standard.Encoder.encodeWriter(to, body);
        try to.writeByte('"');
        json.endWriteRaw();
        try json.objectField("base64");
        try json.write(true);
    }
    try json.objectField("status");
    try json.write(w.status);
    try json.objectField("headers");
    try writeHeaders(w.answer_headers.items, &json);
    if (w.kv.changed) {
        try json.objectField("kv");
        try json.write(Texts{ .map = w.kv.map });
    }
    try json.endObject();
}

/// Each name once, with its value or a list of them.
fn writeHeaders(headers: []const worker.Pair, json: *std.json.Stringify) !void {
    try json.beginObject();
    for (headers, 0..) |header, index| {
        if (count(headers[0..index], header.name) > 0) continue;
        try json.objectField(header.name);
        if (count(headers, header.name) == 1) {
            try json.write(header.value);
            continue;
        }
        try json.beginArray();
        for (headers[index..]) |other| {
            if (std.ascii.eqlIgnoreCase(header.name, other.name)) try json.write(other.value);
        }
        try json.endArray();
    }
    try json.endObject();
}

fn count(headers: []const worker.Pair, name: []const u8) usize {
    var found: usize = 0;
    for (headers) |header| found += @intFromBool(std.ascii.eqlIgnoreCase(header.name, name));
    return found;
}
