//! Requests and responses that are passed on as they come.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::limits;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use wws_engine::{
    BodyError, BodySender, Call, CallError, Engine, EngineOptions, Guest, GuestLimits, Program,
    ProgramError, RequestBody, ResponseBody, StreamLimits, StreamedBody, Vm,
};

const INTERPRETER: &str = r#"(module (memory (export "memory") 1)
  (func (export "loop") (loop $l (br $l))))"#;

/// What a call does, and what came of it.
struct Streams {
    act: &'static str,
    ended: Arc<AtomicU32>,
}

impl Program for Streams {
    fn initialise<'a>(&'a self, _: &'a mut Vm) -> BoxFuture<'a, Result<(), ProgramError>> {
        Box::pin(async { Ok(()) })
    }

    fn takes_streams(&self) -> bool {
        true
    }

    fn answer<'a>(
        &'a self,
        vm: &'a mut Vm,
        call: Call<RequestBody>,
    ) -> BoxFuture<'a, Result<Option<http::Response<Bytes>>, ProgramError>> {
        Box::pin(async move {
            if self.act == "whole" {
                let body = call.collect(100).await?.request.into_body();
                return Ok(Some(http::Response::new(body)));
            }
            if self.act == "nothing" {
                return Ok(None);
            }
            let sender = vm.host().start_response(http::Response::new(()));
            assert!(vm.host().start_response(http::Response::new(())).is_none());
            let sender = sender.unwrap();
            self.send(vm, call, sender).await?;
            self.ended.fetch_add(1, Ordering::SeqCst);
            Ok(None)
        })
    }
}

impl Streams {
    async fn send(
        &self,
        vm: &mut Vm,
        call: Call<RequestBody>,
        sender: BodySender,
    ) -> Result<(), ProgramError> {
        match self.act {
            "echo" => {
                let RequestBody::Stream(mut body) = call.request.into_body() else {
                    panic!("not a stream");
                };
                while let Some(frame) = body.frame().await {
                    if let Ok(piece) = frame?.into_data() {
                        vm.wait(sender.send(piece)).await.unwrap();
                    }
                }
                sender.finish().await.unwrap();
            }
            "fails" => {
                sender.send("a piece".into()).await.unwrap();
                // Once the first piece was read.
                sender.ready().await.unwrap();
                return Err(ProgramError::failed("boom"));
            }
            "forgets" => {
                sender.send("a piece".into()).await.unwrap();
                sender.ready().await.unwrap();
            }
            "loops" => {
                sender.send("a piece".into()).await.unwrap();
                let f = vm.function::<(), ()>("loop")?;
                vm.call(&f, ()).await?;
            }
            "waits" => vm.wait(std::future::pending()).await,
            "floods" => while sender.send(Bytes::from(vec![1; 1000])).await.is_ok() {},
            "goes on" => {
                sender.send("done".into()).await.unwrap();
                sender.finish().await.unwrap();
                vm.wait(tokio::time::sleep(Duration::from_secs(2))).await;
            }
            other => panic!("{other}"),
        }
        Ok(())
    }
}

async fn guest(act: &'static str, stream: StreamLimits) -> (Guest, Arc<AtomicU32>) {
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let wasm = wat::parse_str(INTERPRETER).unwrap();
    let interpreter = engine.interpreter(&wasm, None, |_, _| Ok(())).unwrap();
    let ended = Arc::new(AtomicU32::new(0));
    let program = Streams {
        act,
        ended: ended.clone(),
    };
    let spec = common::spec(GuestLimits {
        buffers: 1 << 20,
        stream,
        ..limits()
    });
    let guest = interpreter.snapshot(spec, Arc::new(program)).await.unwrap();
    (guest, ended)
}

fn call(body: RequestBody) -> Call<RequestBody> {
    Call {
        request: http::Request::post("http://localhost/x")
            .body(body)
            .unwrap(),
        params: vec![],
        request_id: "r".into(),
    }
}

async fn stream(guest: &Guest) -> Box<StreamedBody> {
    let response = guest.serve(call(Bytes::new().into())).await.unwrap();
    match response.into_body() {
        ResponseBody::Stream(stream) => stream,
        ResponseBody::Collected(_) | ResponseBody::Socket(_) => panic!("not a stream"),
    }
}

