//! The body of the request back, as it comes. With `?by=splice` the host moves the bytes.

use support::{Answer, Target};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use wasip2::io::streams::StreamError;

struct Echo;

wasip2::http::proxy::export!(Echo);

impl Guest for Echo {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let kind = request.headers().get("content-type").pop();
        let kind = kind.and_then(|kind| String::from_utf8(kind).ok());
        let body = request.consume().expect("the body for the first time");
        let input = body.stream().expect("the stream for the first time");
        let kind = kind.as_deref().unwrap_or("application/octet-stream");
        let answer = Answer::start(out, 200, &[("content-type", kind)]);
        let done = if target.parameter("by") == Some("splice") {
            splice(&answer, &input)
        } else {
            support::for_each_part(&input, |part| answer.write_permitted(part))
        };
        match done {
            Ok(()) => answer.finish(),
            // Without an end, the client sees that the body is not complete.
            Err(error) => eprintln!("the echo ended early: {error}"),
        }
    }
}

fn splice(answer: &Answer, input: &wasip2::io::streams::InputStream) -> Result<(), StreamError> {
    loop {
        match answer.stream().blocking_splice(input, 64 * 1024) {
            Ok(_) => {}
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
