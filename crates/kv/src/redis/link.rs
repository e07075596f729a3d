//! A connection, which carries the commands of many tasks.
//!
//! Tasks append their commands to one buffer and wait. The driver, a task of the connection, writes
//! what has gathered at once, and passes on the replies, which come in the same order.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::command::{Command, Naming};
use super::failure::Failure;
use super::reply::{MAX_REPLY, ReplyScanner, Scanned};

/// Time for the answer to a command.
const ANSWER: Duration = Duration::from_secs(2);

/// Bytes of the buffers of a connection that waits.
const BUFFER: usize = 16 << 10;

/// A stream of bytes to Redis.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// A reply as it came.
type Reply = Result<Vec<u8>, Failure>;

/// A connection that is open, or was. It closes when it is dropped and all have their replies.
pub(super) struct Link {
    queue: Arc<CommandQueue>,
}

struct CommandQueue {
    state: Mutex<QueueState>,
    /// Commands without a reply.
    waiting: AtomicUsize,
}

struct QueueState {
    /// Commands that the driver will write.
    unsent: Vec<u8>,
    /// Who waits for their replies.
    callers: Vec<Caller>,
    /// Wakes the driver, if it sleeps.
    driver: Option<Waker>,
    /// When the last command came.
    used: Instant,
    /// Why the connection has ended.
    ended: Option<Failure>,
    /// No further command will come.
    is_released: bool,
}

/// Who waits for a reply.
struct Caller {
    /// Values of the reply.
    values: usize,
    since: Instant,
    reply: oneshot::Sender<Reply>,
}

impl CommandQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, caller: Caller, reply: Reply) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        // A caller that is gone misses nothing.
        let _ = caller.reply.send(reply);
    }
}

impl Link {
    /// Serves a connection that is ready for commands, by a task of the current runtime.
    pub(super) fn open(stream: Box<dyn ByteStream>) -> Self {
        let queue = Arc::new(CommandQueue {
            state: Mutex::new(QueueState {
                unsent: Vec::new(),
                callers: Vec::new(),
                driver: None,
                used: Instant::now(),
                ended: None,
                is_released: false,
            }),
            waiting: AtomicUsize::new(0),
        });
        tokio::spawn(Driver {
            stream,
            queue: queue.clone(),
            writing: Vec::new(),
            written: 0,
            is_flushed: true,
            has_given_way: false,
            callers: VecDeque::new(),
            received: vec![0; BUFFER],
            filled: 0,
            scanner: ReplyScanner::default(),
            deadline: None,
        });
        Self { queue }
    }

