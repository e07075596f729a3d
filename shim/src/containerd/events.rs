//! Events for containerd: queued in order and delivered also when containerd is restarted meanwhile.

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

use crate::sys::log;
use crate::sys::reaper::Reaper;
use crate::sys::time;

/// The most events that wait for containerd.
const MAX_WAITING: usize = 2048;

/// How long containerd may take to take one.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);

/// How often an event is offered that containerd answers with an error.
const MAX_REFUSALS: usize = 5;

/// The pauses between tries, first and longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// How long containerd is left alone when it is back: its clients come back to it within seconds, and an event that they are
/// not there for never reaches them.
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

/// Where events go to.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    /// containerd's ttrpc socket; empty if it has none.
    pub(crate) ttrpc: String,
    /// containerd's main socket.
    pub(crate) address: String,
    /// containerd's own program.
    pub(crate) publisher: String,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Events {
    namespace: String,
    queue: mpsc::Sender<Envelope>,
    waiting: Arc<watch::Sender<usize>>,
}

impl Events {
    /// Starts delivering. To be called within the runtime.
    pub(crate) fn start(
        namespace: &str,
        destination: Destination,
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
                away: false,
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
            Err(error) => return log::error!("event {}: {error}", E::TOPIC),
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
                "event {} is lost: {MAX_WAITING} others wait for containerd",
                E::TOPIC
            );
        }
    }

    /// How many wait for containerd.
    pub(crate) fn waiting(&self) -> usize {
        *self.waiting.borrow()
    }

    /// Waits until all are delivered, but no longer than `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let mut waiting = self.waiting.subscribe();
        let empty = waiting.wait_for(|count| *count == 0);
        if tokio::time::timeout(limit, empty).await.is_err() {
            log::warning!("containerd did not take all events");
        }
    }
}

struct Publisher {
    destination: Destination,
    reaper: Arc<Reaper>,
    client: Option<EventsClient>,
    /// containerd could not be reached last time.
    away: bool,
}

impl Publisher {
    /// Delivers one event, however long containerd is away.
    async fn deliver(&mut self, envelope: &Envelope) {
        let mut pause = PAUSE.0;
        let mut refusals = 0;
        loop {
            let problem = match self.publish(envelope).await {
                Ok(()) => return,
                Err(ttrpc::Error::RpcStatus(status))
                    if status.code() != ttrpc::Code::UNAVAILABLE =>
                {
                    refusals += 1;
                    status.message
                }
                Err(error) => {
                    // A new connection next time: containerd may have been restarted.
                    self.client = None;
                    error.to_string()
                }
            };
            if refusals == MAX_REFUSALS {
                return log::error!("containerd refuses the event {}: {problem}", envelope.topic);
            }
            log::debug!("publish {}: {problem}", envelope.topic);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn publish(&mut self, envelope: &Envelope) -> ttrpc::Result<()> {
        if self.destination.ttrpc.is_empty() {
            return self.run_publisher(envelope).await;
        }
        let client = match &self.client {
            Some(client) => client,
            None => {
                let path = self.destination.ttrpc.trim_start_matches("unix://");
                let socket = Socket::connect_unix(path).await;
                let was_away = std::mem::replace(&mut self.away, socket.is_err());
                let socket = socket.map_err(|error| ttrpc::Error::Socket(error.to_string()))?;
                if was_away {
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
        client.forward(limit, &request).await.map(drop)
    }

    /// `containerd publish`, as shims did before containerd had a ttrpc socket.
    async fn run_publisher(&self, envelope: &Envelope) -> ttrpc::Result<()> {
        let failed = |error: String| ttrpc::Error::Others(error);
        let mut command = Command::new(&self.destination.publisher);
        command
            .args(["--address", &self.destination.address, "publish"])
            .args(["--topic", &envelope.topic])
            .args(["--namespace", &envelope.namespace])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // The message is smaller than a pipe is.
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| failed(error.to_string()))?;
        command.stdin(Stdio::from(read));
        let child = self
            .reaper
            .spawn(&mut command)
            .map_err(|error| failed(format!("{}: {error}", self.destination.publisher)))?;
        let bytes = envelope
            .event
            .write_to_bytes()
            .map_err(|error| failed(error.to_string()))?;
        let written = std::fs::File::from(write).write_all(&bytes);
        let exit = child.exit.wait().await;
        written.map_err(|error| failed(error.to_string()))?;
        match exit.code {
            0 => Ok(()),
            code => Err(failed(format!("containerd publish ended with {code}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_names_are_containerds() {
        assert_eq!(task::TaskOOM::TOPIC, "/tasks/oom");
        assert_eq!(task::TaskOOM::NAME, "TaskOOM");
        assert_eq!(task::TaskExecAdded::TOPIC, "/tasks/exec-added");
    }
}
