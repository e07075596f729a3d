//! The gRPC service of `images/components/rust/grpc`, a component, called by the client of tonic.

use std::fs;
use std::future::ready;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use futures_util::stream::{self, Stream, unfold};
use prost::Message;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use wws_test::server::Server;
use wws_test::wait::patience;
use wws_test::workspace;

/// The longest time for a call.
const CALL: Duration = Duration::from_secs(30);

/// The message of `words.proto`.
#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

/// A service, and a connection to it.
struct Words {
    channel: Channel,
    server: Server,
    _project: TempDir,
}

impl Words {
    async fn serve() -> Result<Self> {
        let project = tempfile::tempdir()?;
        let service = project.path().join("words.Words");
        fs::create_dir(&service)?;
        let guest = workspace::guest("component-grpc")?;
        fs::copy(guest, service.join("[method].wasm"))?;
        let server = Server::start(project.path(), project.path().join("_log"), &[])?;
        let channel = Endpoint::try_from(format!("http://127.0.0.1:{}", server.port()))?
            .timeout(patience(CALL))
            .connect()
            .await?;
        Ok(Self {
            channel,
            server,
            _project: project,
        })
    }

    async fn client(&self) -> Result<Grpc<Channel>> {
        let mut client = Grpc::new(self.channel.clone())
            .max_decoding_message_size(16 << 20)
            .max_encoding_message_size(16 << 20);
        client.ready().await?;
        Ok(client)
    }

    async fn unary(&self, method: &str, message: Text) -> Result<Result<String, Status>> {
        let mut client = self.client().await?;
        let (path, codec) = (path(method)?, ProstCodec::<Text, Text>::default());
        let answer = client.unary(Request::new(message), path, codec).await;
        Ok(answer.map(|answer| answer.into_inner().text))
    }

    /// A call of both streams.
    async fn shout(
        &self,
        texts: impl Stream<Item = Text> + Send + 'static,
    ) -> Result<tonic::Streaming<Text>> {
        let mut client = self.client().await?;
        let (path, codec) = (path("Shout")?, ProstCodec::<Text, Text>::default());
        let answer = client.streaming(Request::new(texts), path, codec).await?;
        Ok(answer.into_inner())
    }
}

fn path(method: &str) -> Result<PathAndQuery> {
    Ok(format!("/words.Words/{method}").parse()?)
}

/// A status other than OK.
fn fails<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) -> Result<()> {
    let status = result.err().context("no failure")?;
    ensure!(status.code() == code, "{status}");
    ensure!(status.message().contains(text), "{status}");
    Ok(())
}

#[tokio::test]
async fn single_messages_and_statuses() -> Result<()> {
    let words = Words::serve().await?;
    ensure!(words.unary("Upper", text("hello")).await?? == "HELLO");
    let long = "x".repeat(3 << 20);
    ensure!(words.unary("Upper", text(&*long)).await?? == long.to_uppercase());

    let empty = words.unary("Upper", text("")).await?;
    fails(empty, Code::InvalidArgument, "no text")?;
    let unknown = words.unary("Lower", text("HELLO")).await?;
    fails(unknown, Code::Unimplemented, "no method /words.Words/Lower")?;
    // More than tonic's own server takes.
    let too_long = words.unary("Upper", text("x".repeat(5 << 20))).await?;
    fails(too_long, Code::OutOfRange, "message")?;

    // All of them on one connection.
    let calls = (0..200).map(|number| words.unary("Upper", text(format!("call {number}"))));
    let answers = try_join_all(calls).await?;
    for (answer, number) in answers.into_iter().zip(0..) {
        ensure!(answer? == format!("CALL {number}"));
    }
    Ok(())
}

#[tokio::test]
async fn streams_in_either_direction() -> Result<()> {
    let words = Words::serve().await?;
    let mut client = words.client().await?;
    let request = Request::new(text("one two  three"));
    let codec = ProstCodec::<Text, Text>::default();
    let split = client
        .server_streaming(request, path("Split")?, codec)
        .await?;
    let mut split = split.into_inner();
    for word in ["one", "two", "three"] {
        ensure!(split.message().await? == Some(text(word)));
    }
    ensure!(split.message().await?.is_none());

    let mut client = words.client().await?;
    let request = Request::new(stream::iter(["one", "two", "three"].map(text)));
    let codec = ProstCodec::<Text, Text>::default();
    let joined = client
        .client_streaming(request, path("Join")?, codec)
        .await?;
    ensure!(joined.into_inner() == text("one two three"));
    Ok(())
}

#[tokio::test]
async fn both_streams_at_once() -> Result<()> {
    let words = Words::serve().await?;
    let (sender, receiver) = mpsc::channel(1);
    let texts = unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|text| (text, receiver))
    });
    let mut shouted = words.shout(texts).await?;
    // Each is answered before the next is sent.
    for word in ["one", "two", "three"] {
        sender.send(text(word)).await?;
        ensure!(shouted.message().await? == Some(text(word.to_uppercase())));
    }
    drop(sender);
    ensure!(shouted.message().await?.is_none());

    // A failure after the first message is the status at the end.
    let texts = stream::iter([text("one"), text("x".repeat(5 << 20))]);
    let mut shouted = words.shout(texts).await?;
    ensure!(shouted.message().await? == Some(text("ONE")));
    fails(shouted.message().await, Code::OutOfRange, "message")?;
    Ok(())
}

#[test]
fn a_client_that_leaves_ends_the_call() -> Result<()> {
    let client = Runtime::new()?;
    let words = client.block_on(Words::serve())?;
    client.block_on(async {
        let first = stream::once(ready(text("one")));
        let texts = stream::StreamExt::chain(first, stream::pending());
        let mut shouted = words.shout(texts).await?;
        ensure!(shouted.message().await? == Some(text("ONE")));
        Ok(())
    })?;
    // The connection is closed with its runtime.
    drop(client);
    words.server.logged(0, "aborted_by=\"client\"")
}
