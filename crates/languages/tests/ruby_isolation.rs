//! No request of a Ruby worker sees another, and a bad request fails alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{
    Project, get,
    isolation::{self, all_answer, draws_no_part_twice},
    spec,
};
use wws_engine::Guest;

fn worker(source: &str, cpu_time: Duration) -> (Project, Guest) {
    isolation::guest("w.rb", source, cpu_time)
}

/// Calls of `bad` fail for one of the reasons in `why`, and others do not.
async fn fails_alone(source: &str, why: &str) {
    let source = format!(
        "{source}\ndef worker(req)\n  bad if req.url.end_with?('/bad')\n  Response.new('ok')\nend"
    );
    isolation::fails_alone("w.rb", &source, why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_do_not_see_changes_of_earlier_ones() {
    let (_project, guest) = worker(
        r#"
        $n = 0
        LIST = []
        class Counter; @@n = 0; def self.n = @@n += 1; end
        def worker(req)
          LIST << 1
          first = !"".respond_to?(:marked)
          String.class_eval { def marked = true }
          ENV["X"] = ENV["X"].to_s + "x"
          $big = "x" * (1 << 20)
          Response.new([$n += 1, LIST.size, Counter.n, first, ENV["X"], rand.class].join(","))
        end"#,
        Duration::from_secs(30),
    );
    all_answer(&guest, 4, 20, "1,1,1,true,x,Float").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_different_random_numbers() {
    let (_project, guest) = worker(
        r#"
        require "securerandom"
        require "openssl"
        require "random/formatter"
        rand
        RNG = Random.new
        OpenSSL::Random.random_bytes(4)
        OpenSSL::Cipher.new("aes-256-gcm").encrypt.random_iv
        def worker(req)
          Response.new([rand, Random.rand, Random.bytes(8).unpack1("H*"), Array.new(30) { _1 }.shuffle.join("-"), Random.seed,
            RNG.rand, RNG.bytes(8).unpack1("H*"), Random.new.rand, Random.new_seed, Random.urandom(8).unpack1("H*"), SecureRandom.uuid, SecureRandom.hex,
            SecureRandom.rand, SecureRandom.alphanumeric(20), Random.hex(8), OpenSSL::Random.random_bytes(8).unpack1("H*"),
            OpenSSL::Cipher.new("aes-256-gcm").encrypt.random_iv.unpack1("H*")].join(","))
        end"#,
        Duration::from_secs(30),
    );
    draws_no_part_twice(&guest, 50, 17, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generator_with_a_seed_keeps_it() {
    let (_project, guest) = worker(
        "SEEDED = Random.new(42)\ndef worker(req) = Response.new(SEEDED.rand(1000).to_s)",
        Duration::from_secs(30),
    );
    for _ in 0..3 {
        assert_eq!(guest.call(get("/")).await.unwrap().body(), "102");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_loops_end() {
    for bad in [
        "def bad = loop { nil }",
        "def bad\n  i = 0\n  i += 1 while true\nend",
        "def bad\n  begin\n    loop { nil }\n  ensure\n    loop { nil }\n  end\nend",
        "def bad = (/^(a|a?)+$/.match?('a' * 60 + 'b'); loop { nil })",
        "def bad\n  f = Fiber.new { loop { Fiber.yield } }\n  loop { f.resume }\nend",
        "def bad = loop { begin; raise 'x'; rescue Exception; retry; end }",
        "def bad = loop { warn 'x' }",
    ] {
        fails_alone(bad, "limits.cpu_time").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_bombs_end() {
    for bad in [
        "def bad\n  all = []\n  loop { all << ('x' * 1_000_000) }\nend",
        "def bad\n  s = 'x'\n  loop { s << s }\nend",
        "def bad\n  all = []\n  loop { all << Object.new }\nend",
        "def bad\n  h = {}\n  i = 0\n  loop { h[i += 1] = \"v#{i}\" }\nend",
        "def bad = (begin; a = []; loop { a << 'x' * 1_000_000 }; rescue NoMemoryError; raise \
         'caught'; end)",
        "def bad = loop { Fiber.new { Fiber.yield 1 }.tap { ($f ||= []) << _1 }.resume }",
    ] {
        fails_alone(bad, "memory|caught|too big|limits|Fiber|NoMemory").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recursion_ends() {
    for bad in [
        "def bad = bad() + 1",
        "def bad = [1].each { bad }",
        "def bad = instance_eval { bad }",
        "def bad = (a = []; 100_000.times { a = [a] }; a.flatten; a.hash; a.inspect; raise 'deep')",
        "def bad = eval('bad')",
        "def bad = send(:bad)",
        "class A; def to_s = \"#{self}\"; end\ndef bad = A.new.to_s",
        "class B; def method_missing(n) = x; def respond_to_missing?(*) = true; end\n\
         def bad = B.new.y",
        "def bad = bad rescue bad",
    ] {
        fails_alone(bad, "stack level too deep|deep|trapped|limits.cpu_time").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_on_the_interpreter_fail_alone() {
    for (bad, why) in [
        (
            "def bad = (GC.stress = true; loop { 'x' + 'y' })",
            "limits.cpu_time",
        ),
        (
            "def bad = (GC.disable; loop { 'x' * 1000 })",
            "memory|limits",
        ),
        ("def bad = exit!(7)", "exit"),
        ("def bad = (STDOUT.close; STDIN.close; raise 'closed')", ""),
        (
            "def bad = (Object.class_eval { def respond_to?(*) = raise('broken') }; \
             nil.respond_to?(:x))",
            "broken",
        ),
        (
            "def bad = (Object.send(:remove_const, :JSON); JSON)",
            "uninitialized constant JSON",
        ),
        (
            "def bad = (String.class_eval { def bytesize = raise('broken') }; raise 'y')",
            "",
        ),
        (
            "def bad = (Wws.define_singleton_method(:failed) { |e| nil }; raise 'gone')",
            "no answer",
        ),
        (
            "def bad = ObjectSpace.each_object { |o| o.freeze rescue nil }.then { raise 'frozen' }",
            "frozen|no answer|trapped",
        ),
        ("def bad = (trap('TERM') {}; raise 'z')", ""),
        ("def bad = (`ls`; raise 'no')", "w.rb"),
        ("def bad = fork", "NotImplementedError"),
    ] {
        fails_alone(bad, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_ends() {
    let (_project, guest) = worker(
        "def worker(req) = Response.new('x' * (20 << 20))",
        Duration::from_secs(30),
    );
    let error = guest.call(get("/")).await.unwrap_err().to_string();
    assert!(error.contains("limits.output"), "{error}");
    let (_project, guest) = worker(
        "def worker(req)\n  10_000.times { puts 'x' * 100 }\n  Response.new('ok')\nend",
        Duration::from_secs(30),
    );
    assert_eq!(guest.call(get("/")).await.unwrap().body(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_at_the_wall_clock() {
    let project = Project::new(&[("w.rb", "def worker(req) = sleep(1_000_000)")]);
    let mut spec = spec();
    spec.limits.wall_time = Duration::from_millis(300);
    let guest = project.guest("w.rb", spec);
    let error = guest.call(get("/")).await.unwrap_err();
    assert!(
        matches!(error, wws_engine::CallError::WallTime(_)),
        "{error}"
    );
}
