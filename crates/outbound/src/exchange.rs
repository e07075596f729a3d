//! One request on one connection: its timeouts, and its cleanup when the response is not wanted.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use http::{Extensions, Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::{
    self,
    connect::{CaptureConnection, capture_connection},
};
use tokio::sync::OwnedSemaphorePermit;
use url::Host;

use crate::{
    connect::{Connector, Hangup},
    error::{Error, ErrorKind, Reason},
    sending::{Progress, RequestBody, within},
};

pub(crate) type Http = legacy::Client<Connector, RequestBody>;

/// Limits of the phases of one exchange; `None` where another limit holds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Phases {
    /// Until there is a connection.
    pub(crate) connect: Option<Duration>,
    /// From then on until the head of the response.
    pub(crate) head: Option<Duration>,
}

/// The connection is closed when this is dropped before both bodies have ended.
pub(crate) struct Exchange {
    connection: CaptureConnection,
    /// The request's body.
    sending: Weak<()>,
    /// The response has ended.
    pub(crate) is_answered: bool,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Exchange {
    pub(crate) async fn begin(
        http: &Http,
        mut request: Request<RequestBody>,
        host: &Host,
        phases: Phases,
        progress: &Progress,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Result<(Response<Incoming>, Self), Error> {
        let exchange = Self {
            connection: capture_connection(&mut request),
            sending: request.body().running(),
            is_answered: false,
            _permit: permit,
        };
        let mut answer = std::pin::pin!(http.request(request));
        if let Some(limit) = phases.connect {
            let mut connection = exchange.connection.clone();
            let connected = tokio::time::timeout(limit, async {
                tokio::select! {
                    biased;
                    _ = connection.wait_for_connection_metadata() => None,
                    answer = &mut answer => Some(answer),
                }
            });
            match connected.await {
                Ok(None) => {}
                Ok(Some(answer)) => return exchange.answered(answer, host, progress),
                Err(_) => {
                    let text = format!("cannot connect to `{host}` within {limit:?}");
                    return Err(
                        Error::new(ErrorKind::Timeout, text).because(Reason::ConnectTimeout)
                    );
                }
            }
        }
        let answer = match phases.head {
            None => answer.await,
            Some(limit) => within(limit, progress, answer).await.ok_or_else(|| {
                let text = format!("no answer from `{host}` within {limit:?}");
                Error::new(ErrorKind::Timeout, text).because(Reason::HeadTimeout)
            })?,
        };
        exchange.answered(answer, host, progress)
    }

    fn answered(
        self,
        answer: Result<Response<Incoming>, legacy::Error>,
        host: &Host,
        progress: &Progress,
    ) -> Result<(Response<Incoming>, Self), Error> {
        match answer {
            Ok(response) => Ok((response, self)),
            Err(error) => Err(progress
                .failure()
                .unwrap_or_else(|| Error::no_answer(host, &error))),
        }
    }

    /// Whether the connection is free: both bodies have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.is_answered && self.sending.strong_count() == 0
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.is_over() {
            return;
        }
        let mut extras = Extensions::new();
        if let Some(connected) = &*self.connection.connection_metadata() {
            connected.get_extras(&mut extras);
        }
        if let Some(hangup) = extras.get::<Hangup>() {
            hangup.now();
        }
    }
}
