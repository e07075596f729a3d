//! The gRPC service of `words.proto`. HTTP/2 and the end of a call as trailers are the server's,
//! messages and statuses are tonic's.

use futures_lite::stream::{self, Stream, try_unfold};
use prost::Message;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;
use wstd::http::{self, Body, Error};

/// The message of `words.proto`, as `prost-build` would write it.
#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[wstd::http_server]
async fn main(request: http::Request<Body>) -> Result<http::Response<Body>, Error> {
    let request = request.map(Body::into_boxed_body);
    let mut grpc = Grpc::new(ProstCodec::<Text, Text>::default());
    let response = match request.uri().path() {
        "/words.Words/Upper" => grpc.unary(service_fn(upper), request).await,
        "/words.Words/Split" => grpc.server_streaming(service_fn(split), request).await,
        "/words.Words/Join" => grpc.client_streaming(service_fn(join), request).await,
        "/words.Words/Shout" => grpc.streaming(service_fn(shout), request).await,
        path => Status::unimplemented(format!("no method {path}")).into_http(),
    };
    Ok(response.map(Body::from_http_body::<tonic::body::Body>))
}

async fn upper(request: Request<Text>) -> Result<Response<Text>, Status> {
    let text = request.into_inner().text;
    if text.is_empty() {
        return Err(Status::invalid_argument("no text"));
    }
    Ok(Response::new(Text {
        text: text.to_uppercase(),
    }))
}

type Texts = Result<Text, Status>;

async fn split(request: Request<Text>) -> Result<Response<impl Stream<Item = Texts>>, Status> {
    let text = request.into_inner().text;
    let words: Vec<_> = text
        .split_whitespace()
        .map(|word| Ok(Text { text: word.into() }))
        .collect();
    Ok(Response::new(stream::iter(words)))
}

async fn join(request: Request<Streaming<Text>>) -> Result<Response<Text>, Status> {
    let mut texts = request.into_inner();
    let mut words = Vec::new();
    while let Some(Text { text }) = texts.message().await? {
        words.push(text);
    }
    let text = words.join(" ");
    Ok(Response::new(Text { text }))
}

async fn shout(
    request: Request<Streaming<Text>>,
) -> Result<Response<impl Stream<Item = Texts>>, Status> {
    let shouted = try_unfold(request.into_inner(), |mut texts| async {
        let text = texts.message().await?;
        Ok(text.map(|Text { text }| {
            let text = text.to_uppercase();
            (Text { text }, texts)
        }))
    });
    Ok(Response::new(shouted))
}
