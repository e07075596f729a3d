//! Spans of the shim, beside those of containerd.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use prost::Message;
use wws_test::container::{self, LIMIT, Run};
use wws_test::containerd::{Containerd, Version};
use wws_test::image::Image;
use wws_test::wait;

#[derive(Clone, PartialEq, Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    begin: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

/// Takes spans by OTLP over HTTP.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ResourceSpans>>>);

impl Collector {
    /// Listens on a free port, which is returned.
    fn start() -> Result<(Self, u16)> {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let taking = collector.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let taking = taking.clone();
                thread::spawn(move || taking.take(&stream));
            }
        });
        Ok((collector, port))
    }

    fn take(&self, stream: &TcpStream) -> Result<()> {
        let mut read = BufReader::new(stream);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if read.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.parse()?;
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            read.read_exact(&mut body)?;
            let resources = ExportRequest::decode(&*body)?.resources;
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(resources);
            drop(all);
            let mut stream = stream;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    }

    /// The spans of a service.
    fn of(&self, service: &str) -> Vec<Span> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of = |resource: &ResourceSpans| {
            let attributes = resource.resource.iter().flat_map(|of| &of.attributes);
            text(attributes, "service.name").as_deref() == Some(service)
        };
        let of_service = all.iter().filter(|resource| is_of(resource));
        let scopes = of_service.flat_map(|resource| &resource.scopes);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn text<'a>(attributes: impl IntoIterator<Item = &'a KeyValue>, key: &str) -> Option<String> {
    let mut found = attributes.into_iter().filter(|pair| pair.key == key);
    Some(found.next()?.value.clone()?.text)
}

const SHIM: &str = "containerd-shim-wws-v1";

#[test]
fn the_shim_exports_spans_below_those_of_containerd() -> Result<()> {
    let (collector, port) = Collector::start()?;
    let endpoint = format!("http://127.0.0.1:{port}");
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_SERVICE_NAME", "containerd"),
    ];
    let containerd = Containerd::start_with_variables(Version::V2_1, &variables)?;
    let image = Image::probe("spans", "")?.import(&containerd)?;
    Run::workers(&containerd, &image, "spans")?.start_detached()?;
    container::end(&containerd, "spans")?;
    let names = [
        "shim.create",
        "prepare bundle",
        "runtime create",
        "shim.start",
        "shim.delete",
    ];
    let spans = wait::until("the spans of the shim", LIMIT, || {
        let spans = collector.of(SHIM);
        let found: BTreeSet<&str> = spans.iter().map(|span| &*span.name).collect();
        Ok(names
            .iter()
            .all(|name| found.contains(name))
            .then_some(spans))
    })?;
    let named = |name: &str| {
        let mut spans = spans.iter();
        let found = spans.find(|span| span.name == name);
        found.with_context(|| format!("no {name}"))
    };
    let create = named("shim.create")?;
    for part in ["prepare bundle", "runtime create"] {
        let part = named(part)?;
        ensure!(part.parent == create.id && part.trace == create.trace);
        ensure!(create.begin <= part.begin && part.end <= create.end);
    }
    assert_eq!(
        text(&create.attributes, "container.id").as_deref(),
        Some("spans")
    );
    assert!(spans.iter().all(|span| span.status.is_none()));
    // containerd sends its own every few seconds.
    wait::until("the span of containerd above", LIMIT, || {
        let of_containerd = collector.of("containerd");
        let above = |span: &Span| {
            let mut others = of_containerd.iter();
            others.any(|other| other.id == span.parent && other.trace == span.trace)
        };
        Ok(above(create).then_some(()))
    })
}

#[test]
fn a_collector_that_does_not_answer_delays_no_container() -> Result<()> {
    // Connections wait here for ever.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let variables = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*endpoint)];
    let containerd = Containerd::start_with_variables(Version::MAIN, &variables)?;
    let image = Image::probe("late", "")?.import(&containerd)?;
    let started = Instant::now();
    Run::workers(&containerd, &image, "late")?.start_detached()?;
    container::end(&containerd, "late")?;
    println!("created, started and removed in {:?}", started.elapsed());
    containerd.expect_nothing_left()
}
