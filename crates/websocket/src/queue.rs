//! The two ends of a socket, and the queues of messages between them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::charge::MemoryCharge;
use crate::close::Close;

/// What a message costs in a queue besides its bytes.
const ENTRY: u64 = 64;

/// The number of events for which an empty queue keeps memory.
const KEPT_EVENTS: usize = 64;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text, which is UTF-8.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
}

impl Message {
    /// The content.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        let (Self::Text(bytes) | Self::Binary(bytes)) = self;
        bytes
    }

    fn cost(&self) -> u64 {
        self.bytes().len() as u64 + ENTRY
    }
}

/// What comes out of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message(Message),
    /// The socket is closed, or to be closed. Nothing follows.
    Close {
        /// How.
        close: Close,
        /// The peer has closed it, or agreed to the close.
        clean: bool,
    },
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The receiver is gone.
    #[error("the socket is closed")]
    Closed,
    /// There is no memory to keep the message.
    #[error("no memory to keep a message of {0} bytes")]
    NoMemory(usize),
}

struct Queue {
    state: Mutex<QueueState>,
    /// Bytes that may wait.
    limit: u64,
}

struct QueueState {
    events: VecDeque<Event>,
    /// Bytes that wait.
    bytes: u64,
    /// Bytes that were taken and are still in use.
    taken: u64,
    charge: Box<dyn MemoryCharge>,
    /// Nothing follows what is queued.
    ended: bool,
    /// The receiver is gone.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The end of a queue into which events go.
pub struct Sender(Arc<Queue>);

/// The end of a queue out of which events come.
pub struct Receiver(Arc<Queue>);

fn queue(limit: u64, charge: Box<dyn MemoryCharge>) -> (Sender, Receiver) {
    let queue = Arc::new(Queue {
        state: Mutex::new(QueueState {
            events: VecDeque::new(),
            bytes: 0,
            taken: 0,
            charge,
            ended: false,
            deaf: false,
            reader: None,
            writer: None,
        }),
        limit,
    });
    (Sender(queue.clone()), Receiver(queue))
}

/// One end of a socket.
pub struct End {
    /// To the other end.
    pub sender: Sender,
    /// From the other end.
    pub receiver: Receiver,
}

/// The two ends of a socket. In each direction, `limit` bytes wait, and one message of any size
/// does. What waits is charged to `charges`.
#[must_use]
pub fn pair(limit: u64, charges: [Box<dyn MemoryCharge>; 2]) -> (End, End) {
    let [first, second] = charges;
    let (to_second, from_first) = queue(limit, first);
    let (to_first, from_second) = queue(limit, second);
    let first = End {
        sender: to_second,
        receiver: from_second,
    };
    let second = End {
        sender: to_first,
        receiver: from_first,
    };
    (first, second)
}

impl Sender {
    /// Waits until `more` bytes have room: they fit, or nothing else waits.
    pub fn poll_room(&self, more: u64, context: &Context<'_>) -> Poll<Result<(), NotSent>> {
        let mut state = self.0.lock();
        if state.deaf || state.ended {
            return Poll::Ready(Err(NotSent::Closed));
        }
        if state.events.is_empty() || state.bytes + more <= self.0.limit {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Queues a message, whether there is room or not.
    ///
    /// # Errors
    /// The receiver is gone, or there is no memory for the message.
    pub fn push(&self, message: Message) -> Result<(), NotSent> {
        let mut state = self.0.lock();
        if state.deaf || state.ended {
            return Err(NotSent::Closed);
        }
        let bytes = state.bytes + message.cost();
        let total = bytes + state.taken;
        if !state.charge.resize(total) {
            return Err(NotSent::NoMemory(message.bytes().len()));
        }
        state.bytes = bytes;
        state.events.push_back(Event::Message(message));
        wake(&mut state.reader);
        Ok(())
    }

    /// Queues a message once there is room for it.
    ///
    /// # Errors
    /// The receiver is gone, or there is no memory for the message.
    pub async fn send(&self, message: Message) -> Result<(), NotSent> {
        let cost = message.cost();
        poll_fn(|context| self.poll_room(cost, context)).await?;
        self.push(message)
    }

    /// Ends the queue with a close. The first one counts.
    pub fn close(&self, close: Close, clean: bool) {
        let mut state = self.0.lock();
        if !state.ended && !state.deaf {
            state.ended = true;
            state.events.push_back(Event::Close { close, clean });
            wake(&mut state.reader);
        }
    }

    /// Whether the queue was closed, or its receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let state = self.0.lock();
        state.ended || state.deaf
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        wake(&mut state.reader);
    }
}

impl Receiver {
    /// Takes the next event: `None` if none follows. A message is charged until
    /// [`Self::release`].
    pub fn poll_next(&self, context: &Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.0.lock();
        match state.events.pop_front() {
            Some(event) => {
                if let Event::Message(message) = &event {
                    state.bytes -= message.cost();
                    state.taken += message.cost();
                }
                if state.events.is_empty() && state.events.capacity() > KEPT_EVENTS {
                    // What many small messages took goes with their charge.
                    state.events = VecDeque::new();
                }
                wake(&mut state.writer);
                Poll::Ready(Some(event))
            }
            None if state.ended => Poll::Ready(None),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Releases what was taken, and takes the next event.
    pub async fn next(&self) -> Option<Event> {
        self.release();
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Releases the charge for the messages that were taken: they are no longer in use.
    pub fn release(&self) {
        let mut state = self.0.lock();
        if state.taken > 0 {
            state.taken = 0;
            let bytes = state.bytes;
            // Less than before.
            let _ = state.charge.resize(bytes);
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.deaf = true;
        state.events.clear();
        (state.bytes, state.taken) = (0, 0);
        let _ = state.charge.resize(0);
        wake(&mut state.writer);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use futures_util::FutureExt;

    use super::*;

    /// An account of so many bytes.
    #[derive(Clone)]
    pub(crate) struct Budget {
        pub(crate) left: Arc<AtomicU64>,
    }

    struct Part {
        budget: Budget,
        bytes: u64,
    }

    impl Budget {
        pub(crate) fn new(bytes: u64) -> Self {
            Self {
                left: Arc::new(AtomicU64::new(bytes)),
            }
        }

        pub(crate) fn part(&self) -> Box<dyn MemoryCharge> {
            Box::new(Part {
                budget: self.clone(),
                bytes: 0,
            })
        }
    }

    impl MemoryCharge for Part {
        fn resize(&mut self, bytes: u64) -> bool {
            let all = self.budget.left.load(SeqCst) + self.bytes;
            let Some(left) = all.checked_sub(bytes) else {
                return false;
            };
            self.budget.left.store(left, SeqCst);
            self.bytes = bytes;
            true
        }
    }

    impl Drop for Part {
        fn drop(&mut self) {
            self.resize(0);
        }
    }

    fn text(bytes: usize) -> Message {
        Message::Text(vec![b'a'; bytes].into())
    }

    #[test]
    fn a_full_queue_makes_its_writer_wait() {
        let budget = Budget::new(1 << 20);
        let (one, other) = pair(1000, [budget.part(), budget.part()]);
        for _ in 0..6 {
            one.sender.send(text(100)).now_or_never().unwrap().unwrap();
        }
        assert!(one.sender.send(text(100)).now_or_never().is_none());
        assert_eq!(budget.left.load(SeqCst), (1 << 20) - 6 * 164);
        other.receiver.next().now_or_never().unwrap().unwrap();
        one.sender.send(text(100)).now_or_never().unwrap().unwrap();
        // The one that was taken is still charged.
        assert_eq!(budget.left.load(SeqCst), (1 << 20) - 7 * 164);
        other.receiver.release();
        assert_eq!(budget.left.load(SeqCst), (1 << 20) - 6 * 164);
        drop((one, other));
        assert_eq!(budget.left.load(SeqCst), 1 << 20);
    }

    #[test]
    fn one_message_of_any_size_has_room() {
        let budget = Budget::new(1 << 20);
        let (one, other) = pair(10, [budget.part(), budget.part()]);
        one.sender.send(text(5000)).now_or_never().unwrap().unwrap();
        assert!(one.sender.send(text(0)).now_or_never().is_none());
        let next = other.receiver.next().now_or_never().unwrap();
        assert_eq!(next, Some(Event::Message(text(5000))));
    }

    #[test]
    fn a_message_without_memory_is_not_queued() {
        let budget = Budget::new(1000);
        let (one, other) = pair(1 << 20, [budget.part(), budget.part()]);
        let sent = one.sender.send(text(2000)).now_or_never().unwrap();
        assert_eq!(sent, Err(NotSent::NoMemory(2000)));
        assert!(other.receiver.next().now_or_never().is_none());
    }

    #[test]
    fn a_close_is_the_last_event() {
        let budget = Budget::new(1000);
        let (one, other) = pair(100, [budget.part(), budget.part()]);
        one.sender.send(text(1)).now_or_never().unwrap().unwrap();
        let close = Close::with(1000, "bye");
        one.sender.close(close.clone(), true);
        one.sender.close(Close::with(1011, "later"), true);
        assert_eq!(one.sender.push(text(1)), Err(NotSent::Closed));
        let next = || other.receiver.next().now_or_never().unwrap();
        assert_eq!(next(), Some(Event::Message(text(1))));
        assert_eq!(next(), Some(Event::Close { close, clean: true }));
        assert_eq!(next(), None);
    }

    #[test]
    fn reports_a_closed_peer() {
        let budget = Budget::new(1000);
        let (one, other) = pair(100, [budget.part(), budget.part()]);
        one.sender.send(text(100)).now_or_never().unwrap().unwrap();
        let mut waiting = Box::pin(one.sender.send(text(100)));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(other);
        assert_eq!(waiting.now_or_never(), Some(Err(NotSent::Closed)));
        assert_eq!(one.receiver.next().now_or_never(), Some(None));
        assert_eq!(budget.left.load(SeqCst), 1000);
    }
}
