//! HTTP that guests may send.
//!
//! One [`Client`] for a process, one [`Policy`] for a worker. Nothing leaves that the worker's allow list does not have;
//! every redirect is checked as the first request was; a host's addresses are checked after its name was resolved, and the
//! connection goes to an address that was checked, never to what a second look-up may say.
//!
//! What a request passes, in this order, and again at every redirect:
//!
//! 1. the URL is read as the URL standard says, so that there is one reading of it;
//! 2. scheme, host and port, and method against the policy;
//! 3. the host's addresses: the operator's word ([`Overrides`]), the address in the URL itself, or the DNS ([`Dns`]);
//! 4. each address against the table of what is not the public internet, unless the operator or the allow list named it;
//! 5. a pooled connection that was made for the same host and the same admitted addresses, else a new one to these.
//!
//! Through a proxy ([`Proxies`]), which is the operator's explicit choice, 3 to 5 are so: a name that the allow list writes
//! out is the proxy's to look up, and where the proxy connects is for its operator to bound. Any other name is looked up and
//! checked here, and the proxy is given the address that was checked.

mod address;
mod body;
mod client;
mod connect;
mod decode;
mod error;
mod headers;
mod host;
mod memory;
mod overrides;
mod policy;
mod proxy;
mod redirect;
mod resolve;
mod roots;
mod system;

pub use client::{AnsweredBy, Client, ClientOptions, Connections, KeepRedirects};
pub use decode::Decode;
pub use error::{Error, ErrorKind};
pub use headers::header_map;
pub use memory::MemoryCharge;
pub use overrides::{OverrideError, Overrides};
pub use policy::{NetworkError, Policy, PolicyError, PolicyLimits};
pub use proxy::{Proxies, ProxyError};
pub use resolve::Dns;
pub use roots::Roots;
