//! Events for containerd: queued in order, and delivered even if containerd is restarted meanwhile.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::events::task;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::ttrpc::asynchronous::transport::Socket;
use containerd_shim_protos::ttrpc::{self, context};
use tokio::sync::{mpsc, watch};

use crate::error::Error;
use crate::sys::log;
use crate::sys::reaper::Reaper;
use crate::sys::time;

/// The most events that wait for containerd.
const MAX_WAITING: usize = 2048;

/// How long containerd may take to accept one event.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

/// How often an event is sent that containerd answers with an error.
const MAX_REJECTIONS: usize = 5;

/// The first and the longest pause between attempts.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// The pause after a restart of containerd: its clients reconnect within seconds, and never receive
/// an event from before they do.
const SETTLE: Duration = Duration::from_secs(4);

/// A message that is published under a topic.
pub(crate) trait Event: Message {
    /// The topic.
    const TOPIC: &'static str;
}

macro_rules! events {
    ($($message:ident $topic:literal,)*) => { $(
        impl Event for task::$message {
            const TOPIC: &'static str = concat!("/tasks/", $topic);
        }
    )* }
}

events! {
    TaskCreate "create",
    TaskStart "start",
    TaskExit "exit",
    TaskDelete "delete",
    TaskOOM "oom",
    TaskExecAdded "exec-added",
    TaskExecStarted "exec-started",
    TaskPaused "paused",
    TaskResumed "resumed",
}

/// Where events are published.
#[derive(Debug, Clone)]
pub(crate) struct EventDestination {
    /// containerd's ttrpc socket; empty if it has none.
    pub(crate) ttrpc: String,
    /// containerd's main socket.
    pub(crate) address: String,
    /// containerd's own program, which publishes events if there is no ttrpc socket.
    pub(crate) publisher: String,
}

/// The queue of events.
#[derive(Debug)]
pub(crate) struct EventQueue {
    namespace: String,
    queue: mpsc::Sender<Envelope>,
    waiting: Arc<watch::Sender<usize>>,
}

impl EventQueue {
    /// Starts delivering. Must be called within the tokio runtime.
    pub(crate) fn start(
        namespace: &str,
        destination: EventDestination,
        reaper: Arc<Reaper>,
    ) -> Arc<Self> {
        let (queue, mut envelopes) = mpsc::channel::<Envelope>(MAX_WAITING);
        let waiting = Arc::new(watch::Sender::new(0));
        let done = Arc::clone(&waiting);
        tokio::spawn(async move {
            let mut publisher = Publisher {
                destination,
                reaper,
                client: None,
                was_unreachable: false,
            };
            while let Some(envelope) = envelopes.recv().await {
                publisher.deliver(&envelope).await;
                done.send_modify(|count| *count -= 1);
            }
        });
        Arc::new(Self {
            namespace: namespace.to_owned(),
            queue,
            waiting,
        })
    }

    /// Queues an event.
    pub(crate) fn send<E: Event>(&self, event: &E) {
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(error) => return log::error!("encode the event {}: {error}", E::TOPIC),
        };
        let envelope = Envelope {
            timestamp: MessageField::some(time::now()),
            namespace: self.namespace.clone(),
            topic: E::TOPIC.to_owned(),
            event: MessageField::some(Any {
                type_url: format!("containerd.events.{}", E::NAME),
                value,
                ..Any::default()
            }),
            ..Envelope::default()
        };
        self.waiting.send_modify(|count| *count += 1);
        if self.queue.try_send(envelope).is_err() {
            self.waiting.send_modify(|count| *count -= 1);
            log::error!(
                "event {} is dropped: {MAX_WAITING} others wait for containerd",
                E::TOPIC
            );
        }
    }

    /// Returns how many events wait for containerd.
    pub(crate) fn waiting(&self) -> usize {
        *self.waiting.borrow()
    }

    /// Waits until all events are delivered, but no longer than `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let mut waiting = self.waiting.subscribe();
        let empty = waiting.wait_for(|count| *count == 0);
        if tokio::time::timeout(limit, empty).await.is_err() {
            log::warning!(
                "containerd did not accept all events within {} s",
                limit.as_secs()
            );
        }
    }
}

