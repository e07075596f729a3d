//! WebSockets of workers, without a server: the test has the client's end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

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

const JAVASCRIPT: &str = r#"
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const accept = (run, init) => {
  const [client, server] = Object.values(new WebSocketPair());
  run(server, client);
  return new Response(null, { status: 101, webSocket: client, ...init });
};
const thrown = (run) => { try { run(); return "nothing"; } catch (error) { return error.name; } };
const routes = {
  "/echo": () => accept((socket) => {
    socket.accept();
    socket.send("hello");
    socket.addEventListener("message", ({ data }) => {
      if (data instanceof ArrayBuffer) socket.send(new Uint8Array(data).map((byte) => byte + 1));
      else socket.send(data);
    });
  }, { headers: { "sec-websocket-protocol": "chat" } }),
  "/blob": () => accept((socket) => {
    socket.accept();
    socket.binaryType = "blob";
    socket.onmessage = async ({ data }) => socket.send(`${data instanceof Blob} ${await data.text()}`);
  }),
  "/closes": () => accept((socket) => {
    socket.accept();
    socket.addEventListener("message", () => {
      socket.close(3005, "enough");
      Cache.set("thrown", thrown(() => socket.send("x")));
    });
    socket.addEventListener("close", ({ code, reason, wasClean }) => Cache.set("close", `${code} ${reason} ${wasClean}`));
  }),
  "/store": () => accept((socket) => {
    socket.accept();
    socket.addEventListener("message", ({ data }) => {
      const [key, value] = data.split("=");
      if (value !== undefined) Cache.set(key, value);
      socket.send(`${Cache.get(key)}`);
    });
    socket.addEventListener("close", async ({ code }) => { await sleep(20); Cache.set("left", `${code}`); });
  }),
  "/clock": (request, env, ctx) => accept((socket) => {
    socket.accept();
    let n = 0;
    const timer = setInterval(() => socket.send(`${Cache.get("n")} ${++n}`), 10);
    socket.addEventListener("close", () => clearInterval(timer));
    ctx.waitUntil(sleep(50).then(() => Cache.set("later", "yes")));
  }),
  "/throws": () => accept((socket) => {
    socket.accept();
    socket.addEventListener("message", ({ data }) => { if (data === "boom") throw new Error("boom"); socket.send("alive"); });
  }),
  "/burns": () => accept((socket) => {
    socket.accept();
    socket.addEventListener("message", () => {
      let sum = 0;
      for (let n = 0; n < 1_000_000; n++) sum += n;
      socket.send(`${sum}`);
    });
  }),
  "/never": () => accept(() => {}),
  "/large": () => accept((socket) => {
    socket.accept();
    socket.onmessage = () => socket.send(thrown(() => socket.send("x".repeat(5000))));
  }),
  "/local": async () => {
    const [one, other] = Object.values(new WebSocketPair());
    const got = [];
    const closed = new Promise((resolve) => one.addEventListener("close", resolve));
    one.addEventListener("message", ({ data }) => got.push(data));
    one.accept();
    other.accept();
    other.addEventListener("message", ({ data }) => { other.send(`${data}!`); other.close(3000, "bye"); });
    one.send("hi");
    const { code, reason } = await closed;
    await sleep(1);
    return new Response(`${got} ${code} ${reason} ${one.readyState} ${other.readyState}`);
  },
  "/client": async (request, env) => {
    const socket = new WebSocket(`${env.TARGET.replace("http", "ws")}/x?y`, ["log", "chat"]);
    const events = [`${socket.readyState} ${thrown(() => socket.send("early"))}`];
    const closed = new Promise((resolve) => { socket.onclose = resolve; });
    socket.onerror = ({ message }) => events.push(message);
    socket.onopen = () => {
      events.push(`open ${socket.protocol}`);
      socket.send("hi");
      socket.send(new Uint8Array([1, 2]));
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") { events.push(data); return; }
      events.push(`bytes ${new Uint8Array(data)}`);
      socket.close(3007, "done");
    };
    const { code, reason, wasClean } = await closed;
    return new Response(`${events.join("|")}|${code} ${reason} ${wasClean} ${socket.readyState}`);
  },
  "/leaves": async (request, env) => {
    const socket = new WebSocket(env.TARGET);
    await new Promise((resolve) => { socket.onopen = resolve; });
    socket.send("last words");
    return new Response("left");
  },
  "/misuse": () => {
    const [client, server] = Object.values(new WebSocketPair());
    const results = [
      thrown(() => server.send("x")),
      thrown(() => { server.accept(); server.accept(); }),
      thrown(() => new Response(null, { status: 200, webSocket: client })),
      thrown(() => new Response("body", { status: 101, webSocket: client })),
      thrown(() => new Response(null, { status: 101 })),
      thrown(() => new Response(null, { status: 101, webSocket: server })),
      thrown(() => new Response(null, { status: 101, webSocket: {} })),
      thrown(() => server.close(1005)),
      thrown(() => server.close(1000, "é".repeat(62))),
      thrown(() => new WebSocket("nothing")),
      `${new Response(null, { webSocket: client }).status}`,
      `${WebSocket.OPEN} ${server.readyState} ${client.readyState} ${Object.keys(new WebSocketPair())}`,
    ];
    return new Response(results.join("|"));
  },
};
export default { fetch: (request, env, ctx) => routes[new URL(request.url).pathname](request, env, ctx) };
"#;

