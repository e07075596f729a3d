//! The client against real servers on loopback: HTTP, HTTPS, DNS. One program: it links the crate
//! once.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub
)]

mod addresses;
mod cancel;
mod coding;
mod common;
mod limits;
mod pool;
mod proxies;
mod redirects;
mod streams;
mod tls;
