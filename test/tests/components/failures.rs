//! What components and their clients do wrong, and that the server goes on.

use std::io::{Read, Write};
use std::net::Shutdown;

use anyhow::{Result, ensure};

use crate::served::{Served, get_request, serve, serve_with};

#[test]
fn components_that_misbehave_fail_alone() -> Result<()> {
    let served = serve("component-corners")?;
    for path in [
        "/unfinished-body",
        "/half-a-body",
        "/length-short",
        "/length-long",
        "/length-bad",
        "/many-headers?count=1000",
        "/drop-outparam",
        "/forget-outparam",
        "/trap-after?bytes=100000",
        "/finish-early",
        "/write-too-much",
        "/write-unasked",
        "/empty-poll",
        "/no-resource",
        "/leak?what=fields",
        "/leak?what=pollables",
        "/leak?what=requests",
        "/leak?what=options",
        "/leak?what=headers",
        "/leak?what=streams",
        "/spin-after-head",
        "/stack",
    ] {
        served.fails(path)?;
        ensure!(
            served.text("/ignore")? == (200, "not read\n".into()),
            "after {path}"
        );
    }
    let many = served.get("/outgoing-many?count=1000&url=http://allowed.test/")?;
    // More than `limits.http_calls` are refused.
    ensure!(
        many.text()
            .contains("failed ErrorCode::ConnectionLimitReached"),
        "{}",
        many.text()
    );

    slow_clients(&served, "/flood", "/read-for-ever", "/ignore")
}

#[test]
fn components_of_wasi_0_3_that_misbehave_fail_alone() -> Result<()> {
    let limits = "[limits]\nwall_time = \"3s\"\nstream_idle = \"3s\"\n";
    let served = serve_with("component-features-p3", limits)?;
    for path in [
        "/half-a-body",
        "/length-short",
        "/length-long",
        "/trap-after?bytes=100000",
        "/hang",
        "/spin",
        "/stack",
        "/leak?what=fields",
        "/leak?what=requests",
        "/leak?what=options",
        "/leak?what=streams",
        "/leak?what=futures",
    ] {
        served.fails(path)?;
        ensure!(
            served.text("/sleep?ms=1")? == (200, "slept\n".into()),
            "after {path}"
        );
    }
    drop(served);
    let served = serve("component-features-p3")?;
    let many = served.get("/outgoing-many?count=1000&url=http://allowed.test/")?;
    ensure!(
        many.text().starts_with("answered 50, failed"),
        "{}",
        many.text()
    );
    slow_clients(&served, "/flood", "/length", "/sleep?ms=1")
}

/// A client that takes little of a flood, and one that does not end its body, keep nobody waiting,
/// and leave.
pub(crate) fn slow_clients(served: &Served, flood: &str, reads: &str, other: &str) -> Result<()> {
    let mut flooded = served.connect()?;
    flooded.write_all(get_request(flood).as_bytes())?;
    flooded.read_exact(&mut vec![0; 1 << 20])?;
    let mut slow = served.connect()?;
    let half = format!("POST {reads} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhello");
    slow.write_all(half.as_bytes())?;
    ensure!(served.get(other)?.status == 200);
    flooded.shutdown(Shutdown::Both)?;
    slow.shutdown(Shutdown::Both)?;
    drop((flooded, slow));
    ensure!(served.get(other)?.status == 200);
    Ok(())
}
