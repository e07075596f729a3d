//! Outgoing requests, and what a component does wrong with them.

use support::Target;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method,
    OutgoingBody, OutgoingRequest, RequestOptions, ResponseOutparam, Scheme,
};

/// A request to the URL of the query.
fn request_to(target: &Target, method: &Method, headers: Fields) -> OutgoingRequest {
    let url = target.parameter("url").expect("a url");
    let rest = url.strip_prefix("http://").expect("a url of http");
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    let request = OutgoingRequest::new(headers);
    request.set_method(method).expect("a method");
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request
        .set_authority(Some(authority))
        .expect("an authority");
    let path = if path.is_empty() { "/" } else { path };
    request.set_path_with_query(Some(path)).expect("a path");
    request
}

fn head_of(future: &FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    loop {
        match future.get() {
            Some(response) => return response.expect("the answer for the first time"),
            None => future.subscribe().block(),
        }
    }
}

/// The status and the body of an answer, or its error.
fn answer_of(future: &FutureIncomingResponse) -> String {
    match head_of(future) {
        Ok(response) => {
            let body = response.consume().expect("the body for the first time");
            let read = support::collect(&body).map(|bytes| bytes.len());
            format!("{} {read:?}", response.status())
        }
        Err(code) => format!("{code:?}"),
    }
}

pub(crate) fn outgoing(target: &Target, out: ResponseOutparam) {
    let request = request_to(target, &Method::Get, Fields::new());
    match outgoing_handler::handle(request, None) {
        Ok(future) => support::text(out, 200, &format!("{}\n", answer_of(&future))),
        Err(code) => support::text(out, 502, &format!("{code:?}\n")),
    }
}

pub(crate) fn outgoing_two(target: &Target, out: ResponseOutparam) {
    let start = |name: &str| {
        let fields = Fields::new();
        fields.append("x-name", name.as_bytes()).expect("a field");
        let request = request_to(target, &Method::Post, fields);
        let body = request.body().expect("the body for the first time");
        let future = outgoing_handler::handle(request, None).expect("an allowed request");
        (body, future)
    };
    let (first, first_answer) = start("first");
    let (second, second_answer) = start("second");
    {
        let streams = [
            first.write().expect("the stream for the first time"),
            second.write().expect("the stream for the first time"),
        ];
        for number in 0..100 {
            for (stream, name) in streams.iter().zip(["first", "second"]) {
                let written = support::write_all(stream, format!("{name} {number}\n").as_bytes());
                written.expect("a server that reads");
            }
        }
    }
    OutgoingBody::finish(second, None).expect("a complete body");
    OutgoingBody::finish(first, None).expect("a complete body");
    let text = format!(
        "{}\n{}\n",
        answer_of(&first_answer),
        answer_of(&second_answer)
    );
    support::text(out, 200, &text);
}

pub(crate) fn outgoing_many(target: &Target, out: ResponseOutparam) {
    let mut futures = Vec::new();
    let mut refused = None;
    for _ in 0..target.number("count", 1000) {
        let request = request_to(target, &Method::Get, Fields::new());
        match outgoing_handler::handle(request, None) {
            Ok(future) => futures.push(future),
            Err(code) => {
                refused = Some(format!("{code:?}"));
                break;
            }
        }
    }
    let opened = futures.len();
    let mut answers = 0;
    let mut failed = String::from("none");
    for future in futures {
        match head_of(&future) {
            Ok(response) if response.status() == 200 => answers += 1,
            Ok(response) => failed = response.status().to_string(),
            Err(code) => failed = format!("{code:?}"),
        }
    }
    let text =
        format!("opened {opened}, answered {answers}, failed {failed}, refused {refused:?}\n");
    support::text(out, 200, &text);
}

pub(crate) fn outgoing_unsent(target: &Target, out: ResponseOutparam) {
    let request = request_to(target, &Method::Post, Fields::new());
    let body = request.body().expect("the body for the first time");
    let future = outgoing_handler::handle(request, None).expect("an allowed request");
    let stream = body.write().expect("the stream for the first time");
    let _ = support::write_all(&stream, b"the first half\n");
    drop(stream);
    drop(body);
    support::text(out, 200, &format!("{}\n", answer_of(&future)));
}

pub(crate) fn outgoing_unread(target: &Target, out: ResponseOutparam) {
    let request = request_to(target, &Method::Get, Fields::new());
    let future = outgoing_handler::handle(request, None).expect("an allowed request");
    let status = head_of(&future).map(|response| response.status());
    support::text(out, 200, &format!("{status:?}\n"));
}

pub(crate) fn outgoing_dropped(target: &Target, out: ResponseOutparam) {
    let request = request_to(target, &Method::Get, Fields::new());
    drop(outgoing_handler::handle(request, None).expect("an allowed request"));
    support::text(out, 200, "dropped\n");
}

