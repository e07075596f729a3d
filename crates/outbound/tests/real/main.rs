//! The client against real servers on loopback: HTTP, HTTPS, DNS. One program: it links the crate once.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub
)]

mod addresses;
mod common;
mod limits;
mod pool;
mod redirects;
mod tls;
