//! The peer of the rows of throughput and bodies: hyper alone, with an answer that is always the
//! same, or the body of the request back.

use std::{convert::Infallible, net::Ipv4Addr};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The argument that makes this program the peer.
pub(crate) const COMMAND: &str = "bare-hyper";

/// Serves on `port` until the process is killed.
pub(crate) fn serve(port: u16) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::spawn(async move {
                    let answer = service_fn(|request: Request<Incoming>| async {
                        let body = match *request.method() {
                            Method::POST => Either::Right(request.into_body()),
                            _ => Either::Left(Full::new(Bytes::from_static(b"hello"))),
                        };
                        Ok::<_, Infallible>(
                            Response::builder()
                                .header("content-type", "text/html")
                                .body(body)
                                .unwrap_or_else(|_| {
                                    Response::new(Either::Left(Full::new(Bytes::new())))
                                }),
                        )
                    });
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await
                });
            }
        })
}
