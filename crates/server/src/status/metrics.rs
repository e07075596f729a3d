//! Metrics: what was counted, and the state of the server when it is read.

use wws_telemetry::{Sink, TextFormat, TextSink, counter, gauge, single};

use crate::status::process::ProcessUsage;
use crate::status::view::{ServerGauges, StatusView};

/// All metrics in a text format.
pub(crate) fn text(view: &StatusView<'_>, format: TextFormat) -> String {
    let mut sink = TextSink::new(format);
    collect(view, &mut sink);
    sink.finish()
}

/// Passes on all metrics.
pub(crate) fn collect(view: &StatusView<'_>, sink: &mut dyn Sink) {
    view.telemetry.collect(sink);
    let ServerGauges {
        generation,
        running,
        concurrency,
        waiting,
        queue,
        connections,
        accepted,
        max_connections,
        sockets,
        max_sockets,
        memory,
        memory_used,
        draining,
        uncompiled,
    } = view.gauges;
    for (name, help, value) in [
        (
            "wws_slots_in_use",
            "Places of calls that are taken.",
            f64::from(running),
        ),
        (
            "wws_slots",
            "Calls that may run at once (server.concurrency).",
            f64::from(concurrency),
        ),
        (
            "wws_queue_length",
            "Requests that wait for a worker.",
            f64::from(waiting),
        ),
        (
            "wws_queue_limit",
            "Requests that may wait for a worker (server.queue).",
            f64::from(queue),
        ),
        (
            "wws_connections",
            "Connections that are open.",
            connections as f64,
        ),
        (
            "wws_connections_limit",
            "Connections that may be open at once.",
            max_connections as f64,
        ),
        ("wws_sockets", "WebSockets that are open.", sockets as f64),
        (
            "wws_sockets_limit",
            "WebSockets that may be open at once, as far as memory allows (server.max_sockets).",
            max_sockets as f64,
        ),
        (
            "wws_guest_memory_limit_bytes",
            "Memory for guests and clients (server.memory).",
            memory as f64,
        ),
        (
            "wws_guest_memory_bytes",
            "Memory that guests and clients use.",
            memory_used as f64,
        ),
        (
            "wws_workers",
            "Workers of the project.",
            view.project.workers().len() as f64,
        ),
        (
            "wws_workers_uncompiled",
            "Workers that answer 503 until the host has compiled their code.",
            uncompiled as f64,
        ),
        (
            "wws_generation",
            "Times that the project was loaded: 1 after the start, one more after each reload that \
             succeeded.",
            generation as f64,
        ),
        (
            "wws_draining",
            "Whether the server stops.",
            f64::from(u8::from(draining)),
        ),
    ] {
        single(sink, gauge(name, help), value);
    }
    single(
        sink,
        counter(
            "wws_connections_accepted_total",
            "Connections that were accepted.",
        ),
        accepted as f64,
    );
    let usage = ProcessUsage::read();
    let cpu = counter("process_cpu_seconds_total", "CPU time of the process.");
    single(sink, cpu, usage.cpu.as_secs_f64());
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Resident memory.",
            usage.resident,
        ),
        ("process_open_fds", "Open files.", usage.open_files),
        (
            "process_max_fds",
            "Files that may be open.",
            usage.max_files,
        ),
        ("process_threads", "Threads.", usage.threads),
    ] {
        if let Some(value) = value {
            single(sink, gauge(name, help), value as f64);
        }
    }
}
