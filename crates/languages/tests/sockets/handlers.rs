//! Sockets of Python and Ruby workers.

use super::*;

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
    client.echoes(&[&[0, 1, 254], &[7; 100_000]]).await;
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
