//! How a guest's run ends.

use bytes::Bytes;

use crate::error::CallError;

/// A whole response, or `None` if the guest passed the head of one while it ran.
pub(crate) type RunEnd = Result<Option<http::Response<Bytes>>, CallError>;