pub(crate) fn outgoing_length(target: &Target, out: ResponseOutparam) {
    let fields = Fields::new();
    fields.append("content-length", b"10").expect("a field");
    let request = request_to(target, &Method::Post, fields);
    let body = request.body().expect("the body for the first time");
    let future = outgoing_handler::handle(request, None).expect("an allowed request");
    let stream = body.write().expect("the stream for the first time");
    let written = support::write_all(&stream, b"hello");
    drop(stream);
    let finished = OutgoingBody::finish(body, None);
    let text = format!("{written:?}, {finished:?}, {}\n", answer_of(&future));
    support::text(out, 200, &text);
}

pub(crate) fn outgoing_bad(out: ResponseOutparam) {
    let mut text = String::new();
    let fresh = || OutgoingRequest::new(Fields::new());
    let handled = |request: OutgoingRequest| match outgoing_handler::handle(request, None) {
        Ok(future) => head_of(&future).map(|response| response.status()),
        Err(code) => Err(code),
    };
    text += &format!("nothing set: {:?}\n", handled(fresh()));
    let request = fresh();
    text += &format!(
        "method with a space: {:?}\n",
        request.set_method(&Method::Other("A B".into()))
    );
    text += &format!(
        "authority with a space: {:?}\n",
        request.set_authority(Some("a b"))
    );
    text += &format!(
        "authority with a user: {:?}\n",
        request.set_authority(Some("u:p@host"))
    );
    text += &format!(
        "path with a space: {:?}\n",
        request.set_path_with_query(Some("/a b"))
    );
    text += &format!(
        "path with a line: {:?}\n",
        request.set_path_with_query(Some("/a\r\nb"))
    );
    text += &format!(
        "bad scheme: {:?}\n",
        request.set_scheme(Some(&Scheme::Other("a b".into())))
    );
    for (name, scheme) in [
        ("gopher", Scheme::Other("gopher".into())),
        ("none", Scheme::Http),
    ] {
        let request = fresh();
        request.set_scheme(Some(&scheme)).expect("a scheme");
        if name == "gopher" {
            request
                .set_authority(Some("localhost"))
                .expect("an authority");
        }
        text += &format!("{name}: {:?}\n", handled(request));
    }
    let request = fresh();
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request
        .set_authority(Some("localhost"))
        .expect("an authority");
    let first = request.body().is_ok();
    text += &format!("bodies {first} {}\n", request.body().is_ok());
    support::text(out, 200, &text);
}

pub(crate) fn outgoing_time(target: &Target, out: ResponseOutparam) {
    let time = Some(target.number("ms", 100) * 1_000_000);
    let options = RequestOptions::new();
    let taken = (
        options.set_connect_timeout(time),
        options.set_first_byte_timeout(time),
        options.set_between_bytes_timeout(time),
    );
    let request = request_to(target, &Method::Get, Fields::new());
    let answer = match outgoing_handler::handle(request, Some(options)) {
        Ok(future) => answer_of(&future),
        Err(code) => format!("{code:?}"),
    };
    support::text(out, 200, &format!("{taken:?} {answer}\n"));
}

pub(crate) fn outgoing_trailers(target: &Target, out: ResponseOutparam) {
    let fields = Fields::new();
    fields.append("trailer", b"x-sent").expect("a field");
    let request = request_to(target, &Method::Post, fields);
    let body = request.body().expect("the body for the first time");
    let future = outgoing_handler::handle(request, None).expect("an allowed request");
    let stream = body.write().expect("the stream for the first time");
    support::write_all(&stream, b"with trailers\n").expect("a server that reads");
    drop(stream);
    let trailers = Fields::new();
    trailers.append("x-sent", b"1").expect("a field");
    OutgoingBody::finish(body, Some(trailers)).expect("a complete body");
    let response = match head_of(&future) {
        Ok(response) => response,
        Err(code) => return support::text(out, 502, &format!("{code:?}\n")),
    };
    let body = response.consume().expect("the body for the first time");
    let read = support::collect(&body).map(|bytes| bytes.len());
    let back = IncomingBody::finish(body);
    let back = loop {
        match back.get() {
            Some(trailers) => break trailers.expect("the trailers for the first time"),
            None => back.subscribe().block(),
        }
    };
    let back = back.map(|fields| fields.map(|fields| support::lines(&fields)));
    support::text(out, 200, &format!("{read:?} {back:?}\n"));
}

pub(crate) fn outgoing_after(target: &Target, out: ResponseOutparam) {
    support::text(out, 200, "answered\n");
    let request = request_to(target, &Method::Get, Fields::new());
    match outgoing_handler::handle(request, None) {
        Ok(future) => println!("after the answer: {}", answer_of(&future)),
        Err(code) => println!("after the answer: {code:?}"),
    }
}
