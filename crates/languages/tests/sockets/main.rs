//! WebSockets of workers, without a server: the test has the client's end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod handlers;
mod javascript;
mod outgoing;

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{Project, get, reaching, spec};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::timeout,
};
use wws_engine::{
    Account, CallError, Guest, GuestSpec, ResponseBody,
    websocket::{
        Close, Connection, End, Event, Limits, MemoryCharge, Message, Offer, Role, SocketOutcome,
        pair,
    },
};
use wws_kv::Store;

/// The client's end, and the guest, which runs meanwhile.
struct Client {
    end: End,
    head: http::response::Parts,
    guest: JoinHandle<Result<(), CallError>>,
}

async fn open(guest: &Guest, path: &str) -> Client {
    let (head, body) = guest.serve(get(path).into()).await.unwrap().into_parts();
    let ResponseBody::Socket(mut socket) = body else {
        panic!("no socket");
    };
    Client {
        end: socket.take_end().unwrap(),
        head,
        guest: tokio::spawn(async move {
            if socket.has_ended() {
                return Ok(());
            }
            poll_fn(|context| socket.poll_guest(context)).await
        }),
    }
}

/// How a guest fails that accepts a socket: it may do so before its response is passed on.
async fn fails(guest: &Guest, path: &str) -> String {
    let error = match guest.serve(get(path).into()).await {
        Ok(response) => {
            let ResponseBody::Socket(mut socket) = response.into_body() else {
                panic!("no socket");
            };
            poll_fn(|context| socket.poll_guest(context)).await
        }
        Err(error) => Err(error),
    };
    error.unwrap_err().to_string()
}

impl Client {
    async fn say(&self, text: &str) {
        let message = Message::Text(text.to_owned().into());
        self.end.sender.send(message).await.unwrap();
    }

    async fn next(&self) -> Event {
        let event = timeout(Duration::from_secs(60), self.end.receiver.next());
        event.await.expect("an event in time").expect("an event")
    }

    async fn text(&self) -> String {
        match self.next().await {
            Event::Message(Message::Text(text)) => String::from_utf8(text.into()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&self, text: &str) -> String {
        self.say(text).await;
        self.text().await
    }

    /// Has texts come back as they are, and bytes with one added to each.
    async fn echoes(&self, pieces: &[&[u8]]) {
        for text in ["", "héllo ✓ 𝄞", &"x".repeat(100_000)] {
            assert_eq!(self.ask(text).await, text);
        }
        for bytes in pieces {
            let plus_one: Vec<u8> = bytes.iter().map(|byte| byte + 1).collect();
            let message = Message::Binary(bytes.to_vec().into());
            self.end.sender.send(message).await.unwrap();
            let expected = Event::Message(Message::Binary(plus_one.into()));
            assert_eq!(self.next().await, expected);
        }
    }

    /// Closes the socket, and waits for the guest.
    async fn close(self, code: u16) -> Result<(), CallError> {
        self.end
            .sender
            .close(Close::new(Some(code), "bye").unwrap(), true);
        timeout(Duration::from_secs(60), self.guest)
            .await
            .expect("an end in time")
            .unwrap()
    }
}

fn with_store() -> (Arc<dyn Store>, GuestSpec) {
    let store: Arc<dyn Store> = Arc::new(wws_kv::MemoryStore::default());
    let spec = GuestSpec {
        kv: Some(wws_engine::KvGrant::new(store.clone(), "n")),
        ..spec()
    };
    (store, spec)
}

async fn set(store: &Arc<dyn Store>, key: &str, value: &str) {
    let change = wws_kv::Change::Set(key.into(), value.into());
    store.apply("n", vec![change]).await.unwrap();
}

async fn stored(store: &Arc<dyn Store>, key: &str) -> Option<String> {
    let map = store.snapshot("n").await.unwrap();
    map.get(key).map(|value| value.as_str().to_owned())
}
