//! A Prometheus scrapes the admin address, and knows every metric that docs, rules and dashboard
//! name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use wws_test::server::Server;
use wws_test::{command, http, port, wait, workspace};

const LIMIT: Duration = Duration::from_secs(60);

/// A worker that fails.
const TRAPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;

/// Requests of `/hello` and of `/traps`.
const REQUESTS: [(&str, u32); 2] = [("/hello", 7), ("/traps", 3)];

/// A server with an admin address, which has answered requests.
struct Scraped {
    directory: TempDir,
    admin: u16,
    _server: Server,
}

impl Scraped {
    fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let project = directory.path().join("project");
        fs::create_dir(&project)?;
        fs::copy(workspace::guest("hello")?, project.join("hello.wasm"))?;
        fs::write(project.join("traps.wasm"), wat::parse_str(TRAPS)?)?;
        let admin = port::free()?;
        let variables = [
            ("WWS_ADMIN", &*format!("127.0.0.1:{admin}")),
            // Nobody listens there: its failures are counted, too.
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ];
        let server = Server::start(&project, directory.path().join("log"), &variables)?;
        for (path, count) in REQUESTS {
            for _ in 0..count {
                http::get(server.port(), path)?;
            }
        }
        Ok(Self {
            directory,
            admin,
            _server: server,
        })
    }

    fn metrics(&self) -> Result<String> {
        let answer = http::get(self.admin, "/metrics")?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(answer.text())
    }

    /// The names of all families, with or without values.
    fn families(&self) -> Result<BTreeSet<String>> {
        let text = self.metrics()?;
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names = types.filter_map(|line| line.split(' ').next());
        Ok(names.map(ToOwned::to_owned).collect())
    }
}

fn tool(name: &str) -> Result<PathBuf> {
    Ok(workspace::tools("prometheus")?.join("usr/bin").join(name))
}

/// The rules of the manifest for the Prometheus Operator, as Prometheus itself reads them.
fn rules() -> Result<String> {
    let path = workspace::root().join("deploy/kubernetes/metrics/prometheusrule.yaml");
    let text = fs::read_to_string(path)?;
    let (_, spec) = text.split_once("\nspec:\n").context("no spec")?;
    let lines = spec
        .lines()
        .map(|line| line.strip_prefix("  ").unwrap_or(line));
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
}

fn dashboard() -> Result<Value> {
    let path = workspace::root().join("deploy/grafana/wws.json");
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The queries of a dashboard, as they are without a user's choices.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.filter_map(|target| target["expr"].as_str());
    queries
        .map(|query| {
            query
                .replace("$__rate_interval", "1m")
                .replace("$job", ".*")
                .replace("$worker", ".*")
        })
        .collect()
}

/// The names of metrics in a text: in a query, or between the quotes of a table.
fn names(text: &str) -> BTreeSet<String> {
    let words =
        text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let metrics = words.filter(|word| word.starts_with("wws_") || word.starts_with("process_"));
    let families = metrics.map(|name| {
        let suffix = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        suffix.unwrap_or(name).to_owned()
    });
    families.collect()
}

struct Prometheus {
    child: Child,
    port: u16,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Prometheus {
    fn start(directory: &Path, target: u16) -> Result<Self> {
        fs::write(directory.join("rules.yml"), rules()?)?;
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n\
             - job_name: wws\n\
             \x20 static_configs: [{{ targets: ['127.0.0.1:{target}'] }}]\n"
        );
        fs::write(directory.join("prometheus.yml"), config)?;
        let port = port::free()?;
        let child = Command::new(tool("prometheus")?)
            .current_dir(directory)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("prometheus.log"))?)
            .spawn()
            .context("start prometheus")?;
        Ok(Self { child, port })
    }

    fn get(&self, path: &str) -> Result<Value> {
        let answer = http::get(self.port, path)?.json()?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].clone())
    }

    /// The values of an instant query.
    fn query(&self, query: &str) -> Result<Vec<Value>> {
        let mut encoded = String::new();
        for byte in query.bytes() {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        let data = self.get(&format!("/api/v1/query?query={encoded}"));
        let data = data.with_context(|| query.to_owned())?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}

#[test]
fn a_prometheus_scrapes_the_admin_address() -> Result<()> {
    let scraped = Scraped::start()?;
    let prometheus = Prometheus::start(scraped.directory.path(), scraped.admin)?;
    wait::until("the target is up", LIMIT, || {
        let Ok(data) = prometheus.get("/api/v1/targets") else {
            return Ok(None);
        };
        Ok((data["activeTargets"][0]["health"] == "up").then_some(()))
    })?;
    for (worker, count) in REQUESTS {
        let query = format!("sum(wws_requests_total{{job=\"wws\",worker=\"{worker}\"}})");
        wait::until(&query, LIMIT, || {
            let found = prometheus.query(&query)?;
            let value = found.first().and_then(|one| one["value"][1].as_str());
            Ok((value == Some(&count.to_string())).then_some(()))
        })?;
    }
    let failures = r#"wws_worker_failures_total{worker="/traps",kind="trap"} == 3"#;
    assert_eq!(prometheus.query(failures)?.len(), 1);
    let time = "histogram_quantile(0.99, sum by (le) (wws_response_head_seconds_bucket))";
    assert_eq!(prometheus.query(time)?.len(), 1);
    // Every query of the dashboard is one, and every rule can be evaluated.
    for query in queries(&dashboard()?) {
        prometheus.query(&query)?;
    }
    wait::until("rules are evaluated", LIMIT, || {
        let data = prometheus.get("/api/v1/rules")?;
        let groups = data["groups"].as_array().into_iter().flatten();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let rules: Vec<_> = rules.collect();
        for rule in &rules {
            ensure!(rule["health"] != "err", "{rule}");
        }
        let is_good = !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok");
        Ok(is_good.then_some(()))
    })
}

#[test]
fn promtool_finds_nothing_to_improve() -> Result<()> {
    let scraped = Scraped::start()?;
    let file = scraped.directory.path().join("metrics");
    fs::write(&file, scraped.metrics()?)?;
    let mut promtool = Command::new(tool("promtool")?);
    promtool.args(["check", "metrics"]);
    let checked = command::run_with(&mut promtool, File::open(&file)?.into(), LIMIT)?;
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(checked.stderr, "");
    let file = scraped.directory.path().join("rules.yml");
    fs::write(&file, rules()?)?;
    let mut promtool = Command::new(tool("promtool")?);
    promtool.args(["check", "rules"]).arg(&file);
    command::run(&mut promtool, LIMIT)?.success()?;
    Ok(())
}

#[test]
fn docs_rules_and_dashboard_name_the_metrics_that_are_there() -> Result<()> {
    let families = Scraped::start()?.families()?;
    let page = fs::read_to_string(workspace::root().join("docs/operate/metrics.md"))?;
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `wws_") || line.starts_with("| `process_"));
    let documented = rows.filter_map(|row| row.split('|').nth(1)).map(names);
    let documented: BTreeSet<_> = documented.flatten().collect();
    assert_eq!(documented, families, "the table of docs/operate/metrics.md");
    let queries = queries(&dashboard()?);
    assert!(queries.len() > 10, "{queries:?}");
    for text in queries.into_iter().chain([rules()?]) {
        let unknown: Vec<_> = names(&text).difference(&families).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {text}");
    }
    Ok(())
}