/// The pieces of a body, and how it ended.
async fn pieces(mut body: Box<StreamedBody>) -> (Vec<Bytes>, Result<(), CallError>) {
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => pieces.push(frame.into_data().unwrap()),
            Err(error) => return (pieces, Err(error)),
        }
    }
    (pieces, Ok(()))
}

#[tokio::test(flavor = "multi_thread")]
async fn echoes_pieces_one_by_one() {
    let (guest, ended) = guest("echo", StreamLimits::default()).await;
    assert!(guest.takes_streams());
    let (sender, body) = BodySender::new();
    let response = guest.serve(call(RequestBody::Stream(body))).await.unwrap();
    let ResponseBody::Stream(mut body) = response.into_body() else {
        panic!("not a stream");
    };
    for n in 0..100 {
        let piece = Bytes::from(n.to_string());
        sender.send(piece.clone()).await.unwrap();
        let answered = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(answered, piece);
    }
    sender.finish().await.unwrap();
    assert!(body.frame().await.is_none());
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn collected_responses_stay_collected() {
    let (guest, _) = guest("whole", StreamLimits::default()).await;
    let response = guest.serve(call(Bytes::from("abc").into())).await.unwrap();
    let ResponseBody::Collected(body) = response.into_body() else {
        panic!("a stream");
    };
    assert_eq!(body, "abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_fails_after_the_head_ends_the_body_with_its_error() {
    for (act, expected) in [
        ("fails", "boom"),
        ("forgets", "the connection ended before the body"),
        ("loops", "ended after 100ms of CPU time (`limits.cpu_time`)"),
    ] {
        let (guest, _) = guest(act, StreamLimits::default()).await;
        let (pieces, end) = pieces(stream(&guest).await).await;
        assert_eq!(pieces, ["a piece"], "{act}");
        assert_eq!(end.unwrap_err().to_string(), expected, "{act}");
    }
    let (guest, _) = guest("nothing", StreamLimits::default()).await;
    let error = guest.serve(call(Bytes::new().into())).await.err().unwrap();
    assert!(matches!(error, CallError::NoResponse), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_keep_to_their_limits() {
    let idle = StreamLimits {
        idle: Duration::from_millis(500),
        ..StreamLimits::default()
    };
    let (waits, _) = guest("waits", idle).await;
    let (_, end) = pieces(stream(&waits).await).await;
    assert!(matches!(end, Err(CallError::StreamIdle(_))), "{end:?}");

    let time = StreamLimits {
        time: Some(Duration::from_millis(500)),
        ..StreamLimits::default()
    };
    let (waits, _) = guest("waits", time).await;
    let (_, end) = pieces(stream(&waits).await).await;
    assert!(matches!(end, Err(CallError::StreamTime(_))), "{end:?}");

    let bytes = StreamLimits {
        bytes: Some(10_500),
        ..StreamLimits::default()
    };
    let (floods, _) = guest("floods", bytes).await;
    let (sent, end) = pieces(stream(&floods).await).await;
    assert_eq!(sent.len(), 10);
    let is_too_large = matches!(end, Err(CallError::Body(BodyError::TooLarge(10_500))));
    assert!(is_too_large, "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_dropped_ends_the_guest() {
    let (floods, ended) = guest("floods", StreamLimits::default()).await;
    let mut body = stream(&floods).await;
    body.frame().await.unwrap().unwrap();
    let kept = Arc::new(());
    let mut response = ResponseBody::Stream(body);
    response.keep(Box::new(kept.clone()));
    assert_eq!(Arc::strong_count(&kept), 2);
    drop(response);
    assert_eq!(Arc::strong_count(&kept), 1);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(ended.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_may_go_on_after_its_response() {
    let (guest, ended) = guest("goes on", StreamLimits::default()).await;
    let kept = Arc::new(());
    let mut body = ResponseBody::Stream(stream(&guest).await);
    body.keep(Box::new(kept.clone()));
    assert_eq!(body.collect(100).await.unwrap(), "done");
    assert_eq!(
        (ended.load(Ordering::SeqCst), Arc::strong_count(&kept)),
        (0, 2)
    );
    let ends = async {
        while ended.load(Ordering::SeqCst) == 0 || Arc::strong_count(&kept) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ends = tokio::time::timeout(Duration::from_secs(60), ends).await;
    ends.expect("the guest ends");
}
