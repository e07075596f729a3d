//! Content codings of streamed responses.

use super::*;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A gzip member of 1 MiB, about four times smaller: one quarter of it is noise.
static MEMBER: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 1u32;
    let data: Vec<u8> = (0..MIB)
        .map(|index| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            match index % 4 {
                0 => (state >> 8) as u8,
                _ => b'x',
            }
        })
        .collect();
    gzip(&data).into()
});

/// Members, as they are wanted.
fn zipped(count: u64) -> impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync {
    stream::iter(0..count).map(|_| Ok(Frame::data(MEMBER.clone())))
}

fn decoding(url: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(url).extension(Decode::Always);
    request.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn decodes_codings_as_data_arrives() {
    LazyLock::force(&MEMBER);
    let peer = server(|request| async move {
        let body = match request.uri().path() {
            "/events" => {
                // Each event is flushed, as servers of events do.
                let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
                let mut pieces = Vec::new();
                for event in ["one", "two", "three"] {
                    encoder.write_all(event.as_bytes()).unwrap();
                    encoder.flush().unwrap();
                    pieces.push(Bytes::from(std::mem::take(encoder.get_mut())));
                }
                pieces.push(encoder.finish().unwrap().into());
                let pieces = stream::iter(pieces).then(|piece| async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok(Frame::data(piece))
                });
                frames(pieces_sync(pieces))
            }
            "/large" => frames(zipped(256)),
            "/trailers" => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", "7".parse().unwrap());
                let zipped = Bytes::from(gzip(b"text"));
                let parts = [Ok(Frame::data(zipped)), Ok(Frame::trailers(trailers))];
                frames(stream::iter(parts))
            }
            "/empty" => full(""),
            "/cut" => full(gzip(&[b'x'; 1000])[..20].to_vec()),
            _ => full([gzip(b"text"), vec![0; 1 << 20]].concat()),
        };
        Response::builder()
            .header("content-encoding", "gzip")
            .header("trailer", "x-sum")
            .body(body)
            .unwrap()
    })
    .await;
    let client = client_with(ClientOptions {
        memory: MIB,
        ..options()
    });
    let policy = policy(&["127.0.0.1"]);
    let answer = send(&client, &policy, decoding(&peer.url("/events")))
        .await
        .unwrap();
    assert!(!answer.headers().contains_key("content-encoding"));
    let mut body = answer.into_body();
    for event in ["one", "two", "three"] {
        let frame = body.frame().await.unwrap().expect("an event");
        assert_eq!(frame.into_data().unwrap(), event);
    }
    assert!(body.frame().await.is_none());

    let account = Account::new(MIB);
    let charge = Box::new(account.clone());
    let answer = client
        .stream(&policy, decoding(&peer.url("/large")), Some(charge))
        .await
        .unwrap();
    let mut body = answer.into_body();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame.expect("a piece").data_ref().unwrap().len() as u64;
    }
    assert_eq!(count, 256 * MIB, "more than a collected answer may have");
    drop(body);
    assert_eq!(account.charged(), 0);

    let mut request = decoding(&peer.url("/trailers"));
    request
        .headers_mut()
        .insert("te", "trailers".parse().unwrap());
    let body = send(&client, &policy, request).await.unwrap().into_body();
    let body = body.collect().await.expect("body");
    assert_eq!(body.trailers().expect("trailers")["x-sum"], "7");
    assert_eq!(body.to_bytes(), "text");
    for (path, text) in [("/empty", ""), ("/garbage", "text")] {
        let answer = send(&client, &policy, decoding(&peer.url(path))).await;
        let body = answer.unwrap().into_body().collect().await.expect(path);
        assert_eq!(body.to_bytes(), text, "{path}");
    }
    let answer = send(&client, &policy, decoding(&peer.url("/cut"))).await;
    let error = answer
        .unwrap()
        .into_body()
        .collect()
        .await
        .expect_err("half");
    assert_eq!(error.reason, Reason::Coding);
    assert!(
        error.message.contains("cannot be decoded as gzip"),
        "{error}"
    );
}

#[tokio::test]
async fn sizes_and_expansion_are_limited() {
    // Not while a server answers: it takes its time.
    LazyLock::force(&MEMBER);
    // A bomb of two layers: 64 MiB in less than a KiB.
    let bomb = gzip(&gzip(&vec![0; 64 << 20]));
    assert!(bomb.len() < 1 << 10);
    let peer = server(move |request| {
        let bomb = bomb.clone();
        async move {
            match request.uri().path() {
                "/bomb" => Response::builder()
                    .header("content-encoding", "gzip, gzip")
                    .body(full(bomb))
                    .unwrap(),
                "/zipped" => Response::builder()
                    .header("content-encoding", "gzip")
                    .body(frames(zipped(4)))
                    .unwrap(),
                "/known" => Response::new(full(vec![b'x'; 3 << 20])),
                _ => Response::new(frames(bytes(3 * MIB))),
            }
        }
    })
    .await;
    let client = client("");
    let any = policy(&["127.0.0.1"]);
    let answer = send(&client, &any, decoding(&peer.url("/bomb"))).await;
    let error = answer
        .unwrap()
        .into_body()
        .collect()
        .await
        .expect_err("a bomb");
    assert_eq!(error.reason, Reason::TooLarge);
    assert!(error.message.contains("expands too much"), "{error}");
    let limits = PolicyLimits {
        streamed_response: Some(2 * MIB),
        ..limits()
    };
    let some = policy_with(&["127.0.0.1"], limits);
    for path in ["/bomb", "/zipped", "/known", "/unknown"] {
        let error = match send(&client, &some, decoding(&peer.url(path))).await {
            Err(error) => error,
            Ok(answer) => answer.into_body().collect().await.expect_err(path),
        };
        assert_eq!(error.reason, Reason::TooLarge, "{path}");
        assert!(
            error.message.contains("larger than 2097152") || path == "/bomb",
            "{error}"
        );
    }
    // What the account does not have is not read.
    for (path, most) in [("/unknown", 100), ("/zipped", 100 << 10)] {
        let account = Account::new(most);
        let charge = Box::new(account.clone());
        let answer = client.stream(&any, decoding(&peer.url(path)), Some(charge));
        let error = match answer.await {
            Err(error) => error,
            Ok(answer) => answer.into_body().collect().await.expect_err(path),
        };
        assert_eq!(error.reason, Reason::NoMemory, "{path}");
        assert_eq!(account.charged(), 0);
    }
    let request = Request::post(peer.url("/")).body(StreamBody::new(bytes(MIB)));
    let charge = Box::new(Account::new(100));
    let answer = client.stream(&any, request.unwrap(), Some(charge)).await;
    let error = match answer {
        Err(error) => error,
        Ok(answer) => answer.into_body().collect().await.expect_err("no memory"),
    };
    assert_eq!(error.reason, Reason::NoMemory);
    eventually("closed", || peer.open() == 0).await;
}
