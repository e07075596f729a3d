//! How containerd is told of an error.

use containerd_shim_protos::ttrpc::{self, Code};

use crate::error::Error;

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(code(&error), error))
    }
}

/// The status code of the wire (the numbers of gRPC; containerd's errdefs are made from them).
fn code(error: &Error) -> Code {
    match error {
        Error::NotFound(_) => Code::NOT_FOUND,
        Error::AlreadyExists(_) => Code::ALREADY_EXISTS,
        Error::FailedPrecondition(_) => Code::FAILED_PRECONDITION,
        Error::InvalidArgument(_) => Code::INVALID_ARGUMENT,
        Error::Unimplemented(_) => Code::UNIMPLEMENTED,
        Error::NoRuntime(_) | Error::Unexplained(_) | Error::Other(_) => Code::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_sees_the_code_and_the_plain_text() {
        let error = Error::NotFound("no container c1".to_owned()).context("exec e1");
        let ttrpc::Error::RpcStatus(status) = error.into() else {
            unreachable!("an error becomes a status")
        };
        assert_eq!(status.code(), Code::NOT_FOUND);
        assert_eq!(status.message, "exec e1: no container c1");
    }
}
