//! Errors as containerd receives them.

use containerd_shim_protos::ttrpc::{self, Code};

use crate::error::{Error, ErrorCode};

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(
            status_code(error.code()),
            format!("{error:#}"),
        ))
    }
}

/// Returns the status code of the protocol: a number of gRPC, from which containerd makes its own
/// errors.
fn status_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::NotFound => Code::NOT_FOUND,
        ErrorCode::AlreadyExists => Code::ALREADY_EXISTS,
        ErrorCode::FailedPrecondition => Code::FAILED_PRECONDITION,
        ErrorCode::InvalidArgument => Code::INVALID_ARGUMENT,
        ErrorCode::Unimplemented => Code::UNIMPLEMENTED,
        ErrorCode::RuntimeMissing | ErrorCode::RuntimeSilent | ErrorCode::Unknown => Code::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_receives_the_code_and_the_chain() {
        let error = Error::not_found("no container c1").context("exec e1");
        let ttrpc::Error::RpcStatus(status) = error.into() else {
            unreachable!("an error becomes a status")
        };
        assert_eq!(status.code(), Code::NOT_FOUND);
        assert_eq!(status.message, "exec e1: no container c1");
    }
}
