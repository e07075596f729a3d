//! Outgoing HTTP of guests.
//!
//! There is one [`Client`] for a process and one [`Policy`] for a worker. Requests reach only hosts
//! of the worker's allow list; every redirect is checked like the first request; the addresses of a
//! host are checked after its name was resolved, and the connection goes to an address that was
//! checked, not to the result of a second look-up.
//!
//! The checks of a request, in this order, repeated for every redirect:
//!
//! 1. the URL is parsed as the URL standard says, so that it has one meaning;
//! 2. scheme, host and port, and method are checked against the policy;
//! 3. the addresses of the host come from the operator ([`Overrides`]), the URL itself, or the DNS
//!    ([`Dns`]);
//! 4. each address is checked against the table of non-public addresses, unless the operator or the
//!    allow list named it;
//! 5. the request uses a pooled connection for the same host and the same admitted addresses, or a
//!    new one to these.
//!
//! With a proxy ([`Proxies`]), which the operator chooses explicitly, steps 3 to 5 differ: a name
//! that the allow list spells out is resolved by the proxy, and where the proxy connects is up to
//! its operator. Any other name is resolved and checked here, and the proxy gets the checked
//! address.

#![forbid(unsafe_code)]

mod body;
mod client;
mod coding;
mod connect;
mod decode;
mod error;
mod exchange;
mod headers;
mod host;
mod memory;
mod options;
mod overrides;
mod policy;
mod proxy;
mod redirect;
mod resolve;
mod roots;
mod routes;
mod sending;
mod socket;
mod system;

pub use body::ResponseBody;
pub use client::{Client, Connections};
pub use coding::Decode;
pub use error::{Error, ErrorKind, Reason};
pub use headers::header_map;
pub use memory::MemoryCharge;
pub use options::{AnsweredBy, ClientOptions, KeepRedirects, Timeouts};
pub use overrides::{OverrideError, Overrides};
pub use policy::{NetworkError, Policy, PolicyError, PolicyLimits};
pub use proxy::{Proxies, ProxyError};
pub use resolve::{Dns, HostNames};
pub use roots::Roots;
pub use socket::OpenedSocket;
