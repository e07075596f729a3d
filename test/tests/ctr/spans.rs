//! Spans of the shim, beside those of containerd.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use prost::Message;
use wws_test::collector;
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
    /// Returns the URL that it is reached at, too.
    fn start() -> Result<(Self, String)> {
        let all = Self::default();
        let taking = all.clone();
        let address = collector::start(move |body| taking.take(body))?;
        Ok((all, format!("http://{address}")))
    }

    fn take(&self, body: &[u8]) -> io::Result<()> {
        let resources = ExportRequest::decode(body)?.resources;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(resources);
        Ok(())
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
    let (collector, endpoint) = Collector::start()?;
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