/// Why an event was not delivered.
enum PublishError {
    /// containerd answered with an error.
    Rejected(ttrpc::Status),
    /// containerd was not reached.
    Unreachable(Error),
}

struct Publisher {
    destination: EventDestination,
    reaper: Arc<Reaper>,
    client: Option<EventsClient>,
    /// Whether the last connection failed.
    was_unreachable: bool,
}

impl Publisher {
    /// Delivers one event, however long containerd is unreachable.
    async fn deliver(&mut self, envelope: &Envelope) {
        let mut pause = RETRY_PAUSE.0;
        let mut rejections = 0;
        loop {
            match self.publish(envelope).await {
                Ok(()) => return,
                Err(PublishError::Rejected(status)) => {
                    rejections += 1;
                    let message = &status.message;
                    if rejections == MAX_REJECTIONS {
                        return log::error!(
                            "containerd rejects the event {}: {message}",
                            envelope.topic
                        );
                    }
                    log::debug!("publish {}: {message}", envelope.topic);
                }
                Err(PublishError::Unreachable(error)) => {
                    // The next attempt connects again: containerd may have been restarted.
                    self.client = None;
                    log::debug!("publish {}: {error:#}", envelope.topic);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE.1);
        }
    }

    async fn publish(&mut self, envelope: &Envelope) -> Result<(), PublishError> {
        if self.destination.ttrpc.is_empty() {
            let published = self.run_publisher(envelope).await;
            return published.map_err(PublishError::Unreachable);
        }
        let client = match &self.client {
            Some(client) => client,
            None => {
                let path = self.destination.ttrpc.trim_start_matches("unix://");
                let socket = Socket::connect_unix(path).await;
                let was_unreachable = std::mem::replace(&mut self.was_unreachable, socket.is_err());
                let socket = socket.map_err(|error| {
                    let context = format!("connect to {path}");
                    PublishError::Unreachable(Error::unknown(context).with_source(error))
                })?;
                if was_unreachable {
                    tokio::time::sleep(SETTLE).await;
                }
                self.client.insert(EventsClient::new(Client::new(socket)))
            }
        };
        let request = ForwardRequest {
            envelope: MessageField::some(envelope.clone()),
            ..ForwardRequest::default()
        };
        let limit = context::with_duration(FORWARD_LIMIT);
        match client.forward(limit, &request).await {
            Ok(_) => Ok(()),
            Err(ttrpc::Error::RpcStatus(status)) if status.code() != ttrpc::Code::UNAVAILABLE => {
                Err(PublishError::Rejected(status))
            }
            Err(error) => Err(PublishError::Unreachable(
                Error::unknown("forward the event").with_source(error),
            )),
        }
    }

    /// Runs `containerd publish`, for releases of containerd without a ttrpc socket.
    async fn run_publisher(&self, envelope: &Envelope) -> crate::error::Result<()> {
        let program = &self.destination.publisher;
        let mut command = Command::new(program);
        command
            .args(["--address", &self.destination.address, "publish"])
            .args(["--topic", &envelope.topic])
            .args(["--namespace", &envelope.namespace])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // The message fits into the pipe.
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| Error::io("create a pipe", error))?;
        command.stdin(Stdio::from(read));
        let child = self
            .reaper
            .spawn(&mut command)
            .map_err(|error| Error::io(format_args!("start {program}"), error))?;
        let bytes = envelope
            .event
            .write_to_bytes()
            .map_err(|error| Error::unknown("encode the event").with_source(error))?;
        let written = std::fs::File::from(write).write_all(&bytes);
        let exit = child.exit.wait().await;
        written.map_err(|error| Error::io(format_args!("write to {program}"), error))?;
        match exit.code {
            0 => Ok(()),
            code => Err(Error::unknown(format!(
                "containerd publish exited with {code}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_topics_and_names_of_containerd() {
        assert_eq!(task::TaskOOM::TOPIC, "/tasks/oom");
        assert_eq!(task::TaskOOM::NAME, "TaskOOM");
        assert_eq!(task::TaskExecAdded::TOPIC, "/tasks/exec-added");
    }
}
