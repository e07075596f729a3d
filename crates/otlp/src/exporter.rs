//! The tasks that export, one for each signal.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use wws_outbound::{Client, ClientOptions, Overrides, Proxies, Roots};
use wws_telemetry::{ExportQueue, Queued, Sampler, Sink, Telemetry};

use crate::encode::{self, Source};
use crate::sender::{FailureLog, Sender};
use crate::settings::{Endpoint, ExportSettings, Signal};

/// Spans or lines of one message, at most.
const BATCH: usize = 512;

/// Bytes of messages and responses that are held at once.
const MEMORY: u64 = 32 << 20;

/// What the exporter has from its program.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The program's version.
    pub version: &'static str,
    /// The trusted certificates, for endpoints without a certificate of their own.
    pub roots: Roots,
    /// Proxies that the operator names.
    pub proxies: Proxies,
    /// Hosts whose addresses the operator sets.
    pub resolve: Overrides,
}

/// Exports once it is started.
pub struct Exporter {
    settings: ExportSettings,
    source: Source,
    senders: Vec<Sender>,
    stop: CancellationToken,
}

/// An exporter that runs.
pub struct RunningExporter {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// TLS cannot be initialized.
    #[error(transparent)]
    Client(#[from] wws_outbound::Error),
    /// The host of an endpoint is not valid.
    #[error(transparent)]
    Endpoint(#[from] wws_outbound::PolicyError),
}

impl Exporter {
    /// An exporter with these settings. It opens no connection yet, and needs no runtime.
    ///
    /// # Errors
    /// TLS cannot be initialized, or the host of an endpoint is not valid.
    pub fn new(settings: ExportSettings, options: &ExportOptions) -> Result<Self, ExportError> {
        let (stop, failures) = (CancellationToken::new(), Arc::<FailureLog>::default());
        let mut clients = Clients::new(options);
        let mut senders = Vec::new();
        for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
            let Some(endpoint) = settings.endpoint(signal).cloned() else {
                continue;
            };
            let client = clients.of(&endpoint)?;
            let (failures, stop) = (failures.clone(), stop.clone());
            let version = options.version;
            let sender = Sender::new(signal, endpoint, version, client, failures, stop);
            senders.push(sender?);
        }
        Ok(Self {
            source: Source::new(options.version, &settings.resource),
            settings,
            senders,
            stop,
        })
    }

    /// Which traces are recorded; `None` if none is exported.
    #[must_use]
    pub fn sampler(&self) -> Option<Sampler> {
        self.settings.traces.as_ref()?;
        Some(self.settings.sampler)
    }

    /// Exports from now on; `collect` passes on all metrics. Needs a runtime.
    pub fn start(
        self,
        telemetry: &Telemetry,
        collect: impl Fn(&mut dyn Sink) + Send + Sync + 'static,
    ) -> RunningExporter {
        let Self {
            settings,
            source,
            senders,
            stop,
        } = self;
        let mut tasks = JoinSet::new();
        let mut collect = Some(collect);
        for sender in senders {
            let export = SignalExport {
                telemetry: telemetry.clone(),
                source: source.clone(),
                sender,
                wake: Arc::default(),
                stop: stop.clone(),
            };
            match export.sender.signal {
                Signal::Traces => {
                    let (delay, queue) = (settings.span_delay, Telemetry::spans);
                    tasks.spawn(export.queue(delay, queue, encode::spans));
                }
                Signal::Logs => {
                    let (delay, queue) = (settings.log_delay, Telemetry::logs);
                    tasks.spawn(export.queue(delay, queue, encode::logs));
                }
                Signal::Metrics => {
                    if let Some(collect) = collect.take() {
                        tasks.spawn(export.metrics(settings.metric_interval, collect));
                    }
                }
            }
        }
        RunningExporter { tasks, stop }
    }
}

impl RunningExporter {
    /// Exports what is left, for no longer than `limit`.
    pub async fn stop(mut self, limit: Duration) {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // What is left after that is lost.
        let _ = timeout(limit, all).await;
    }
}

/// One client for all endpoints that trust the same certificates.
struct Clients<'a> {
    options: &'a ExportOptions,
    clients: Vec<(Roots, Client)>,
}

