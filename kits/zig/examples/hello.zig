//! The smallest worker.

const std = @import("std");
const worker = @import("worker");

pub fn main(init: std.process.Init) !void {
    return worker.serve(init, hello);
}

fn hello(w: *worker.Worker) !void {
    try w.setHeader("content-type", "text/plain; charset=utf-8");
    try w.print("Hello from Zig\n", .{});
}
