//! What a guest is made of and called with: plain values, known before anything is opened or run.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::level_filters::LevelFilter;
use wws_telemetry::WorkerSeries;

use crate::body::{BodyError, RequestBody};

/// What a guest is given, besides its code.
pub struct GuestSpec {
    /// Name in logs.
    pub name: String,
    /// WASI environment.
    pub env: Vec<(String, String)>,
    /// WASI arguments; the first is the program's name.
    pub args: Vec<String>,
    /// Directories that the guest sees.
    pub directories: Vec<PreopenedDirectory>,
    /// Key/value store and the namespace in it.
    pub kv: Option<KvGrant>,
    /// Outgoing HTTP: the policy and the client, or none.
    pub http: Option<(wws_outbound::Policy, wws_outbound::Client)>,
    /// Bounds of one call.
    pub limits: GuestLimits,
}

/// A key/value store and the namespace in it that a guest is given.
#[derive(Clone)]
pub struct KvGrant {
    /// The store.
    pub store: Arc<dyn wws_kv::Store>,
    /// The namespace.
    pub namespace: String,
    /// Whether calls that read the namespace as a whole and print it run one after another.
    pub serial: bool,
}

impl KvGrant {
    /// A namespace into which the changes of calls are merged.
    pub fn new(store: Arc<dyn wws_kv::Store>, namespace: impl Into<String>) -> Self {
        Self {
            store,
            namespace: namespace.into(),
            serial: false,
        }
    }
}

/// A directory of the host that a guest sees.
pub struct PreopenedDirectory {
    /// The opened directory.
    pub dir: std::fs::File,
    /// The absolute path at which the guest sees the directory.
    pub to: String,
}

/// Bounds of one call.
#[derive(Clone, Debug)]
pub struct GuestLimits {
    /// Linear memory in bytes.
    pub memory: u64,
    /// Elements of a table.
    pub table_elements: u32,
    /// CPU time.
    pub cpu_time: Duration,
    /// Wall-clock time.
    pub wall_time: Duration,
    /// Bytes of standard output.
    pub output: u64,
    /// Bytes that the host keeps for the call besides the guest's memory and its input: output,
    /// messages, contents of files.
    pub buffers: u64,
    /// Bytes of standard error that reach the log.
    pub log: u64,
    /// Outgoing HTTP requests.
    pub http_calls: u32,
    /// Files that are open at once.
    pub open_files: u32,
    /// Bounds of a response that is sent while the guest runs.
    pub stream: StreamLimits,
}

/// Bounds of a response that is sent while the guest runs, beyond those of the call: the wall-clock
/// time of a call ends with the head of its response.
#[derive(Clone, Debug)]
pub struct StreamLimits {
    /// Time between two pieces of the body.
    pub idle: Duration,
    /// Time from the head to the end of the body.
    pub time: Option<Duration>,
    /// Bytes of the request's body, and of the response's.
    pub bytes: Option<u64>,
    /// Bounds of a WebSocket.
    pub socket: wws_websocket::Limits,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            time: None,
            bytes: None,
            socket: wws_websocket::Limits::default(),
        }
    }
}

/// What calls of a guest are counted in, and how much of what it prints is logged.
pub struct CallReport {
    /// The counters of the worker.
    pub series: Arc<WorkerSeries>,
    /// The least severe lines that are logged.
    pub log_level: LevelFilter,
    /// Lines that are logged in a second, of all calls together; 0 sets no bound.
    pub log_rate: u32,
}

/// One call of a guest.
pub struct Call<B = Bytes> {
    /// The request; its URI is the full URL.
    pub request: http::Request<B>,
    /// Parameters of the route.
    pub params: Vec<(String, String)>,
    /// For logs.
    pub request_id: String,
}

impl Call<RequestBody> {
    /// The call with its whole body, of at most `max` bytes.
    ///
    /// # Errors
    /// The body is larger, or ended early.
    pub async fn collect(self, max: u64) -> Result<Call, BodyError> {
        let (head, body) = self.request.into_parts();
        Ok(Call {
            request: http::Request::from_parts(head, body.collect(max).await?),
            params: self.params,
            request_id: self.request_id,
        })
    }
}

impl From<Call> for Call<RequestBody> {
    fn from(call: Call) -> Self {
        Self {
            request: call.request.map(RequestBody::Collected),
            params: call.params,
            request_id: call.request_id,
        }
    }
}
