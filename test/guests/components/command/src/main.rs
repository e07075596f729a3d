//! A `wasi:cli` command that answers by the JSON protocol of core modules: the request on stdin,
//! the answer on stdout.

use std::env;
use std::io::{self, Read};

use serde_json::{Value, json};

fn main() {
    let mut input = String::new();
    io::stdin()
        .read_to_string(&mut input)
        .expect("a request in UTF-8");
    let request: Value = serde_json::from_str(&input).expect("a request in JSON");
    let count = request["kv"]["count"]
        .as_str()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0_u64);
    eprintln!("command: {} {}", request["method"], request["url"]);
    let answer = json!({
        "data": format!(
            "{} {} body={} params={} message={}\n",
            request["method"].as_str().unwrap_or_default(),
            request["url"].as_str().unwrap_or_default(),
            request["body"].as_str().unwrap_or_default(),
            request["params"],
            env::var("MESSAGE").unwrap_or_default(),
        ),
        "headers": { "x-component": "command" },
        "status": 200,
        "kv": { "count": (count + 1).to_string() },
    });
    println!("{answer}");
}
