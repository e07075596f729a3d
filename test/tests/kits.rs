//! Every kit's worker `features` answers what `kits/features.json` says, called by a real server.
//! The table of what passed is left as `target/kits.md`.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::http::Request;
use wws_test::server::Server;
use wws_test::{http, workspace};

/// The kits, and where their worker lies: built by `scripts/build-kit-guests.sh`, or a source that
/// is served as it is.
const KITS: [(&str, &str); 8] = [
    ("rust", "target/guests/rust-features.wasm"),
    ("go", "target/guests/go-features.wasm"),
    ("c", "target/guests/c-features.wasm"),
    ("cpp", "target/guests/cpp-features.wasm"),
    ("zig", "target/guests/zig-features.wasm"),
    ("js", "kits/js/examples/features.js"),
    ("python", "kits/python/examples/features.py"),
    ("ruby", "kits/ruby/examples/features.rb"),
];

/// Interpreters that a project brings along: kit, version and file. `scripts/interpreters.sh all`
/// fetches them.
const RUNTIMES: [(&str, &str, &str); 2] = [
    ("python", "3.12.0", "python.wasm"),
    ("ruby", "3.4.1", "ruby+stdlib.wasm"),
];

/// Answers requests as kits/README.md says of the host `allowed.test`, one at a time.
fn outside() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that breaks off sees it itself.
            thread::spawn(move || drop(answer_outside(&stream)));
        }
    });
    Ok(address)
}

fn answer_outside(stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let (mut sent, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "x-sent" => sent.push(value.to_owned()),
                "content-length" => length = value.parse()?,
                _ => {}
            }
        }
        let request = first.rsplit_once(' ').context("a request line")?.0;
        let mut body = format!("{request}\n{}\n", sent.join(",")).into_bytes();
        let head = body.len();
        body.resize(head + length, 0);
        reader.read_exact(&mut body[head..])?;
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 201 Created\r\nx-from: one\r\nx-from: two\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(&body)?;
    }
}

/// The bytes that a body or an answer of the table stands for.
fn bytes(value: &Value) -> Result<Vec<u8>> {
    if let Some(text) = value.as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    let once = match value.get("text") {
        Some(text) => text.as_str().context("a text")?.as_bytes().to_vec(),
        None => serde_json::from_value(value["bytes"].clone())?,
    };
    let times = value["times"].as_u64().unwrap_or(1);
    Ok(once.repeat(usize::try_from(times)?))
}

fn text<'a>(case: &'a Value, key: &str) -> Option<&'a str> {
    case.get(key)?.as_str()
}

/// Sends a case's request and compares the answer.
fn check(
    server: &Server,
    directory: &Path,
    kit: &str,
    case: &Value,
    seen: &mut HashSet<Vec<u8>>,
) -> Result<()> {
    let skip = server.log_length()?;
    let path = text(case, "path").context("a path")?;
    let mut request = Request::builder()
        .method(text(case, "method").unwrap_or("GET"))
        .uri(format!("http://127.0.0.1:{}/{kit}/{path}", server.port()));
    for line in case["headers"].as_array().into_iter().flatten() {
        let (name, value) = (
            line[0].as_str().context("a name")?,
            line[1].as_str().context("a value")?,
        );
        request = request.header(name, value);
    }
    let got = match case.get("body") {
        Some(body) => http::send(request.body(bytes(body)?)?),
        None if text(case, "method").is_some_and(|method| method != "DELETE") => {
            http::send(request.body(Vec::new())?)
        }
        None => http::send(request.body(())?),
    }?;

    let statuses: Vec<u64> = match case.get("status") {
        None => vec![200],
        Some(Value::Array(any)) => any.iter().filter_map(Value::as_u64).collect(),
        Some(one) => one.as_u64().into_iter().collect(),
    };
    ensure!(
        statuses.contains(&got.status.into()),
        "status {}",
        got.status
    );
    match case.get("answer") {
        None => {}
        Some(answer) if answer.get("begins").is_some() => {
            let begins = text(answer, "begins").context("a text")?;
            ensure!(got.text().starts_with(begins), "answer {:?}", got.text());
        }
        Some(answer) if answer.get("hex").is_some() => {
            ensure!(
                Some(got.body.len() as u64) == answer["hex"].as_u64(),
                "answer {:?}",
                got.text()
            );
            ensure!(
                got.body.iter().all(u8::is_ascii_hexdigit),
                "answer {:?}",
                got.text()
            );
            ensure!(
                seen.insert(got.body.clone()),
                "the same random bytes as before"
            );
        }
        Some(answer) => {
            let wanted = bytes(answer)?;
            ensure!(
                got.body == wanted,
                "{} bytes instead of {}: {:.200}",
                got.body.len(),
                wanted.len(),
                got.text()
            );
        }
    }
    for (name, values) in case["answer_headers"].as_object().into_iter().flatten() {
        let wanted: Vec<String> = serde_json::from_value(values.clone())?;
        let lines: Vec<_> = got
            .headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        ensure!(lines == wanted, "{name}: {lines:?}");
    }
    if let Some(file) = case.get("file") {
        let name = text(file, "name").context("a file's name")?;
        let found = fs::read_to_string(directory.join("_data").join(name))?;
        ensure!(
            Some(&*found) == text(file, "text"),
            "the file holds {found:?}"
        );
    }
    match text(case, "log") {
        Some(line) => server.logged(skip, line),
        None => Ok(()),
    }
}

