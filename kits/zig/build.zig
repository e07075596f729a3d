const std = @import("std");

/// The module `worker`, the examples as `zig-out/bin/*.wasm`, and `zig build test`.
pub fn build(b: *std.Build) void {
    const module = b.addModule("worker", .{ .root_source_file = b.path("src/worker.zig") });
    for ([_][]const u8{ "hello", "features" }) |name| {
        const program = addWorkerWith(b, module, name, b.path(b.fmt("examples/{s}.zig", .{name})));
        b.installArtifact(program);
    }
    const tests = b.addTest(.{ .root_module = b.createModule(.{
        .root_source_file = b.path("src/worker.zig"),
        .target = b.graph.host,
    }) });
    b.step("test", "Run the tests on this machine").dependOn(&b.addRunArtifact(tests).step);
}

/// A worker of another package, whose build.zig.zon names this one as `worker`.
pub fn addWorker(b: *std.Build, name: []const u8, root: std.Build.LazyPath) *std.Build.Step.Compile {
    return addWorkerWith(b, b.dependency("worker", .{}).module("worker"), name, root);
}

fn addWorkerWith(b: *std.Build, module: *std.Build.Module, name: []const u8, root: std.Build.LazyPath) *std.Build.Step.Compile {
    const program = b.addExecutable(.{
        .name = name,
        .root_module = b.createModule(.{
            .root_source_file = root,
            .target = b.resolveTargetQuery(.{ .cpu_arch = .wasm32, .os_tag = .wasi }),
            .optimize = .ReleaseSmall,
            .strip = true,
            .imports = &.{.{ .name = "worker", .module = module }},
        }),
    });
    // The server calls canonical_abi_realloc, which `worker` exports.
    program.rdynamic = true;
    return program;
}