fn javascript(spec: GuestSpec) -> Guest {
    Project::new(&[("w.js", JAVASCRIPT)]).guest("w.js", spec)
}

#[tokio::test]
async fn javascript_echoes_texts_and_bytes() {
    let guest = javascript(spec());
    let client = open(&guest, "/echo").await;
    assert_eq!(client.head.status, 101);
    assert_eq!(client.head.headers["sec-websocket-protocol"], "chat");
    assert_eq!(client.text().await, "hello", "sent before the response");
    for text in ["", "héllo ✓ 𝄞", &"x".repeat(100_000)] {
        assert_eq!(client.ask(text).await, text);
    }
    for bytes in [vec![], vec![0, 1, 254], vec![7; 100_000]] {
        let plus_one: Vec<u8> = bytes.iter().map(|byte| byte + 1).collect();
        let message = Message::Binary(bytes.into());
        client.end.sender.send(message).await.unwrap();
        let expected = Event::Message(Message::Binary(plus_one.into()));
        assert_eq!(client.next().await, expected);
    }
    client.close(1000).await.unwrap();
    let client = open(&guest, "/blob").await;
    let message = Message::Binary("abc".into());
    client.end.sender.send(message).await.unwrap();
    assert_eq!(client.text().await, "true abc");
    client.close(1000).await.unwrap();
}

#[tokio::test]
async fn javascript_closes_with_a_code_and_sees_the_answer() {
    let (store, spec) = with_store();
    let client = open(&javascript(spec), "/closes").await;
    client.say("go").await;
    let close = Close::new(Some(3005), "enough").unwrap();
    assert_eq!(client.next().await, Event::Close { close, clean: true });
    client.close(3005).await.unwrap();
    assert_eq!(stored(&store, "close").await.unwrap(), "3005 bye true");
    assert_eq!(stored(&store, "thrown").await.unwrap(), "TypeError");
}

#[tokio::test]
async fn socket_reads_and_writes_the_store_without_delay() {
    let (store, spec) = with_store();
    set(&store, "a", "1").await;
    let client = open(&javascript(spec), "/store").await;
    assert_eq!(client.ask("a").await, "1");
    set(&store, "a", "2").await;
    assert_eq!(client.ask("a").await, "2");
    assert_eq!(client.ask("b=3").await, "3");
    // Stored before the worker waits for the next message.
    while stored(&store, "b").await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    set(&store, "b", "4").await;
    assert_eq!(client.ask("b").await, "4");
    client.close(1001).await.unwrap();
    assert_eq!(stored(&store, "left").await.unwrap(), "1001");
}

#[tokio::test]
async fn javascript_timers_run_while_a_socket_is_open() {
    let (store, spec) = with_store();
    let client = open(&javascript(spec), "/clock").await;
    assert_eq!(client.text().await, "undefined 1");
    set(&store, "n", "7").await;
    let mut last = String::new();
    while !last.starts_with('7') {
        last = client.text().await;
    }
    client.close(1000).await.unwrap();
    assert_eq!(stored(&store, "later").await.unwrap(), "yes");
}

#[tokio::test]
async fn an_error_of_a_javascript_listener_leaves_the_socket_open() {
    let client = open(&javascript(spec()), "/throws").await;
    client.say("boom").await;
    assert_eq!(client.ask("x").await, "alive");
    client.close(1000).await.unwrap();
}

