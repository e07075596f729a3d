//! Attacks by components of WASI 0.2 and 0.3, by workers that stream, and by their clients.

use anyhow::Result;
use wws_test::containerd::Containerd;
use wws_test::image::Image;

use super::{Attack, Target, flood, silent_senders, slow_readers};

/// An endless response, and a socket that answers each message.
const STREAMS: &str = "
const part = new Uint8Array(65536);
export default (request) => {
    if (request.headers.get('upgrade') !== 'websocket') {
        return new Response(new ReadableStream({ pull(controller) { controller.enqueue(part); } }));
    }
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.onmessage = () => { for (;;) server.send(part); };
    return new Response(null, { status: 101, webSocket: client });
};
";

/// The request for a socket, and bytes that follow it.
fn socket(frames: &[u8]) -> Vec<u8> {
    let head = "GET /streams HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    [head.as_bytes(), frames].concat()
}

pub(super) fn image(containerd: &Containerd, _: u16) -> Result<String> {
    let settings = "version = '1'\n[[folders]]\nfrom = '../_data'\nto = '/data'\n\
        [features.http_requests]\nallowed_hosts = ['127.0.0.1']\nallow_http = true\n";
    let mut image = Image::workers("streams")
        .guest("hello", "hello.wasm")?
        .directory("_data")?
        .file("_data/file", "x")?
        .file("streams.js", STREAMS)?;
    for (guest, name) in [
        ("component-corners", "c"),
        ("component-features", "f"),
        ("component-features-p3", "p3"),
    ] {
        image = image
            .guest(guest, &format!("{name}/[...path].wasm"))?
            .file(&format!("{name}/[...path].toml"), settings)?;
    }
    image.import(containerd)
}

fn many_requests(target: Target, guest: &str) {
    let url = format!("http://127.0.0.1:{}/", target.answers);
    flood(
        target,
        8,
        &format!("/{guest}/outgoing-many?count=1000&url={url}"),
        b"",
    );
}

pub(super) const ATTACKS: [(&str, Attack); 16] = [
    ("component: bodies of 10 MiB, 12 at once", |target| {
        flood(target, 12, "/c/late?ms=500", &vec![1; 10 << 20]);
    }),
    ("component: 60 slow readers of a flood", |target| {
        slow_readers(target, 60, "/c/flood");
    }),
    ("component: 200 bodies that do not end", |target| {
        let head = "POST /c/read-for-ever HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n";
        let bytes = [head.as_bytes(), &[b'x'; 256 << 10]].concat();
        silent_senders(target, 200, &bytes);
    }),
    ("component: 10,000 leaked fields, 32 at once", |target| {
        flood(target, 32, "/c/leak?what=fields", b"");
    }),
    ("component: 10,000 leaked requests, 32 at once", |target| {
        flood(target, 32, "/c/leak?what=requests", b"");
    }),
    ("component: 1,000 outgoing requests, 8 at once", |target| {
        many_requests(target, "c");
    }),
    ("component: calls without end, 32 at once", |target| {
        flood(target, 32, "/c/stack", b"");
    }),
    ("component: memory to the limit, 32 at once", |target| {
        flood(target, 32, "/f/memory?mib=100", b"");
    }),
    ("component: 1,000 open files, 32 at once", |target| {
        flood(target, 32, "/c/open-files?path=/data/file", b"");
    }),
    ("0.3: 60 slow readers of a flood", |target| {
        slow_readers(target, 60, "/p3/flood");
    }),
    ("0.3: 10,000 leaked streams, 32 at once", |target| {
        flood(target, 32, "/p3/leak?what=streams", b"");
    }),
    ("0.3: 1,000 outgoing requests, 8 at once", |target| {
        many_requests(target, "p3");
    }),
    ("0.3: calls without end, 32 at once", |target| {
        flood(target, 32, "/p3/stack", b"");
    }),
    ("JavaScript: 60 slow readers of a stream", |target| {
        slow_readers(target, 60, "/streams");
    }),
    ("sockets: 200 frames of 1 MiB that do not end", |target| {
        let announced = [0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4];
        let frames = [&announced[..], &[0; 512 << 10]].concat();
        silent_senders(target, 200, &socket(&frames));
    }),
    ("sockets: 200 clients that take no answers", |target| {
        silent_senders(
            target,
            200,
            &socket(&[0x81, 0x81, 1, 2, 3, 4, b'x'].repeat(1000)),
        );
    }),
];
