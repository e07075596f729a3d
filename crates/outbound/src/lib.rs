//! x
use bytes::Bytes;
#[derive(Clone)] pub struct Policy;
#[derive(Clone)] pub struct Client;
#[derive(Clone, Copy, Debug)]
pub enum ErrorKind { InvalidRequest, InvalidRequestBody, InvalidResponseBody, NotAllowed, Internal, Timeout, RedirectLoop }
pub struct Error { pub kind: ErrorKind, pub message: String }
impl Client { pub async fn send(&self, _p: &Policy, _r: http::Request<Bytes>) -> Result<http::Response<Bytes>, Error> { Err(Error{kind: ErrorKind::Internal, message: String::new()}) } }
