//! WebSockets (RFC 6455), for the server's side of a client and the client's side of a server.
//!
//! * [`Offer`] and [`ClientHandshake`]: the two sides of the handshake.
//! * [`pair`]: two ends, one for the worker and one for the connection, with bounded queues of
//!   messages between them.
//! * [`Connection`]: drives a socket after the handshake: frames, pings, times, the close.
//! * [`Deflate`]: compressed messages (RFC 7692), for the server's side. No side keeps a window
//!   from one message to the next, so that an idle socket holds no memory for it.
//!
//! What a socket holds is bounded and charged: messages grow with the bytes that come and not with
//! what a frame announces, nothing is read while the peer does not read, and long messages are sent
//! in frames of a fixed size.

#![forbid(unsafe_code)]

mod charge;
mod close;
mod connection;
mod deflate;
mod frames;
mod handshake;
mod limits;
mod queue;

pub use charge::MemoryCharge;
pub use close::{Close, CloseError, code};
pub use connection::{Connection, SocketOutcome};
pub use deflate::Deflate;
pub use frames::Role;
pub use handshake::{BadAnswer, BadOffer, ClientHandshake, Offer, is_token};
pub use limits::Limits;
pub use queue::{End, Event, Message, NotSent, Receiver, Sender, pair};