/// Installs the interpreters of the kits that need one, as `wws runtimes install` does.
fn install_runtimes(project: &Path) -> Result<()> {
    let mut settings = "version = 1\n[[repositories]]\nname = \"wws\"\n".to_owned();
    for (kit, version, file) in RUNTIMES {
        if !project.join(kit).exists() {
            continue;
        }
        let from = workspace::root()
            .join("target/interpreters")
            .join(kit)
            .join(file);
        let wasm = fs::read(&from)
            .with_context(|| format!("{}: scripts/interpreters.sh all", from.display()))?;
        let directory = project.join(".wws/runtimes/wws").join(kit).join(version);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(file), &wasm)?;
        let sum: String = Sha256::digest(&wasm)
            .iter()
            .fold(String::new(), |sum, byte| sum + &format!("{byte:02x}"));
        let extension = if kit == "python" { "py" } else { "rb" };
        writeln!(
            settings,
            "[[repositories.runtimes]]\nname = \"{kit}\"\nversion = \"{version}\"\n\
             extensions = [\"{extension}\"]\nkit = \"{kit}\"\n\
             [repositories.runtimes.binary]\nfilename = \"{file}\"\n\
             [repositories.runtimes.binary.checksum]\ntype = \"sha256\"\nvalue = \"{sum}\""
        )?;
    }
    fs::write(project.join(".wws.toml"), settings)?;
    Ok(())
}

#[test]
fn every_kit_answers_what_the_table_says() -> Result<()> {
    let root = workspace::root();
    let project = tempfile::tempdir()?;
    let settings = fs::read_to_string(root.join("kits/features.toml"))?;
    let kits = KITS;
    for (kit, worker) in &kits {
        ensure!(
            root.join(worker).exists(),
            "{worker} is not there: scripts/build-kit-guests.sh"
        );
        let directory = project.path().join(kit);
        let extension = Path::new(worker)
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or("wasm");
        fs::create_dir_all(directory.join("_data"))?;
        fs::write(directory.join("_data/in.txt"), "from the host\n")?;
        fs::write(
            directory.join("[feature].toml"),
            settings.replace("LANGUAGE", kit),
        )?;
        fs::copy(
            root.join(worker),
            directory.join(format!("[feature].{extension}")),
        )?;
    }
    install_runtimes(project.path())?;
    let log = tempfile::tempdir()?;
    let resolve = format!("allowed.test={}", outside()?);
    let server = Server::start(
        project.path(),
        log.path().join("log"),
        &[
            ("GREETING", "grüße \"aus\" 🦀"),
            ("WWS_RESOLVE", &resolve),
            ("WWS_LIMITS_CPU_TIME", "2s"),
        ],
    )?;

    let cases: Vec<Value> = serde_json::from_slice(&fs::read(root.join("kits/features.json"))?)?;
    let mut problems = String::new();
    let mut table: BTreeMap<&str, BTreeMap<&str, bool>> = BTreeMap::new();
    for (kit, _) in &kits {
        let mut seen = HashSet::new();
        for case in &cases {
            let feature = text(case, "feature").context("a feature")?;
            let result = check(&server, &project.path().join(kit), kit, case, &mut seen);
            *table.entry(feature).or_default().entry(kit).or_insert(true) &= result.is_ok();
            if let Err(error) = result {
                writeln!(
                    problems,
                    "{kit}: {feature}, {}: {error:#}",
                    text(case, "name").unwrap_or_default()
                )?;
            }
        }
    }

    let mut page = format!(
        "| |{}\n|---|{}\n",
        columns(&kits, |kit| kit.to_owned()),
        columns(&kits, |_| "---".to_owned())
    );
    for (feature, passed) in &table {
        let marks = columns(&kits, |kit| {
            if passed[kit] { "yes" } else { "no" }.to_owned()
        });
        writeln!(page, "| {feature} |{marks}")?;
    }
    fs::write(root.join("target/kits.md"), &page)?;
    ensure!(problems.is_empty(), "{problems}\n{page}");
    let docs = fs::read_to_string(root.join("docs/workers/README.md"))?;
    let (_, rest) = docs.split_once("<!-- table -->\n").context("no table")?;
    let (table, _) = rest.split_once("<!-- end of table -->").context("no end")?;
    ensure!(
        table == page,
        "docs/workers/README.md has another table; the one of this run is in target/kits.md:\n\
         {page}"
    );
    Ok(())
}

fn columns(kits: &[(&str, &str)], cell: impl Fn(&str) -> String) -> String {
    kits.iter()
        .fold(String::new(), |row, (kit, _)| row + " " + &cell(kit) + " |")
}
