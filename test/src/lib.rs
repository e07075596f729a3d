//! What the end-to-end tests stand on: a private containerd, containers in it, the outside service,
//! and a look at what is left when they are gone.
//!
//! Nothing here touches a containerd, a Docker or a container that it did not start itself:
//! everything that belongs to a test carries its [`mark`], and only that is ever looked for, ended
//! or removed.

#![forbid(unsafe_code)]

pub mod bridge;
pub mod cluster;
pub mod collector;
pub mod command;
pub mod container;
pub mod containerd;
mod daemon;
pub mod docker;
pub mod groups;
pub mod http;
pub mod image;
pub mod leftovers;
pub mod mark;
pub mod nerdctl;
pub mod network;
pub mod one_file;
pub mod pods;
pub mod port;
pub mod registry;
pub mod server;
pub mod stand_in;
pub mod system;
pub mod usage;
pub mod user_generation;
pub mod wait;
pub mod workspace;
