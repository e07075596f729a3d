//! Every feature of a worker; kits/README.md says what each answers.

const std = @import("std");
const worker = @import("worker");

const Worker = worker.Worker;

var calls: u32 = 0;

pub fn main(init: std.process.Init) !void {
    return worker.serve(init, answer);
}

const features: std.StaticStringMap(*const worker.Handler) = .initComptime(.{
    .{ "hello", hello }, .{ "vars", vars },   .{ "count", count },     .{ "forget", forget },   .{ "keep", keep },
    .{ "read", read },   .{ "write", write }, .{ "echo", echo },       .{ "headers", headers }, .{ "status", status },
    .{ "fetch", fetch }, .{ "fail", fail },   .{ "log", log },         .{ "global", global },   .{ "random", random },
    .{ "loop", loop },   .{ "eat", eat },     .{ "recurse", recurse },
});

fn answer(w: *Worker) !void {
    const name = w.param("feature") orelse "";
    try w.setHeader("content-type", "text/plain; charset=utf-8");
    if (features.get(name)) |feature| return feature(w);
    w.status = 404;
    try w.print("no such feature: {s}", .{name});
}

fn hello(w: *Worker) !void {
    try w.print("Hello, {s}!", .{try w.query("name") orelse ""});
}

fn vars(w: *Worker) !void {
    try w.write(w.variable("GREETING") orelse "");
}

fn count(w: *Worker) !void {
    const before = try std.fmt.parseInt(u64, w.kv.get("count") orelse "0", 10);
    try w.kv.put("count", try w.arena.print("{d}", .{before + 1}));
    try w.write(w.kv.get("count").?);
}

fn forget(w: *Worker) !void {
    w.kv.remove("count");
    try w.write("forgotten");
}

fn keep(w: *Worker) !void {
    if (std.mem.eql(u8, w.method, "POST")) try w.kv.put("kept", w.body);
    try w.write(w.kv.get("kept") orelse "");
}

fn read(w: *Worker) !void {
    const data = try w.directory("/data");
    try w.write(try data.readFileAlloc(w.io, "in.txt", w.arena, .unlimited));
}

fn write(w: *Worker) !void {
    const data = try w.directory("/data");
    try data.writeFile(w.io, .{ .sub_path = "out.txt", .data = w.body });
    try w.write(try data.readFileAlloc(w.io, "out.txt", w.arena, .unlimited));
}

fn echo(w: *Worker) !void {
    if (w.header("content-type")) |kind| try w.setHeader("content-type", kind);
    try w.write(w.body);
}

fn headers(w: *Worker) !void {
    var separator: []const u8 = "";
    for (w.headers) |line| {
        if (!std.mem.eql(u8, line.name, "x-in")) continue;
        try w.print("{s}{s}", .{ separator, line.value });
        try w.addHeader("x-out", line.value);
        separator = "|";
    }
    try w.addHeader("set-cookie", "a=1");
    try w.addHeader("set-cookie", "b=2; Path=/");
}

fn status(w: *Worker) !void {
    const code = try w.query("code") orelse "";
    w.status = try std.fmt.parseInt(u16, code, 10);
    try w.setHeader("x-code", code);
    try w.write(code);
}

fn fetch(w: *Worker) !void {
    const reply = w.fetch(.{
        .url = try w.query("url") orelse "",
        .method = std.meta.stringToEnum(worker.Method, w.method) orelse return error.UnknownMethod,
        .headers = &.{ .{ .name = "x-sent", .value = "yes" }, .{ .name = "x-sent", .value = "again" } },
        .body = w.body,
    }) catch |err| {
        w.status = 502;
        return w.print("{s}: {s}", .{ worker.errorName(err), w.fetch_message });
    };
    w.status = reply.status;
    for (reply.headers) |line| {
        if (std.mem.eql(u8, line.name, "x-from")) try w.addHeader("x-from", line.value);
    }
    try w.write(reply.body);
}

fn fail(_: *Worker) !void {
    std.log.err("features: failed on purpose", .{});
    return error.OnPurpose;
}

fn log(w: *Worker) !void {
    std.debug.print("features: a líne in the log\n", .{});
    try w.write("logged");
}

fn global(w: *Worker) !void {
    calls += 1;
    try w.print("{d}", .{calls});
}

fn random(w: *Worker) !void {
    var bytes: [16]u8 = undefined;
    try w.io.randomSecure(&bytes);
    try w.print("{x}", .{&bytes});
}

fn loop(_: *Worker) !void {
    var going = true;
    const still: *volatile bool = &going;
    while (still.*) {}
}

fn eat(w: *Worker) !void {
    while (true) {
        const eaten = try w.arena.alloc(u8, 1 << 20);
        std.mem.doNotOptimizeAway(eaten.ptr);
    }
}

fn deeper(depth: *volatile u32) u32 {
    var here: u32 = depth.* + 1;
    return deeper(&here) +% here;
}

fn recurse(w: *Worker) !void {
    var depth: u32 = 0;
    try w.print("{d}", .{deeper(&depth)});
}
