//! Responses to requests that failed. The caller gets a short text, the log the cause.

use http::{Response, StatusCode};
use wws_engine::CallError;
use wws_telemetry::Refusal;

use crate::connection::body::Body;
use crate::request::context::RequestContext;
use crate::request::page::{BUSY_TEXT, INTERNAL_ERROR_TEXT};
use crate::request::stream::report_failure;
use crate::request::upload::UploadError;

/// Answers a request whose worker failed.
pub(super) fn call_failed(error: &CallError, context: &RequestContext<'_>) -> Response<Body> {
    tracing::error!(
        worker = context.worker_name(),
        request_id = context.id,
        trace_id = context.access.trace.trace_id(),
        span_id = context.access.trace.span_id(),
        "{error}"
    );
    if error.is_overload() {
        context.refused(Refusal::Memory);
    } else {
        report_failure(error, context.series);
    }
    if error.is_timeout() {
        context.page(StatusCode::GATEWAY_TIMEOUT, "The worker took too long.")
    } else if error.is_overload() || error.is_store_away() {
        context.page(StatusCode::SERVICE_UNAVAILABLE, BUSY_TEXT)
    } else {
        context.page(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR_TEXT)
    }
}

/// Counts and answers a request whose body failed before a worker was called.
pub(super) fn upload_failed(error: UploadError, context: &RequestContext<'_>) -> Response<Body> {
    context.refused(match error {
        UploadError::TooLarge => Refusal::BodyTooLarge,
        UploadError::TooSlow => Refusal::BodyTimeout,
        UploadError::NoMemory => Refusal::Memory,
        UploadError::Broken => Refusal::BodyBroken,
    });
    upload_page(error, context)
}

/// Answers a request whose body failed.
pub(super) fn upload_page(error: UploadError, context: &RequestContext<'_>) -> Response<Body> {
    let (status, text) = match error {
        UploadError::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "The request's body is too large.",
        ),
        UploadError::TooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            "The request's body took too long.",
        ),
        UploadError::NoMemory => (StatusCode::SERVICE_UNAVAILABLE, BUSY_TEXT),
        UploadError::Broken => (StatusCode::BAD_REQUEST, "The request's body is broken."),
    };
    if error == UploadError::NoMemory {
        tracing::warn!(
            request_id = context.id,
            "the bodies of all requests together are too large"
        );
    }
    context.closing_page(status, text)
}
