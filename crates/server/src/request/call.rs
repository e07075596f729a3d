//! Has a worker answer a request: reads the body, waits for a slot, calls the guest, and sends what
//! it returns.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, request::Parts};
use http_body::Body as _;
use wws_engine::{BodyStream, Call, RequestBody, ResponseBody, StreamedBody};
use wws_project::Worker;
use wws_telemetry::{Refusal, WorkerSeries};
use wws_websocket::Offer;

use crate::connection::activity::StreamInProgress;
use crate::connection::body::Body;
use crate::connection::clients::{EVICTION_INTERVAL, ListedStream};
use crate::connection::headers;
use crate::connection::http2::ExtendedConnect;
use crate::connection::incoming::IncomingBody;
use crate::request::access::StreamRecord;
use crate::request::admission::{AdmissionError, CallPermit};
use crate::request::app::App;
use crate::request::compress::{self, Compressor, Encoder};
use crate::request::context::{Client, RequestContext};
use crate::request::failed::{call_failed, upload_failed, upload_page};
use crate::request::generation::Generation;
use crate::request::page::{BUSY_TEXT, INTERNAL_ERROR_TEXT, UNCOMPILED_TEXT};
use crate::request::sockets::SocketRequest;
use crate::request::stream::{self, WorkerStream, report_failure};
use crate::request::upload::UploadError;
use crate::request::upload_stream::{UploadFailure, UploadStream, UploadStreamBounds};