    /// Whether the connection has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.queue.lock().ended.is_some()
    }

    /// Commands that wait for their replies.
    pub(super) fn waiting(&self) -> usize {
        self.queue.waiting.load(Ordering::Relaxed)
    }

    /// The time since the last command.
    pub(super) fn idle(&self) -> Duration {
        self.queue.lock().used.elapsed()
    }

    /// Sends a command, after those that were sent before, and waits for its reply.
    pub(super) async fn send(&self, command: &Command, naming: Naming) -> Reply {
        let (sender, receiver) = oneshot::channel();
        let now = Instant::now();
        let driver = {
            let mut state = self.queue.lock();
            if let Some(failure) = &state.ended {
                return Err(Failure::NotSent(Arc::new(failure.clone())));
            }
            command.write(&mut state.unsent, naming);
            state.callers.push(Caller {
                values: command.replies(),
                since: now,
                reply: sender,
            });
            state.used = now;
            // Within the lock: the driver counts the reply only after this.
            self.queue.waiting.fetch_add(1, Ordering::Relaxed);
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let driver = {
            let mut state = self.queue.lock();
            state.is_released = true;
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

/// The task of a connection.
struct Driver {
    stream: Box<dyn ByteStream>,
    queue: Arc<CommandQueue>,
    /// Commands that are being written.
    writing: Vec<u8>,
    written: usize,
    is_flushed: bool,
    /// Whether the tasks that were ready have run since there was something to write.
    has_given_way: bool,
    /// Who waits for the replies to what is or was written.
    callers: VecDeque<Caller>,
    received: Vec<u8>,
    /// Bytes of `received` that have come.
    filled: usize,
    scanner: ReplyScanner,
    /// Wakes the driver when the first caller has waited for too long, or earlier.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// What the driver does next.
enum Next {
    /// Something was written, or can be.
    Again,
    Wait,
    Close,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let ended = loop {
            match this.advance(context) {
                Ok(Next::Again) => {}
                Ok(Next::Wait) => return Poll::Pending,
                Ok(Next::Close) => break Failure::Lost("the connection is closed".into()),
                Err(failure) => break failure,
            }
        };
        this.end(ended);
        Poll::Ready(())
    }
}

impl Driver {
    fn advance(&mut self, context: &mut Context<'_>) -> Result<Next, Failure> {
        self.read(context)?;
        let next = match self.take_commands(context) {
            Next::Again => match self.write(context)? {
                Poll::Ready(()) => Next::Again,
                Poll::Pending => Next::Wait,
            },
            next => next,
        };
        self.check_time(context)?;
        Ok(next)
    }

    /// Takes the commands that have gathered, once what was taken before is written.
    fn take_commands(&mut self, context: &mut Context<'_>) -> Next {
        if !self.writing.is_empty() || !self.is_flushed {
            return Next::Again;
        }
        let mut state = self.queue.lock();
        if state.unsent.is_empty() {
            if state.is_released && self.callers.is_empty() {
                return Next::Close;
            }
            state.driver = Some(context.waker().clone());
            return Next::Wait;
        }
        // Other tasks that are ready may have commands, too: they run first, so that one write
        // carries the commands of all.
        if !std::mem::replace(&mut self.has_given_way, true) {
            context.waker().wake_by_ref();
            return Next::Wait;
        }
        self.has_given_way = false;
        std::mem::swap(&mut self.writing, &mut state.unsent);
        self.callers.extend(state.callers.drain(..));
        self.is_flushed = false;
        Next::Again
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Failure> {
        while self.written < self.writing.len() {
            let rest = &self.writing[self.written..];
            match Pin::new(&mut self.stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Err(closed()),
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(error)) => return Err(Failure::Lost(error.to_string())),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Err(Failure::Lost(error.to_string())),
            Poll::Pending => return Ok(Poll::Pending),
        }
        self.is_flushed = true;
        self.written = 0;
        self.writing.clear();
        self.writing.shrink_to(BUFFER);
        Ok(Poll::Ready(()))
    }

    /// Reads what has come, and passes on the replies.
    fn read(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        loop {
            let mut room = ReadBuf::new(&mut self.received[self.filled..]);
            match Pin::new(&mut self.stream).poll_read(context, &mut room) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(Failure::Lost(error.to_string())),
                Poll::Pending => return Ok(()),
            }
            let count = room.filled().len();
            if count == 0 {
                return Err(closed());
            }
            self.filled += count;
            self.pass_on()?;
        }
    }

    /// Passes on the replies that have come.
    fn pass_on(&mut self) -> Result<(), Failure> {
        let mut from = 0;
        while from < self.filled {
            let Some(caller) = self.callers.front() else {
                return Err(Failure::malformed());
            };
            let bytes = &self.received[from..self.filled];
            match self.scanner.scan(bytes, caller.values)? {
                Scanned::Whole(length) => {
                    let reply = match (from, length == self.filled) {
                        // A large reply is not copied.
                        (0, true) if length > BUFFER => {
                            let room = vec![0; BUFFER];
                            let mut whole = std::mem::replace(&mut self.received, room);
                            whole.truncate(length);
                            self.filled = 0;
                            whole
                        }
                        _ => {
                            let reply = bytes[..length].to_vec();
                            from += length;
                            reply
                        }
                    };
                    if let Some(caller) = self.callers.pop_front() {
                        self.queue.answer(caller, Ok(reply));
                    }
                }
                Scanned::AtLeast(length) => {
                    self.make_room(from, length)?;
                    return Ok(());
                }
            }
        }
        self.filled = 0;
        if self.received.len() > BUFFER {
            self.received = vec![0; BUFFER];
        }
        Ok(())
    }

    /// Moves a reply that is not complete to the start, and makes room for more of it.
    fn make_room(&mut self, from: usize, length: usize) -> Result<(), Failure> {
        if length > MAX_REPLY {
            return Err(Failure::Lost(format!("a reply of {length} bytes or more")));
        }
        self.received.copy_within(from..self.filled, 0);
        self.filled -= from;
        let size = self.received.len();
        if length > size {
            // What is announced is believed step by step.
            self.received.resize((length + BUFFER).min(2 * size), 0);
        }
        Ok(())
    }

    /// Ends a connection whose first caller has waited for too long.
    fn check_time(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        let Some(first) = self.callers.front() else {
            // A deadline that is left passes once, and is not set again.
            if let Some(deadline) = &mut self.deadline
                && deadline.as_mut().poll(context).is_ready()
            {
                self.deadline = None;
            }
            return Ok(());
        };
        let due = first.since + ANSWER;
        loop {
            let deadline = self
                .deadline
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if deadline.as_mut().poll(context).is_pending() {
                return Ok(());
            }
            if due <= Instant::now() {
                return Err(Failure::TimedOut);
            }
            deadline.as_mut().reset(due);
        }
    }

    /// Answers all who wait, unless it has ended before.
    fn end(&mut self, failure: Failure) {
        let unsent = {
            let mut state = self.queue.lock();
            if state.ended.is_some() {
                return;
            }
            state.ended = Some(failure.clone());
            state.unsent = Vec::new();
            std::mem::take(&mut state.callers)
        };
        for caller in self.callers.drain(..) {
            self.queue.answer(caller, Err(failure.clone()));
        }
        for caller in unsent {
            let failure = match &failure {
                Failure::TimedOut => Failure::TimedOut,
                other => Failure::NotSent(Arc::new(other.clone())),
            };
            self.queue.answer(caller, Err(failure));
        }
    }
}

/// As the runtime ends, too.
impl Drop for Driver {
    fn drop(&mut self) {
        self.end(Failure::Lost("the connection is closed".into()));
    }
}

fn closed() -> Failure {
    Failure::Lost("Redis has closed the connection".into())
}
