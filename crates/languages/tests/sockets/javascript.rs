//! Sockets of JavaScript workers.

use super::*;

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

pub(super) fn javascript(spec: GuestSpec) -> Guest {
    Project::new(&[("w.js", JAVASCRIPT)]).guest("w.js", spec)
}

#[tokio::test]
async fn javascript_echoes_texts_and_bytes() {
    let guest = javascript(spec());
    let client = open(&guest, "/echo").await;
    assert_eq!(client.head.status, 101);
    assert_eq!(client.head.headers["sec-websocket-protocol"], "chat");
    assert_eq!(client.text().await, "hello", "sent before the response");
    client.echoes(&[&[], &[0, 1, 254], &[7; 100_000]]).await;
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
