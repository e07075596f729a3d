//! Bodies that a worker reads as they come: of its request, and of what its own requests were
//! answered.

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use wws_engine::{
    BodyError, BodyStream, Call, Charge, FetchError, FetchedBody, NoMemory, ProgramError,
    RequestBody, Vm, wasmtime::Error,
};

/// A request body of a known size of up to this many bytes is there when the worker is called:
/// workers of Wasm Workers Server 1.x use it as a text, and few questions are asked for it.
const WHOLE: u64 = 1 << 20;

/// A response of a known size of at most this many bytes is read at once.
pub(crate) const SHORT: u64 = 64 << 10;

/// A body that is read as it comes.
pub(crate) enum IncomingBody {
    Request(BodyStream),
    Response(Box<FetchedBody>),
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IncomingError {
    #[error("the body of the request: {0}")]
    Request(#[from] BodyError),
    #[error("{}", .0.message)]
    Response(FetchError),
    #[error(
        "the body of the request has more than {0} bytes (`limits.buffers`): read it piece by piece"
    )]
    TooLarge(u64),
    #[error("the body of the request: {0}")]
    Memory(#[from] NoMemory),
}

impl IncomingBody {
    /// The next piece with bytes; trailers are left out.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, IncomingError> {
        loop {
            let frame = match self {
                Self::Request(body) => body.frame().await.transpose()?,
                Self::Response(body) => {
                    let frame = body.frame().await;
                    frame.transpose().map_err(IncomingError::Response)?
                }
            };
            match frame.map(|frame| frame.into_data()) {
                None => return Ok(None),
                Some(Ok(data)) if !data.is_empty() => return Ok(Some(data)),
                Some(_) => {}
            }
        }
    }

    /// The rest of the body, of at most `max` bytes if it is the request's, which are charged to
    /// `charge`.
    pub(crate) async fn read_all(self, max: u64, charge: Charge) -> Result<Bytes, IncomingError> {
        match self {
            Self::Request(body) => collect(body, max, charge).await,
            Self::Response(body) => body.read_all().await.map_err(IncomingError::Response),
        }
    }
}

/// Reads a request's body to its end.
async fn collect(
    mut body: BodyStream,
    max: u64,
    mut charge: Charge,
) -> Result<Bytes, IncomingError> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else {
            continue;
        };
        let len = all.len() + piece.len();
        if len as u64 > max {
            return Err(IncomingError::TooLarge(max));
        }
        if len > all.capacity() {
            let most = usize::try_from(max).unwrap_or(usize::MAX);
            let capacity = len.max(2 * all.capacity()).min(most);
            // The old bytes are there until they were copied.
            let both = (capacity + all.capacity()) as u64;
            if !charge.grow_to(both) {
                return Err(NoMemory(both).into());
            }
            all.reserve_exact(capacity - all.len());
        }
        all.extend_from_slice(&piece);
    }
    charge.shrink_to(all.capacity() as u64);
    Ok(charge.hold(all.into()))
}

/// A call with the body of its request if that is short, or the stream of it.
pub(crate) async fn open(
    vm: &mut Vm,
    call: Call<RequestBody>,
) -> Result<(Call, Option<BodyStream>), ProgramError> {
    let (head, body) = call.request.into_parts();
    let (bytes, stream) = match body {
        RequestBody::Collected(bytes) => (bytes, None),
        RequestBody::Stream(stream) => match stream.size_hint().exact() {
            Some(size) if size <= WHOLE => {
                let charge = vm.host().hold(size).map_err(Error::new)?;
                let reading = RequestBody::Stream(stream).collect(size);
                (charge.hold(vm.wait(reading).await?), None)
            }
            _ => (Bytes::new(), Some(stream)),
        },
    };
    let call = Call {
        request: http::Request::from_parts(head, bytes),
        params: call.params,
        request_id: call.request_id,
    };
    Ok((call, stream))
}
