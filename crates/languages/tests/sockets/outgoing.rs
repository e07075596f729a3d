//! Sockets that a worker opens to other servers.

use super::javascript::javascript;
use super::*;

/// A WebSocket server that echoes, or answers with `answer` instead. Returns its address, and how
/// the first socket ended.
async fn server(
    answer: Option<&'static str>,
) -> (SocketAddr, JoinHandle<(SocketOutcome, Vec<Event>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut request = http::Request::builder();
        for line in head.trim_end().lines().skip(1) {
            let (name, value) = line.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let request = request.body(()).unwrap().into_parts().0;
        let offer = Offer::of(&request, false).unwrap();
        let mut lines = answer
            .unwrap_or("HTTP/1.1 101 Switching Protocols")
            .to_owned();
        for (name, value) in &offer.accept() {
            lines += &format!("\r\n{name}: {}", value.to_str().unwrap());
        }
        if offer.has("chat") {
            lines += "\r\nsec-websocket-protocol: chat";
        }
        stream
            .write_all(format!("{lines}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let account = Account::new(16 << 20);
        let charge = || -> Box<dyn MemoryCharge> { Box::new(account.nothing()) };
        let (own, end) = pair(1 << 20, [charge(), charge()]);
        let (read, limits) = (Bytes::new(), Limits::default());
        let mut connection = Connection::new(stream, read, Role::Server, end, limits, charge());
        let echo = async {
            let mut events = Vec::new();
            while let Some(event) = own.receiver.next().await {
                if let Event::Message(message) = &event {
                    let _ = own.sender.send(message.clone()).await;
                }
                events.push(event);
            }
            events
        };
        let driving = async {
            let ended = poll_fn(|context| connection.poll(context)).await;
            drop(connection);
            ended
        };
        tokio::join!(driving, echo)
    });
    (address, serving)
}

fn client_spec(address: SocketAddr) -> GuestSpec {
    reaching(address, &[http::Method::GET])
}

#[tokio::test]
async fn javascript_opens_sockets_to_hosts_of_its_allow_list() {
    let (address, serving) = server(None).await;
    let guest = javascript(client_spec(address));
    let answer = guest.call(get("/client")).await.unwrap();
    assert_eq!(
        answer.body(),
        "0 InvalidStateError|open chat|hi|bytes 1,2|3007 done true 3"
    );
    let (ended, _) = serving.await.unwrap();
    assert_eq!(ended, SocketOutcome::Clean);
}

#[tokio::test]
async fn a_worker_that_ends_closes_its_sockets_to_others() {
    let (address, serving) = server(None).await;
    let guest = javascript(client_spec(address));
    let answer = guest.call(get("/leaves")).await.unwrap();
    assert_eq!(answer.body(), "left");
    let (ended, events) = serving.await.unwrap();
    assert_eq!(ended, SocketOutcome::Clean);
    let close = Close::new(Some(1001), "").unwrap();
    assert_eq!(
        events,
        [
            Event::Message(Message::Text("last words".into())),
            Event::Close { close, clean: true }
        ]
    );
}

#[tokio::test]
async fn a_socket_that_is_refused_or_not_opened_is_an_error_event() {
    let (address, _) = server(Some("HTTP/1.1 200 OK")).await;
    let answer = javascript(client_spec(address))
        .call(get("/client"))
        .await
        .unwrap();
    let body = String::from_utf8(answer.into_body().into()).unwrap();
    assert!(
        body.contains("status 200 instead of 101") && body.ends_with("|1006  false 3"),
        "{body}"
    );
    // Its TOML allows another host.
    let (other, _) = server(None).await;
    let mut spec = client_spec(address);
    spec.env = vec![("TARGET".into(), format!("http://{other}"))];
    let answer = javascript(spec).call(get("/client")).await.unwrap();
    let body = String::from_utf8(answer.into_body().into()).unwrap();
    assert!(body.contains("allowed_hosts"), "{body}");
}
