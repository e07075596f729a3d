//! A constant answer by wasi:http 0.3.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Hello;

wasip3::http::service::export!(Hello);

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let headers = Fields::new();
        headers
            .append("content-type", b"text/plain")
            .expect("a header that the host takes");
        let (mut body, contents) = wit_stream::new();
        let (trailers, trailers_result) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(headers, Some(contents), trailers_result);
        drop(trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(b"hello".to_vec()).await;
        });
        Ok(response)
    }
}
