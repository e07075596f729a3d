const std = @import("std");
const worker = @import("worker.zig");
const protocol = @import("protocol.zig");

const testing = std.testing;

const full =
    \\{"url":"http://a.test/x?a+b=&flag&q=1%202%26é%zz%#x=1","method":"POST","headers":{"x-a":"1"},"more":[-1.5e+3,{"a":[true]}],
    \\"body":"h\u00e9\n\ud83e\udd80","kv":{"a":"1","zero":"a\u0000b"},"params":{"id":"7"}}
;

/// Answers a request as `serve` does, and returns what is printed.
fn run(arena: std.mem.Allocator, input: []const u8, handler: *const worker.Handler) ![]const u8 {
    var environ: std.process.Environ.Map = .init(arena);
    try environ.put("NAME", "value");
    var w: worker.Worker = .{
        .arena = arena,
        .io = testing.io,
        .environ = &environ,
        .kv = .{ .arena = arena },
        .answer = .init(arena),
    };
    try protocol.read(&w, input);
    try handler(&w);
    var out: std.Io.Writer.Allocating = .init(arena);
    try protocol.write(&w, &out.writer);
    return out.written();
}

fn expectAnswer(input: []const u8, handler: *const worker.Handler, expected: []const u8) !void {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    try testing.expectEqualStrings(expected, try run(arena.allocator(), input, handler));
}

fn expectFailure(expected: anyerror, handler: *const worker.Handler) !void {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    try testing.expectError(expected, run(arena.allocator(), full, handler));
}

test "a handler sees the request" {
    try expectAnswer(full, struct {
        fn handle(w: *worker.Worker) !void {
            try testing.expectEqualStrings("POST", w.method);
            try testing.expectEqualStrings("hé\n🦀", w.body);
            try testing.expectEqualStrings("1", w.header("X-A").?);
            try testing.expectEqual(null, w.header("x-b"));
            try testing.expectEqualStrings("7", w.param("id").?);
            try testing.expectEqual(null, w.param("ID"));
            try testing.expectEqualStrings("1 2&é%zz%", (try w.query("q")).?);
            try testing.expectEqualStrings("", (try w.query("a b")).?);
            try testing.expectEqualStrings("", (try w.query("flag")).?);
            try testing.expectEqual(null, try w.query("x"));
            try testing.expectEqualStrings("a\x00b", w.kv.get("zero").?);
            try testing.expectEqualStrings("value", w.variable("NAME").?);
            try testing.expectError(error.DirectoryNotGiven, w.directory("/data"));
        }
    }.handle,
        \\{"data":"","status":200,"headers":{}}
    );
}

test "header lines and bytes arrive" {
    try expectAnswer(
        \\{"url":"","method":"","headers":{"a":"1, 2"},"header_list":[["a","1"],["a","2"]],"body":"/wABAg==","body_base64":true}
    , struct {
        fn handle(w: *worker.Worker) !void {
            try testing.expectEqual(2, w.headers.len);
            try testing.expectEqualStrings("2", w.headers[1].value);
            try testing.expectEqualStrings("\xff\x00\x01\x02", w.body);
        }
    }.handle,
        \\{"data":"","status":200,"headers":{}}
    );
}

test "the answer is what the handler wrote" {
    try expectAnswer(full, struct {
        fn handle(w: *worker.Worker) !void {
            w.status = 201;
            try w.addHeader("x-b", "0");
            try w.setHeader("X-B", "1");
            try w.addHeader("x-b", "2");
            try w.setHeader("x-c", "\"");
            try w.print("a\"\n{s}", .{"é"});
        }
    }.handle,
        \\{"data":"a\"\né","status":201,"headers":{"X-B":["1","2"],"x-c":"\""}}
    );
}

test "bytes are sent as base64" {
    try expectAnswer(full, struct {
        fn handle(w: *worker.Worker) !void {
            try w.write("\xff\xfe");
        }
    }.handle,
        \\{"data":"//4=","base64":true,"status":200,"headers":{}}
    );
}

test "a changed store is sent" {
    try expectAnswer(full, struct {
        fn handle(w: *worker.Worker) !void {
            try w.kv.put("a", "3");
            w.kv.remove("zero");
            w.kv.remove("unknown");
        }
    }.handle,
        \\{"data":"","status":200,"headers":{},"kv":{"a":"3"}}
    );
}

test "what cannot be sent is an error" {
    try expectFailure(error.InvalidHeader, struct {
        fn handle(w: *worker.Worker) !void {
            try w.addHeader("a", "b\r\nc: d");
        }
    }.handle);
    try expectFailure(error.InvalidHeader, struct {
        fn handle(w: *worker.Worker) !void {
            try w.addHeader("a b", "c");
        }
    }.handle);
    try expectFailure(error.InvalidStatus, struct {
        fn handle(w: *worker.Worker) !void {
            w.status = 99;
        }
    }.handle);
    try expectFailure(error.InvalidUtf8, struct {
        fn handle(w: *worker.Worker) !void {
            try w.kv.put("a", "\xff");
        }
    }.handle);
    try expectFailure(error.InternalError, struct {
        fn handle(w: *worker.Worker) !void {
            _ = try w.fetch(.{ .url = "http://a.test/" });
        }
    }.handle);
    try testing.expectEqualStrings("not-allowed", worker.errorName(error.NotAllowed));
}

fn nothing(_: *worker.Worker) !void {}

test "damaged requests are errors" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    for ([_][]const u8{ "", "[]", "{}", "{\"url\":1,\"method\":\"\"}", "{\"url\":\"\xff\",\"method\":\"\"}", "{\"url\":\"\\ud800\",\"method\":\"\"}", "{\"url\":\"\",\"method\":\"\",\"body\":\"%\",\"body_base64\":true}", full ++ "x" }) |input| {
        if (run(arena.allocator(), input, nothing)) |printed| {
            std.debug.print("was understood: {s}: {s}\n", .{ input, printed });
            return error.TestUnexpectedResult;
        } else |_| {}
    }
    for (0..full.len) |len| {
        try testing.expect(std.meta.isError(run(arena.allocator(), full[0..len], nothing)));
    }
}