impl<'a> Clients<'a> {
    fn new(options: &'a ExportOptions) -> Self {
        Self {
            options,
            clients: Vec::new(),
        }
    }

    fn of(&mut self, endpoint: &Endpoint) -> Result<Client, wws_outbound::Error> {
        let roots = match &endpoint.certificate {
            // Certificates take memory, and time to read.
            _ if endpoint.url.scheme_str() != Some("https") => Roots::default(),
            Some(file) => Roots {
                chosen: vec![file.clone()],
                ..Roots::default()
            },
            None => self.options.roots.clone(),
        };
        let mut known = self.clients.iter();
        if let Some((_, client)) = known.find(|(other, _)| *other == roots) {
            return Ok(client.clone());
        }
        let client = Client::new(
            ClientOptions {
                roots: roots.clone(),
                proxies: self.options.proxies.clone(),
                resolve: self.options.resolve.clone(),
                max_idle_per_host: 1,
                ..ClientOptions::default()
            }
            .with_memory(MEMORY),
        )?;
        self.clients.push((roots, client.clone()));
        Ok(client)
    }
}

/// The export of one signal.
struct SignalExport {
    telemetry: Telemetry,
    source: Source,
    sender: Sender,
    wake: Arc<Notify>,
    stop: CancellationToken,
}

impl SignalExport {
    fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let wake = self.wake.clone();
        move || wake.notify_one()
    }

    /// Exports what waits in a queue, until the exporter is stopped and nothing is left.
    async fn queue<T: Queued + Send + 'static>(
        self,
        delay: Duration,
        queue: fn(&Telemetry) -> &ExportQueue<T>,
        encode: fn(&Source, Vec<T>) -> Vec<u8>,
    ) {
        let queue = queue(&self.telemetry);
        queue.enable(self.waker());
        loop {
            if queue.is_empty() {
                if self.stop.is_cancelled() {
                    return;
                }
                // No timer runs until something is queued.
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = self.stop.cancelled() => {}
                }
            }
            self.gather(delay, || queue.is_half_full()).await;
            loop {
                let batch = queue.take(BATCH);
                if batch.is_empty() {
                    break;
                }
                let items = batch.len();
                let message = encode(&self.source, batch);
                let lost = self.sender.deliver(message, items).await;
                queue.lost(lost);
            }
        }
    }

    /// Waits for `delay` in which more is queued, or until a batch is due.
    async fn gather(&self, delay: Duration, is_due: impl Fn() -> bool) {
        let until = Instant::now() + delay;
        while !is_due() {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.stop.cancelled() => return,
                () = self.wake.notified() => {}
            }
        }
    }

    /// Exports metrics at the end of each interval in which something was counted, and at the end.
    async fn metrics(self, interval: Duration, collect: impl Fn(&mut dyn Sink)) {
        let changes = self.telemetry.changes();
        changes.on_change(self.waker());
        let first = Instant::now();
        loop {
            // Loading the project has counted something.
            let passed = first.elapsed().as_nanos() / interval.as_nanos().max(1);
            let next = u32::try_from(passed + 1).unwrap_or(u32::MAX);
            tokio::select! {
                () = sleep_until(first + interval * next) => {}
                () = self.stop.cancelled() => {}
            }
            let is_last = self.stop.is_cancelled();
            changes.wait();
            let message = encode::metrics(&self.source, self.telemetry.started(), &collect);
            self.sender.deliver(message, 1).await;
            if is_last {
                return;
            }
            // No timer runs until something is counted.
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.stop.cancelled() => {}
            }
        }
    }
}