#[tokio::test]
async fn cpu_time_counts_in_total() {
    let mut spec = spec();
    spec.limits.cpu_time = Duration::from_millis(300);
    let client = open(&javascript(spec), "/burns").await;
    for _ in 0..1000 {
        let message = Message::Text("x".into());
        let _ = client.end.sender.send(message).await;
        match client.end.receiver.next().await {
            Some(Event::Message(_)) => {}
            _ => break,
        }
    }
    let ended = client.guest.await.unwrap();
    assert!(matches!(ended, Err(CallError::CpuTime(_))), "{ended:?}");
}

#[tokio::test]
async fn a_javascript_worker_that_never_accepts_fails() {
    let failed = fails(&javascript(spec()), "/never").await;
    assert!(failed.contains("gave no answer"), "{failed}");
}

#[tokio::test]
async fn a_message_has_its_largest_size() {
    let mut spec = spec();
    spec.limits.stream.socket.message = 4096;
    let client = open(&javascript(spec), "/large").await;
    assert_eq!(client.ask("go").await, "TypeError");
}

#[tokio::test]
async fn javascript_pairs_work_within_a_worker_and_misuse_throws() {
    let guest = javascript(spec());
    let local = guest.call(get("/local")).await.unwrap();
    assert_eq!(local.body(), "hi! 3000 bye 3 3");
    let misuse = guest.call(get("/misuse")).await.unwrap();
    assert_eq!(
        misuse.body(),
        "TypeError|TypeError|RangeError|TypeError|RangeError|TypeError|TypeError|\
         InvalidAccessError|SyntaxError|SyntaxError|101|1 1 0 0,1"
    );
}

#[tokio::test]
async fn a_client_that_is_gone_ends_a_worker_that_sends() {
    let client = open(&javascript(spec()), "/clock").await;
    let Client { end, guest, .. } = client;
    drop(end);
    // The close that no client has sent.
    timeout(Duration::from_secs(60), guest)
        .await
        .expect("an end in time")
        .unwrap()
        .unwrap();
}

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

const PYTHON: &str = r#"
def worker(request):
    return WebSocket(handlers[request.path], **options.get(request.path, {}))

def echo(socket):
    socket.send("hello")
    for message in socket:
        if isinstance(message, bytes):
            socket.send(bytes(byte + 1 for byte in message))
        else:
            socket.send(message)
    Cache.set("close", f"{socket.close_code} {socket.close_reason} {socket.was_clean} {socket.is_open}")

def closes(socket):
    socket.receive()
    socket.close(3005, "enough")
    socket.send("not sent")
    Cache.set("close", f"{socket.receive()} {socket.close_code}")

def store(socket):
    for message in socket:
        key, _, value = message.partition("=")
        if value:
            Cache.set(key, value)
        socket.send(f"{Cache.get(key)}")

def clock(socket):
    n = 0
    while socket.is_open:
        message = socket.receive(timeout=0.01)
        n += 1
        socket.send(f"{Cache.get('n')} {n}" if message is None else message)

def returns(socket):
    socket.send("bye")

def boom(socket):
    raise ValueError("boom")

async def late(socket):
    pass

def misuse(socket):
    results = []
    for run in (lambda: socket.send(1), lambda: socket.close(1005), lambda: socket.send("x" * 2_000_000), lambda: WebSocket(1)):
        try:
            run()
            results.append("nothing")
        except Exception as error:
            results.append(type(error).__name__)
    socket.send(" ".join(results))

handlers = {"/echo": echo, "/closes": closes, "/store": store, "/clock": clock, "/returns": returns, "/boom": boom, "/late": late, "/misuse": misuse}
options = {"/echo": {"protocol": "chat", "headers": {"x-own": "yes"}}}
"#;

const RUBY: &str = r##"
def attempt(run)
  run.call
  "nothing"
rescue StandardError => e
  e.class.name
end

