//! WebSockets to other servers: the handshake, under the same checks as any request.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use wws_websocket::ClientHandshake;

use crate::{
    client::{Client, first_url, no_answer_in_time},
    connect::Route,
    error::{Error, ErrorKind, Reason},
    exchange::{Exchange, Phases},
    headers,
    policy::Policy,
    sending::{Progress, RequestBody},
};

/// The connection of a WebSocket after the handshake. Dropping it closes the connection.
pub struct OpenedSocket {
    stream: TokioIo<Upgraded>,
    /// Closes the connection when it is dropped.
    _exchange: Exchange,
    _place: OwnedSemaphorePermit,
}

impl Client {
    /// Opens a WebSocket if the policy allows a GET of its URL, whose scheme is `http` or `https`.
    /// Redirects are not followed. Returns the protocol that the server chose, and the connection.
    ///
    /// The policy's `timeout` is for the handshake. The socket counts as one of
    /// [`ClientOptions::max_requests`](crate::ClientOptions::max_requests) until it is dropped, and
    /// sockets take half of them at most.
    ///
    /// # Errors
    /// The policy refuses the request, too many sockets are open, there is no answer in time, or
    /// the server opens no socket.
    pub async fn open_socket(
        &self,
        policy: &Policy,
        request: Request<()>,
        asked: &ClientHandshake,
    ) -> Result<(String, OpenedSocket), Error> {
        let limit = policy.limits().timeout;
        let mut waiting = String::new();
        let opening = Box::pin(self.open(policy, request, asked, &mut waiting));
        match tokio::time::timeout(limit, opening).await {
            Ok(result) => result,
            Err(_) => Err(no_answer_in_time(&waiting, "", limit)),
        }
    }

    async fn open(
        &self,
        policy: &Policy,
        request: Request<()>,
        asked: &ClientHandshake,
        waiting: &mut String,
    ) -> Result<(String, OpenedSocket), Error> {
        let (parts, ()) = request.into_parts();
        let url = first_url(&parts.uri, &Method::GET)?;
        let fields = headers::of_request(parts.headers)?;
        let (host, port) = policy.check(&url, &Method::GET)?;
        *waiting = host.to_string();
        // Sockets last: they must leave room for requests.
        let place = self.socket_place()?;
        let permit = Arc::new(self.permit().await?);
        let route = match self.routes().find(policy, &url, &host, port).await? {
            // A proxy that is sent whole URLs passes no other protocol on.
            Route::Forward => Route::Tunnel,
            route => route,
        };
        let mut request = self.request(&url, &host, port, &route, &Method::GET, &fields)?;
        request.headers_mut().extend(asked.headers());
        let progress = Progress::new();
        let body = RequestBody::collected(Bytes::new(), progress.clone());
        let (response, exchange) = Exchange::begin(
            self.http(),
            request.map(|()| body),
            &host,
            Phases::default(),
            &progress,
            permit,
        )
        .await?;
        let failed = |text: String| {
            let text = format!("`{host}` opens no WebSocket: {text}");
            Error::new(ErrorKind::Internal, text).because(Reason::Protocol)
        };
        let protocol = asked
            .check(response.status(), response.headers())
            .map_err(|error| failed(error.to_string()))?;
        let upgraded = hyper::upgrade::on(response).await;
        let stream = TokioIo::new(upgraded.map_err(|error| failed(error.to_string()))?);
        let socket = OpenedSocket {
            stream,
            _exchange: exchange,
            _place: place,
        };
        Ok((protocol, socket))
    }
}

impl AsyncRead for OpenedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for OpenedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