impl App {
    /// Has a worker answer.
    pub(super) async fn call_worker(
        &self,
        context: &mut RequestContext<'_>,
        worker: &Worker,
        parts: Parts,
        params: Vec<(String, String)>,
        body: IncomingBody,
    ) -> Response<Body> {
        let (index, generation) = (worker.id.index(), context.generation);
        // The reason was logged when the project was loaded.
        let Some(guest) = &generation.guests[index] else {
            if generation.uncompiled.contains(&index) {
                return context.closing_page(StatusCode::SERVICE_UNAVAILABLE, UNCOMPILED_TEXT);
            }
            return context.closing_page(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR_TEXT);
        };
        let is_extended_connect = parts.extensions.get::<ExtendedConnect>().is_some();
        let asked = SocketRequest {
            version: parts.version,
            offer: match is_extended_connect {
                true => Offer::of_extended_connect(&parts.headers),
                false => Offer::of(&parts, !body.is_end_stream()),
            },
            is_extended_connect,
            compression: generation.compressor.is_some(),
        };
        let failure = UploadFailure::default();
        let body = if guest.takes_streams() {
            self.stream_upload(worker, body, context, &failure)
        } else {
            // Before admission, so that a slow client takes no slot.
            self.collect_upload(body, &context.client).await
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => return upload_failed(error, context),
        };
        let permit = match self.admit(generation, index).await {
            Ok(permit) => permit,
            Err(error) => {
                context.refused(match error {
                    AdmissionError::Full => Refusal::QueueFull,
                    AdmissionError::Timeout => Refusal::QueueTimeout,
                });
                tracing::warn!(
                    worker = worker.name,
                    request_id = context.id,
                    trace_id = context.access.trace.trace_id(),
                    span_id = context.access.trace.span_id(),
                    "not run: {error}"
                );
                return context.page(StatusCode::SERVICE_UNAVAILABLE, BUSY_TEXT);
            }
        };
        // A client that is slow to send is disconnected for calls that wait, as one that is slow to
        // read.
        let streaming = match &body {
            RequestBody::Collected(_) => None,
            RequestBody::Stream(_) => Some(self.begin_stream(&context.client)),
        };
        let running = RunningCall::new(context.series.clone());
        let method = parts.method.clone();
        let compression = generation.compressor.as_ref().map(|compressor| {
            let accepted = compress::accepted(&parts.headers);
            (compressor, accepted)
        });
        let request = Request::from_parts(parts, body);
        let call = Call {
            request,
            params,
            request_id: context.id.clone(),
        };
        let (mut head, body) = match guest.serve(call).await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                return match failure.get() {
                    Some(failure) => {
                        tracing::debug!(request_id = context.id, "{error}");
                        report_failure(&error, context.series);
                        upload_page(failure.into(), context)
                    }
                    None => call_failed(&error, context),
                };
            }
        };
        match body {
            ResponseBody::Socket(socket) => {
                let cost = guest.call_cost();
                self.sockets
                    .accept(context, worker, &asked, head, socket, cost)
            }
            ResponseBody::Collected(body) => {
                let response = Response::from_parts(head, body);
                compressed(compression, response).await
            }
            ResponseBody::Stream(stream) => {
                if let Some(body) = stream::whole(&stream, &method, &mut head) {
                    let response = Response::from_parts(head, body);
                    return compressed(compression, response).await;
                }
                let mut stream = ResponseBody::Stream(stream);
                let streaming = streaming.unwrap_or_else(|| self.begin_stream(&context.client));
                stream.keep(Box::new((permit, running, streaming)));
                let ResponseBody::Stream(stream) = stream else {
                    return Response::from_parts(head, Body::default());
                };
                stream::clean(&mut head.headers);
                let encoder = compression.and_then(|(compressor, accepted)| {
                    compressor.encoder(&method, &accepted, &mut head)
                });
                let body = self.send(context, worker, &method, &head, stream, encoder);
                Response::from_parts(head, body)
            }
        }
    }

    /// Records that a request or its response streams, until this is dropped.
    fn begin_stream(&self, client: &Client<'_>) -> (StreamInProgress, Option<ListedStream>) {
        let activity = client.activity;
        let listed = activity.is_stream().then(|| self.clients.list(activity));
        (activity.begin_stream(), listed)
    }

    async fn collect_upload(
        &self,
        body: IncomingBody,
        client: &Client<'_>,
    ) -> Result<RequestBody, UploadError> {
        let activity = &client.activity;
        activity.reading.set_uploading(!body.is_end_stream());
        let body = self.uploads.read(body).await;
        activity.reading.set_uploading(false);
        let body = body?;
        activity.requests.set_body_unread(false);
        Ok(RequestBody::Collected(body))
    }

    /// Has a worker read the body of a request as it comes.
    fn stream_upload(
        &self,
        worker: &Worker,
        body: IncomingBody,
        context: &RequestContext<'_>,
        failure: &UploadFailure,
    ) -> Result<RequestBody, UploadError> {
        if body.is_end_stream() {
            return Ok(RequestBody::Collected(Bytes::new()));
        }
        let limits = &worker.limits;
        let max = Some(limits.stream_bytes).filter(|max| *max > 0);
        // A client that sent `Expect` need not send the body.
        if max.is_some_and(|max| body.size_hint().lower() > max) {
            return Err(UploadError::TooLarge);
        }
        let settings = context.generation.project.settings();
        let bounds = UploadStreamBounds {
            idle: limits.stream_idle,
            max,
            min_rate: settings.min_send_rate,
            average: settings.body_timeout,
            memory: self.engine.account().clone(),
        };
        let activity = context.client.activity.clone();
        let stream = UploadStream::new(body, activity, bounds, failure.clone());
        Ok(RequestBody::Stream(BodyStream::new(stream)))
    }

    /// Waits for a slot. Clients that keep workers waiting which stream are disconnected meanwhile.
    async fn admit(
        &self,
        generation: &Generation,
        worker: usize,
    ) -> Result<CallPermit, AdmissionError> {
        let mut entering = pin!(generation.places.enter(worker));
        if !generation.streams {
            return entering.await;
        }
        if let Some(entered) = entering.as_mut().now_or_never() {
            return entered;
        }
        loop {
            self.clients.evict_streams();
            if let Ok(entered) = tokio::time::timeout(EVICTION_INTERVAL, entering.as_mut()).await {
                return entered;
            }
        }
    }

    /// The body of a response that a worker makes while it is sent.
    fn send(
        &self,
        context: &mut RequestContext<'_>,
        worker: &Worker,
        method: &Method,
        head: &http::response::Parts,
        stream: Box<StreamedBody>,
        encoder: Option<Encoder>,
    ) -> Body {
        let after = worker.limits.wall_time;
        if headers::has_no_body(method, head.status) {
            let series = context.series.clone();
            stream::finish(
                stream,
                after,
                series,
                worker.name.clone(),
                context.id.clone(),
            );
            return Body::default();
        }
        let series = context.series.clone();
        let access = &mut context.access;
        let record = StreamRecord::new(access, series, head.status, &context.id, &worker.name);
        let activity = context.client.activity.clone();
        let stream = WorkerStream::new(stream, &head.headers, after, activity, record);
        Body::pieces(Box::pin(stream.encoded(encoder)))
    }
}

/// A whole response as it is sent: compressed, if there is a compressor.
async fn compressed(
    compression: Option<(&Compressor, HeaderMap)>,
    response: Response<Bytes>,
) -> Response<Body> {
    let response = match compression {
        // Boxed: most responses are not compressed, and the request's state is moved.
        Some((compressor, accepted)) => Box::pin(compressor.compress(&accepted, response)).await,
        None => response,
    };
    response.map(Body::from)
}

/// Counts a call as running until it is dropped.
struct RunningCall(Arc<WorkerSeries>);

impl RunningCall {
    fn new(series: Arc<WorkerSeries>) -> Self {
        series.call_began();
        Self(series)
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.call_ended();
    }
}
