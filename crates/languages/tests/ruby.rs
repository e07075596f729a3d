//! Ruby workers, with the real interpreter: what a worker's author relies on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Project, echo, get, loopback, post, reaching, spec};
use wws_engine::{Guest, GuestSpec, PreopenedDirectory};

fn worker(source: &str) -> (Project, Guest) {
    worker_with(source, spec())
}

fn worker_with(source: &str, spec: GuestSpec) -> (Project, Guest) {
    let project = Project::new(&[("w.rb", source)]);
    let guest = project.guest("w.rb", spec);
    (project, guest)
}

async fn body(guest: &Guest, path: &str) -> String {
    let body = guest.call(get(path)).await.unwrap().into_body();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_names_still_work() {
    let (_project, guest) = worker(
        r##"
        def worker(req)
          case req.method
          when "POST" then Response.created(req.body.upcase)
          when "GET"
            return Response.not_found("nothing at #{req.url}") if req.url.end_with?("/no")
            response = Response.new("#{req.headers["x-a"]} #{req.params["id"]} #{req.params[:id]}", 202, { "x-b" => "c" })
            response.headers["x-d"] = 5
            response
          else Response.ok("ok")
          end
        end
        "##,
    );
    for _ in 0..5 {
        let mut call = get("/a?b=c");
        call.params = vec![("id".into(), "é".into())];
        call.request
            .headers_mut()
            .insert("x-a", "1".parse().unwrap());
        let response = guest.call(call).await.unwrap();
        assert_eq!(response.status(), 202);
        assert_eq!(response.headers()["x-b"], "c");
        assert_eq!(response.headers()["x-d"], "5");
        assert_eq!(response.headers()["content-type"], "text/html");
        assert_eq!(response.body(), "1 é é");
    }
    let response = guest.call(get("/no")).await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(response.body(), "nothing at http://localhost/no");
    let response = guest.call(post("/", b"body".to_vec())).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &**response.body()),
        (201, &b"BODY"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parses_requests() {
    let (_project, guest) = worker(
        r#"
        def worker(req)
          Response.json([req.path, req.query, req.query["a"], req.query[:b], req.query_list, req.headers["X-In"], req.headers["none"],
            req.header_values("X-In"), req.header_list.first, (req.json if req.method == "POST")], 200, { "x-n" => nil })
        end
        "#,
    );
    let mut call = post("/p/%20?a=1&b=%C3%A9+x&a=2&c", br#"{"x": [1]}"#.to_vec());
    for value in ["one", "two"] {
        call.request
            .headers_mut()
            .append("x-in", value.parse().unwrap());
    }
    let response = guest.call(call).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(
        response.body(),
        r#"["/p/%20",{"a":"2","b":"é x","c":""},"2","é x",[["a","1"],["b","é x"],["a","2"],["c",""]],"one, two",null,["one","two"],["x-in","one"],{"x":[1]}]"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bytes_texts_and_parts() {
    for (answer, wanted) in [
        ("Response.new(req.body)", &b"\xff\x00\xc3("[..]),
        ("Response.new(req.body.encoding.name)", b"ASCII-8BIT"),
        ("Response.new(%w[a b é])", "abé".as_bytes()),
        (
            "Response.new(Enumerator.new { |y| 3.times { |n| y << n.to_s } })",
            b"012",
        ),
        (
            "require 'stringio'; Response.new(StringIO.new('read'))",
            b"read",
        ),
        ("Response.new(nil)", b""),
        ("'text'", b"text"),
        ("Response.new('é'.encode('UTF-16LE'))", b"\xe9\x00"),
    ] {
        let (_project, guest) = worker(&format!("def worker(req)\n{answer}\nend"));
        let response = guest
            .call(post("/", b"\xff\x00\xc3(".to_vec()))
            .await
            .unwrap();
        assert_eq!(&**response.body(), wanted, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_keep_their_lines() {
    let (_project, guest) = worker(
        r#"
        def worker(req)
          Response.new("", 200, [["set-cookie", "a=1"], ["set-cookie", "b=2"], ["x-l", ["1", "2"]], [:"x-s", :sym], ["x-latin", "\xe9".b]])
        end
        "#,
    );
    let response = guest.call(get("/")).await.unwrap();
    let lines = |name| {
        let values = response.headers().get_all(name);
        values
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect::<Vec<_>>()
            .join("|")
    };
    assert_eq!(lines("set-cookie"), "a=1|b=2");
    assert_eq!(lines("x-l"), "1|2");
    assert_eq!(lines("x-s"), "sym");
    assert_eq!(lines("x-latin"), "é");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_project_are_required_once() {
    let project = Project::new(&[
        (
            "api/w.rb",
            r#"
            require "set"
            require "digest"
            require_relative "lib"
            require_relative "../_libs/deep/one"
            require "./top"
            require "/top.rb"
            $LOAD_PATH.unshift File.expand_path("../_libs", __dir__)
            require "found"
            autoload :Later, "./later"
            def worker(req) = Response.new([LIB, DEEP, $top, FOUND, Later, __FILE__, __dir__, require("found"), Digest::SHA256.hexdigest("")[0, 4]].join(" "))
            "#,
        ),
        ("api/lib.rb", "LIB = __FILE__"),
        ("_libs/deep/one.rb", "require_relative 'two'"),
        (
            "_libs/deep/two.rb",
            "require_relative 'one'\nDEEP = File.basename(__FILE__)",
        ),
        ("_libs/found.rb", "FOUND = 'found'"),
        ("top.rb", "$top = ($top || 0) + 1"),
        ("later.rb", "Later = 'later'"),
    ]);
    let guest = project.guest("api/w.rb", spec());
    for _ in 0..2 {
        assert_eq!(
            body(&guest, "/").await,
            "api/lib.rb two.rb 1 found later api/w.rb /api false e3b0"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_hold_files_and_libraries() {
    let project = Project::new(&[
        (
            "w.rb",
            r#"
            $LOAD_PATH << "/libs/greet-1.0/lib"
            require "greet"
            def worker(req)
              File.write("/libs/out.txt", "é")
              Response.new([Greet.hello, Dir.children("/libs").sort.join(","), File.read("/libs/out.txt"), File.exist?("/libs/../w.rb")].join(" "))
            end
            "#,
        ),
        (
            "gems/greet-1.0/lib/greet.rb",
            "require_relative 'greet/version'\nmodule Greet; def self.hello = \"greet \
             #{VERSION}\"; end",
        ),
        (
            "gems/greet-1.0/lib/greet/version.rb",
            "module Greet; VERSION = '1.0'; end",
        ),
    ]);
    let mut spec = spec();
    spec.directories = vec![PreopenedDirectory {
        dir: std::fs::File::open(project.path().join("gems")).unwrap(),
        to: "/libs".into(),
    }];
    let guest = project.guest("w.rb", spec);
    for _ in 0..2 {
        assert_eq!(
            body(&guest, "/").await,
            "greet 1.0 greet-1.0,out.txt é false"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_has_only_the_variables() {
    let mut spec = spec();
    spec.env = vec![("GREETING".into(), "grüße".into())];
    let (_project, guest) = worker_with(
        "def worker(req) = Response.new(\"#{ENV.to_h} #{ENV['GREETING'].encoding} \
         #{ENV.fetch('NO', 'é')} #{ENV['NO'].inspect} #{ENV.map { _2 }}\")",
        spec,
    );
    assert_eq!(
        body(&guest, "/").await,
        r#"{"GREETING" => "grüße"} UTF-8 é nil ["grüße"]"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_load_errors_with_their_position() {
    for (source, why) in [
        ("def worker(req)\n  foo(\nend", "w.rb:"),
        ("def worker(req)\n  1 +* 2\nend", "w.rb:2: unexpected"),
        ("\nraise 'boom'", "w.rb:2: boom (RuntimeError)"),
        ("\nrequire_relative 'bad'", "bad.rb:2:"),
        ("\n\nno_such_thing", "w.rb:3: undefined local variable"),
        (
            "require_relative 'no'",
            "w.rb:1: cannot load /no: there is no such file",
        ),
        ("require './no'", "w.rb:1: cannot load ./no"),
        ("require '../../etc/no'", "cannot load ../../etc/no"),
        (
            "require 'no/such/gem'",
            "cannot load such file -- no/such/gem (LoadError)",
        ),
        ("a = 1", "it defines no method `worker`"),
        ("def worker = 1", "w.rb:1: `worker` must take one argument"),
        (
            "def worker(a, b) = 1",
            "w.rb:1: `worker` must take one argument",
        ),
        ("exit", "w.rb:1: it called `exit`"),
        ("exit!", "exit"),
        (
            "require 'securerandom'\nSecureRandom.hex",
            "w.rb:2: secret random values can be drawn only while a request is handled",
        ),
        ("Random.urandom(4)", "w.rb:1: secret random values"),
        (
            "Cache.set('a', 1)",
            "w.rb:1: only while a request is handled",
        ),
        ("fetch('http://a/')", "only while a request is handled"),
        (
            "Thread.new {}",
            "w.rb:1: a worker has one thread: Thread.new, Timeout and what needs them are not \
             there (NotImplementedError)",
        ),
        (
            "require 'bigdecimal'",
            "w.rb:1: cannot load such file -- bigdecimal (a gem with native code",
        ),
        ("require 'nokogiri'", "rexml is in pure Ruby"),
        (
            "require 'ipaddr'\nIPAddr.new('x')",
            "w.rb:2: invalid address:",
        ),
        ("def f = f\nf", "w.rb:1: stack level too deep"),
        ("STDOUT.pwrite(\"x\\n\", 0)", "cannot be read"),
    ] {
        let project = Project::new(&[("w.rb", source), ("bad.rb", "x = 1\ndef (")]);
        let error = project.load("w.rb", spec()).err().expect(source);
        let error = error.to_string();
        assert!(error.contains(why), "{source}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_fail_the_call_and_name_the_line() {
    for (source, why) in [
        (
            "def worker(req)\n  nil.x\nend",
            "w.rb:2: undefined method 'x' for nil (NoMethodError)",
        ),
        (
            "require 'json'\ndef worker(req)\n  JSON.parse('{')\nend",
            "w.rb:3: ",
        ),
        (
            "def worker(req) = 7",
            "`worker` returned 7 (Integer) instead of a Response",
        ),
        (
            "def worker(req) = nil",
            "`worker` returned nil instead of a Response",
        ),
        (
            "def worker(req) = Response.new(7)",
            "gives Strings by `each`; this is 7 (Integer)",
        ),
        (
            "def worker(req) = Response.new({ a: 1 })",
            "this is {a: 1} (Hash)",
        ),
        ("def worker(req) = Response.new([1])", "this is 1 (Integer)"),
        ("def worker(req) = Response.new('', 99)", "99"),
        (
            "def worker(req) = Response.new('', 'many')",
            "invalid value for Integer()",
        ),
        (
            "def worker(req) = Response.new('', 200, { 'a b' => 'c' })",
            "a b",
        ),
        (
            "def worker(req) = Response.new('', 200, 'text')",
            "headers are a Hash",
        ),
        ("def worker(req)\n  exit 3\nend", "w.rb:2: it called `exit`"),
        ("def worker(req) = exit!", "exit"),
        (
            "def worker(req)\n  abort 'no'\nend",
            "w.rb:2: it called `exit`",
        ),
        ("def worker(req) = throw(:x)", "uncaught throw :x"),
        ("def worker(req) = Thread.new {}", "(NotImplementedError)"),
        (
            "def worker(req)\n  raise NoMemoryError\nend",
            "w.rb:2: NoMemoryError",
        ),
        (
            "def worker(req)\n  raise Exception, \"a\\nb\"\nend",
            "w.rb:2: a (Exception)",
        ),
        (
            "def worker(req)\n  Wws::Channel.tell({ op: 'nothing' })\nend",
            "no operation",
        ),
        ("def worker(req)\n  eval('1 +')\nend", "w.rb:2: unexpected"),
        (
            "def worker(req)\n  STDOUT.close\n  puts 'x'\nend",
            "closed stream",
        ),
    ] {
        let (_project, guest) = worker(source);
        let error = guest.call(get("/")).await.expect_err(source).to_string();
        assert!(error.contains(why), "{source}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_of_the_language_is_no_error() {
    let (_project, guest) = worker(
        r#"
        Point = Struct.new(:x)
        def deep(n) = n.zero? ? 0 : 1 + deep(n - 1)
        def worker(req)
          fiber = Fiber.new { Fiber.yield 1; 2 }
          list = [fiber.resume, fiber.resume]
          list << catch(:t) { throw :t, 7 }
          list << (Integer("zz") rescue "bad")
          list << (begin; deep(100_000); rescue SystemStackError; "deep"; end)
          list << deep(1000) << Point.new(3).x
          list << [3, 1, 2].lazy.map { _1 * 2 }.sort.first
          list << begin; raise "a"; rescue => e; e.message; ensure list << "ensured"; end
          GC.start
          sleep 0.001
          at_exit { raise "never" }
          list << (Process.clock_gettime(Process::CLOCK_MONOTONIC) > 0) << (Time.now.year > 2023)
          Response.new(list.join(" "))
        end
        "#,
    );
    for _ in 0..2 {
        assert_eq!(
            body(&guest, "/").await,
            "1 2 7 bad deep 1000 3 2 ensured a true true"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_changes_the_store() {
    let store: Arc<dyn wws_kv::Store> = Arc::new(wws_kv::MemoryStore::default());
    let source = r#"
        def worker(req)
          n = (Cache.get("n") || 0).to_i + 1
          Cache.set("n", n)
          Cache["gone"] = "1"
          Cache.delete("gone")
          sum = begin; Cache.increment("sum", 5); rescue Wws::Error => e; e.kind; end
          Response.new([n, Cache["n"], Cache.get("gone").inspect, sum].join(","))
        end"#;
    let mut with = spec();
    with.kv = Some(wws_engine::KvGrant::new(store.clone(), "ns"));
    let (_project, guest) = worker_with(source, with);
    for n in 1..4 {
        assert_eq!(body(&guest, "/").await, format!("{n},{n},nil,{}", n * 5));
    }
    assert_eq!(store.get("ns", "n").await.unwrap().unwrap(), "3");
    assert_eq!(store.get("ns", "gone").await.unwrap(), None);
    // Without a store, nothing is kept.
    let (_project, guest) = worker(source);
    assert_eq!(body(&guest, "/").await, "1,,nil,no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_others_are_sent_within_the_allow_list() {
    let address = loopback(Duration::ZERO, echo).await;
    let with = reaching(address, &[http::Method::GET, http::Method::PUT]);
    let (_project, guest) = worker_with(
        r##"
        def refused(*args, **options)
          fetch(*args, **options)
        rescue Wws::FetchError => e
          e.kind
        end

        def worker(req)
          got = fetch("#{ENV["TARGET"]}/a?b=1", headers: { "X-N" => ["1", "2"] })
          put = fetch("#{ENV["TARGET"]}/", method: :put, body: "\xff\x00".b)
          Response.json([got.status, got.ok?, got.header_values("Set-Cookie"), got.headers["set-cookie"], got.body[/\A.*/].strip,
            got.body.scan(/x-n: \d/), put.body.encoding.to_s, put.body.bytes.last(2), refused("http://10.0.0.1/"),
            refused(ENV["TARGET"], method: "DELETE"), refused("nothing")])
        end
        "##,
        with,
    );
    assert_eq!(
        body(&guest, "/").await,
        r#"[201,true,["a=1","b=2"],"a=1, b=2","GET /a?b=1 HTTP/1.1",["x-n: 1","x-n: 2"],"ASCII-8BIT",[255,0],"not-allowed","not-allowed","invalid-request"]"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_cookies_by_semicolons_and_keeps_lines_apart() {
    let (_project, guest) = worker(
        r##"
        def worker(req)
          headers = req.headers
          headers["x-new"] = "n"
          headers.delete("x-old")
          Response.new("#{req.headers["Cookie"]}|#{req.headers["set-cookie"]}", 200, headers)
        end
        "##,
    );
    let mut call = get("/");
    for (name, value) in [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("set-cookie", "c=1, x"),
        ("set-cookie", "d=2"),
        ("x-old", "o"),
    ] {
        call.request
            .headers_mut()
            .append(name, value.parse().unwrap());
    }
    let response = guest.call(call).await.unwrap();
    assert_eq!(response.body(), "a=1; b=2|c=1, x, d=2");
    let values = response.headers().get_all("set-cookie");
    let values: Vec<_> = values.iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(values, ["c=1, x", "d=2"]);
    assert_eq!(response.headers()["x-new"], "n");
    assert!(!response.headers().contains_key("x-old"));
}

#[tokio::test(flavor = "multi_thread")]
async fn libraries_that_can_do_without_load() {
    let (_project, guest) = worker(
        r##"
        require "securerandom"
        # As Sinatra does.
        SECRET = begin
          SecureRandom.hex(64)
        rescue LoadError, NotImplementedError
          format("%064x", Kernel.rand((2**256) - 1))
        end
        require "ipaddr"
        require "net/http"
        require "open-uri"
        require "tempfile"
        require "timeout"
        EARLY = Cache.get("a")

        def why
          yield
        rescue NotImplementedError, StandardError => e
          "#{e.class}: #{e.message}"
        end

        def worker(req)
          Response.new([
            SECRET.size, EARLY.inspect, IPAddr.new("10.0.0.0/8").include?("10.1.2.3"), IPAddr.new("::1").ipv6?,
            why { Net::HTTP.get(URI("http://example.com/")) },
            why { URI.open("https://example.com/") },
            why { TCPSocket.new("a", 1) },
            why { Thread.new {} },
            why { Timeout.timeout(1) { sleep 2 } },
            why { `echo hi` },
            why { system("ls") },
            why { IO.popen("ls") },
            why { Tempfile.new("a") },
            why { Dir.mktmpdir }
          ].join("\n"))
        end
        "##,
    );
    let answer = body(&guest, "/").await;
    let lines: Vec<_> = answer.lines().collect();
    for (index, why) in [
        "64",
        "nil",
        "true",
        "true",
        "a worker has no sockets: use fetch()",
        "a worker has no sockets: use fetch()",
        "NotImplementedError: a worker has no sockets: use fetch()",
        "NotImplementedError: a worker has one thread",
        "NotImplementedError: a worker has one thread",
        "NotImplementedError: a worker starts no processes",
        "NotImplementedError: a worker starts no processes",
        "NotImplementedError: a worker starts no processes",
        "ArgumentError: a worker has no directory for temporary files",
        "ArgumentError: a worker has no directory for temporary files",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(lines[index].contains(why), "{why}: {}", lines[index]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_values_at_load_can_be_allowed() {
    let mut allowed = spec();
    allowed.env = vec![("WWS_RANDOM_AT_LOAD".into(), "allow".into())];
    let (_project, guest) = worker_with(
        "require 'securerandom'\nID = SecureRandom.hex\nMADE = Random.new\n\
         def worker(req) = Response.new(\"#{ID} #{SecureRandom.hex} #{MADE.rand} #{ENV.to_h}\")",
        allowed,
    );
    let (one, two) = (body(&guest, "/").await, body(&guest, "/").await);
    let (one, two): (Vec<_>, Vec<_>) = (one.split(' ').collect(), two.split(' ').collect());
    assert_eq!(one[0], two[0]);
    assert_ne!(one[1], two[1]);
    assert_ne!(one[2], two[2]);
    assert_eq!(one[3], "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sleeps_for_the_requested_time() {
    let (_project, guest) = worker(
        r#"
        def worker(req)
          before = Time.now
          sleep 0.05
          IO.select(nil, nil, nil, 0.01)
          Response.new((Time.now - before).to_s)
        end
        "#,
    );
    tokio::time::sleep(std::time::Duration::from_millis(1600)).await;
    let slept = common::waits_less_than_a_second(&guest).await[0];
    assert!(slept >= 0.06, "{slept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_have_their_url() {
    let address = common::redirecting("/moved", "/end", "end").await;
    let http = common::outgoing(address, &[http::Method::GET]);
    let mut with = spec();
    with.env = vec![("TARGET".into(), format!("http://{address}"))];
    with.http = Some(http);
    let (_project, guest) = worker_with(
        r#"
        def worker(req)
          at = ENV["TARGET"]
          Response.json([fetch(at + "/moved"), fetch(at + "/end")].map { |a| [a.url.delete_prefix(at), a.redirected?, a.body] })
        end
        "#,
        with,
    );
    assert_eq!(
        body(&guest, "/").await,
        r#"[["/end",true,"end"],["/end",false,"end"]]"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn store_lists_compares_and_expires_keys() {
    common::store_operations(
        "w.rb",
        r#"
        def worker(req)
          found = []
          Cache.set("a:3", "new")
          Cache.delete("a:1")
          found.push(Cache.list("a:"), Cache.list(limit: 2), Cache.list("a:", after: "a:2"))
          found.push(Cache.compare_and_set("k", nil, "1"), Cache.compare_and_set("k", nil, "2"), Cache.get("k"))
          found.push(Cache.compare_and_set("k", "1", "3", ttl: 3600), Cache.get("k"))
          Cache.set("short", 1, ttl: 0.01)
          begin; Cache.set("w", 1, ttl: 0); rescue ArgumentError => e; found.push(e.class.name); end
          Response.json(found)
        end"#,
        r#"["ArgumentError"]"#,
    )
    .await;
}
