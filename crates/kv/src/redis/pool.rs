//! Connections to Redis. Each carries the commands of many tasks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::RedisOptions;
use super::command::{Command, Naming};
use super::connect::Connector;
use super::failure::{ConnectError, Failure};
use super::link::Link;
use super::reply::{FromReply, ReplyReader};
use crate::error::Error;

/// Connections at most.
const CONNECTIONS: usize = 4;

/// A connection with so many commands without a reply is left to them, and the next one is used.
/// The fewer connections, the more commands one write carries.
const CROWDED: usize = 128;

/// Time in which no attempt to connect follows one that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that was not used for so long is tried before a command that must not be repeated.
const IDLE: Duration = Duration::from_millis(500);

/// Whether a command may be sent again if its connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Twice is as once.
    Harmless,
    /// It may have been executed.
    Never,
}

/// Which connection carries a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Any that is not crowded.
    Any,
    /// The first: what is sent on it arrives in order.
    First,
    /// The last: replies that may be large hold up no others there, but when all are crowded.
    Last,
}

pub(super) struct Pool {
    connector: Arc<Connector>,
    slots: [Slot; CONNECTIONS],
    /// The runtime that serves the connections. Calls may run in others, whose threads give way.
    runtime: Option<Handle>,
}

/// A connection that may be open.
#[derive(Default)]
struct Slot {
    link: Mutex<Option<Arc<Link>>>,
    /// Held by who connects. The last attempt, if it failed.
    connecting: tokio::sync::Mutex<Option<(Instant, ConnectError)>>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if it is open.
    fn open(&self) -> Option<Arc<Link>> {
        let link = self.lock().clone()?;
        (!link.has_ended()).then_some(link)
    }
}

impl Pool {
    pub(super) fn new(url: &str, options: RedisOptions) -> Result<Self, Error> {
        Ok(Self {
            connector: Arc::new(Connector::new(url, options)?),
            slots: Default::default(),
            runtime: Handle::try_current().ok(),
        })
    }

    /// Runs a command.
    pub(super) async fn run<T: FromReply>(
        &self,
        way: Way,
        command: &Command,
        repeat: Repeat,
    ) -> Result<T, Failure> {
        self.run_with(way, command, repeat, T::read).await
    }

    /// Runs a command, and reads its reply in place.
    pub(super) async fn run_with<T>(
        &self,
        way: Way,
        command: &Command,
        repeat: Repeat,
        read: impl FnOnce(&mut ReplyReader<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut naming = Naming::Hash;
        let mut is_repeated = false;
        let reply = loop {
            let link = self.link(way, repeat).await?;
            match link.send(command, naming).await {
                Ok(reply) if naming == Naming::Hash && lacks_script(command, &reply) => {
                    naming = Naming::Text;
                }
                Ok(reply) => break reply,
                Err(Failure::NotSent(_)) if !is_repeated => is_repeated = true,
                Err(Failure::Lost(_)) if repeat == Repeat::Harmless && !is_repeated => {
                    is_repeated = true;
                }
                Err(failure) => return Err(failure),
            }
        };
        let mut reply = ReplyReader::new(&reply);
        command.skip_to_result(&mut reply)?;
        read(&mut reply)
    }

    /// A connection that is open.
    async fn link(&self, way: Way, repeat: Repeat) -> Result<Arc<Link>, Failure> {
        let slot = match way {
            Way::First => &self.slots[0],
            Way::Last => &self.slots[CONNECTIONS - 1],
            Way::Any => self.least_crowded(),
        };
        if let Some(link) = slot.open()
            && self.is_alive(&link, repeat).await
        {
            return Ok(link);
        }
        self.connect(slot).await
    }

    /// The first slot that is not crowded, or else the least crowded one.
    fn least_crowded(&self) -> &Slot {
        let (mut best, mut least) = (&self.slots[0], usize::MAX);
        for slot in &self.slots {
            let waiting = slot.lock().as_ref().map_or(0, |link| link.waiting());
            if waiting < CROWDED {
                return slot;
            }
            if waiting < least {
                (best, least) = (slot, waiting);
            }
        }
        best
    }

    /// Tries a connection that was idle, before a command that must not be repeated.
    async fn is_alive(&self, link: &Link, repeat: Repeat) -> bool {
        if repeat == Repeat::Harmless || link.idle() <= IDLE {
            return true;
        }
        let ping = Command::new("PING");
        link.send(&ping, Naming::Hash).await.is_ok()
    }

    async fn connect(&self, slot: &Slot) -> Result<Arc<Link>, Failure> {
        let mut attempt = slot.connecting.lock().await;
        // Another one may have connected meanwhile.
        if let Some(link) = slot.open() {
            return Ok(link);
        }
        // Those who wait here get the error of the one who tried.
        if let Some((at, error)) = &*attempt
            && at.elapsed() < PAUSE
        {
            return Err(Failure::NotConnected(error.clone()));
        }
        let connector = self.connector.clone();
        let opening = async move { connector.open().await };
        let opened = match &self.runtime {
            Some(runtime) => runtime.spawn(opening).await,
            None => tokio::spawn(opening).await,
        };
        let opened = opened.unwrap_or(Err(ConnectError::ShuttingDown));
        match opened {
            Ok(link) => {
                let link = Arc::new(link);
                *attempt = None;
                *slot.lock() = Some(link.clone());
                Ok(link)
            }
            Err(error) => {
                *attempt = Some((Instant::now(), error.clone()));
                *slot.lock() = None;
                Err(Failure::NotConnected(error))
            }
        }
    }
}

/// Whether Redis does not know the script of a command, or may not be asked for it by its hash.
fn lacks_script(command: &Command, reply: &[u8]) -> bool {
    let codes: [&[u8]; 2] = [b"-NOSCRIPT", b"-NOPERM"];
    command.is_script() && codes.iter().any(|code| reply.starts_with(code))
}