def worker(request)
  case request.path
  when "/echo"
    WebSocket.new(protocol: "chat", headers: { "x-own" => "yes" }) do |socket|
      socket << "hello"
      socket.each do |message|
        socket << (message.encoding == Encoding::BINARY ? message.bytes.map { |byte| byte + 1 }.pack("C*") : message)
      end
      Cache.set("close", "#{socket.close_code} #{socket.close_reason} #{socket.clean?.to_s.capitalize} #{socket.open?.to_s.capitalize}")
    end
  when "/closes"
    WebSocket.new do |socket|
      socket.receive
      socket.close(3005, "enough")
      socket << "not sent"
      Cache.set("close", "#{socket.receive.inspect} #{socket.close_code}")
    end
  when "/store"
    WebSocket.new do |socket|
      socket.each do |message|
        key, value = message.split("=")
        Cache.set(key, value) if value
        socket << Cache.get(key).to_s
      end
    end
  when "/clock"
    WebSocket.new do |socket|
      n = 0
      while socket.open?
        message = socket.receive(timeout: 0.01)
        n += 1
        socket << (message || "#{Cache.get("n")} #{n}")
      end
    end
  when "/returns" then WebSocket.new { |socket| socket << "bye" }
  when "/boom" then WebSocket.new { raise "boom" }
  when "/misuse"
    WebSocket.new do |socket|
      runs = [-> { socket << 1 }, -> { socket.close(1005) }, -> { socket << "x" * 2_000_000 }, -> { WebSocket.new }]
      socket << runs.map { |run| attempt(run) }.join(" ")
    end
  end
end
"##;

/// What is the same in Python and Ruby.
async fn behaves(file: &str, source: &str, none: &str, errors: &str) {
    let (store, spec) = with_store();
    let guest = Project::new(&[(file, source)]).guest(file, spec);
    let client = open(&guest, "/echo").await;
    assert_eq!(client.head.status, 101);
    assert_eq!(client.head.headers["sec-websocket-protocol"], "chat");
    assert_eq!(client.head.headers["x-own"], "yes");
    assert_eq!(client.text().await, "hello");
    for text in ["", "héllo ✓ 𝄞", &"x".repeat(100_000)] {
        assert_eq!(client.ask(text).await, text);
    }
    for bytes in [vec![0, 1, 254], vec![7; 100_000]] {
        let plus_one: Vec<u8> = bytes.iter().map(|byte| byte + 1).collect();
        let message = Message::Binary(bytes.into());
        client.end.sender.send(message).await.unwrap();
        let expected = Event::Message(Message::Binary(plus_one.into()));
        assert_eq!(client.next().await, expected);
    }
    client.close(1000).await.unwrap();
    let close = stored(&store, "close").await;
    assert_eq!(close.unwrap(), "1000 bye True False");

    let client = open(&guest, "/closes").await;
    client.say("go").await;
    let close = Close::new(Some(3005), "enough").unwrap();
    assert_eq!(client.next().await, Event::Close { close, clean: true });
    client.close(3005).await.unwrap();
    let close = stored(&store, "close").await;
    assert_eq!(close.unwrap(), format!("{none} 3005"));

    set(&store, "a", "1").await;
    let client = open(&guest, "/store").await;
    assert_eq!(client.ask("a").await, "1");
    set(&store, "a", "2").await;
    assert_eq!(client.ask("a").await, "2");
    assert_eq!(client.ask("b=3").await, "3");
    while stored(&store, "b").await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.close(1000).await.unwrap();

    set(&store, "n", "0").await;
    let client = open(&guest, "/clock").await;
    assert_eq!(client.text().await, "0 1");
    set(&store, "n", "7").await;
    while !client.text().await.starts_with('7') {}
    client.say("from the client").await;
    while client.text().await != "from the client" {}
    client.close(1000).await.unwrap();

    let client = open(&guest, "/returns").await;
    assert_eq!(client.text().await, "bye");
    client.guest.await.unwrap().unwrap();

    let failed = fails(&guest, "/boom").await;
    assert!(failed.contains("boom"), "{failed}");

    let client = open(&guest, "/misuse").await;
    assert_eq!(client.text().await, errors);
}

#[tokio::test]
async fn python_handlers_have_a_socket() {
    let errors = "TypeError ValueError ValueError TypeError";
    behaves("w.py", PYTHON, "None", errors).await;
    let guest = Project::new(&[("w.py", PYTHON)]).guest("w.py", spec());
    let failed = fails(&guest, "/late").await;
    assert!(failed.contains("plain function"), "{failed}");
}

#[tokio::test]
async fn ruby_blocks_have_a_socket() {
    let errors = "TypeError Wws::Error Wws::Error ArgumentError";
    behaves("w.rb", RUBY, "nil", errors).await;
}
