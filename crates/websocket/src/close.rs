//! How a socket is closed.

/// Bytes of a close's reason: what a control frame holds besides the code.
const MAX_REASON: usize = 123;

/// Codes of RFC 6455, 7.4.1, and of its registry.
pub mod code {
    /// The purpose of the socket is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The server stops, or the time is over.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer breaks the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// The close had no code. Never sent.
    pub const NONE: u16 = 1005;
    /// The connection ended without a close. Never sent.
    pub const ABNORMAL: u16 = 1006;
    /// A text is not UTF-8.
    pub const INVALID: u16 = 1007;
    /// A message is too large.
    pub const TOO_LARGE: u16 = 1009;
    /// The worker failed.
    pub const INTERNAL: u16 = 1011;
    /// The server has no memory for more.
    pub const TRY_AGAIN: u16 = 1013;
}

/// How a socket is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// See [`code`]. `None`: the close has no code.
    pub code: Option<u16>,
    /// For people.
    pub reason: String,
}

/// Why a close cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// No close has this code.
    #[error("{0} is not a close code that can be sent: 1000 to 1003, 1007 to 1014, 3000 to 4999")]
    Code(u16),
    /// The reason is too long.
    #[error("the reason of a close has at most {MAX_REASON} bytes, this one {0}")]
    Reason(usize),
}

impl Close {
    /// A close that can be sent. A reason needs a code; without one it is that of a normal close.
    ///
    /// # Errors
    /// The code is reserved, or the reason too long.
    pub fn new(code: Option<u16>, reason: &str) -> Result<Self, CloseError> {
        if let Some(code) = code
            && !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
        {
            return Err(CloseError::Code(code));
        }
        if reason.len() > MAX_REASON {
            return Err(CloseError::Reason(reason.len()));
        }
        let code = code.or((!reason.is_empty()).then_some(code::NORMAL));
        Ok(Self {
            code,
            reason: reason.to_owned(),
        })
    }

    /// A close with a code and a short reason of the server's own.
    #[must_use]
    pub fn with(code: u16, reason: &'static str) -> Self {
        Self {
            code: Some(code),
            reason: reason.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_codes_and_long_reasons_cannot_be_sent() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert_eq!(Close::new(Some(code), ""), Err(CloseError::Code(code)));
        }
        for code in [1000, 1003, 1007, 1014, 3000, 4999] {
            assert!(Close::new(Some(code), "bye").is_ok(), "{code}");
        }
        let long = "é".repeat(62);
        assert_eq!(Close::new(Some(1000), &long), Err(CloseError::Reason(124)));
    }

    #[test]
    fn a_reason_has_a_code() {
        let close = Close::new(None, "bye").map(|close| close.code);
        assert_eq!(close, Ok(Some(code::NORMAL)));
        assert_eq!(Close::new(None, "").map(|close| close.code), Ok(None));
    }
}
