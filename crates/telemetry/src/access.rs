//! The access log: what it shows of a request, and who writes it.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use crate::trace::TraceContext;

/// A request as the access log shows it.
#[derive(Clone, Copy, Debug)]
pub struct AccessLine<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// The status of the response; 499 if the client went away before.
    pub status: u16,
    /// The size of the body, or of the part that was sent.
    pub bytes: u64,
    /// The time to the response, or to the end of a stream.
    pub time: Duration,
    /// The client's address, if it is known.
    pub client: Option<IpAddr>,
    /// The name of the worker that answered.
    pub worker: Option<&'a str>,
    /// The request's id.
    pub request_id: &'a str,
    /// The trace that the request belongs to.
    pub trace: Option<TraceContext>,
    /// Who ended a streamed response before its end.
    pub aborted_by: Option<&'a str>,
}

type WriteLine = Box<dyn Fn(&AccessLine<'_>) + Send + Sync>;

/// Passes lines to the writer of the access log, without the costs of a `tracing` event.
#[derive(Default)]
pub struct AccessLog(OnceLock<WriteLine>);

impl AccessLog {
    /// Sets what writes lines. Only the first call has an effect.
    pub fn on_line(&self, write: impl Fn(&AccessLine<'_>) + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(write));
    }

    /// Writes a line. Returns false if there is no writer.
    pub fn write(&self, line: &AccessLine<'_>) -> bool {
        match self.0.get() {
            Some(write) => {
                write(line);
                true
            }
            None => false,
        }
    }
}
