//! Settings of the server: `[server]` in `.wws.toml`, overridden by `WWS_*` of the environment.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use crate::{
    AdminAddress, Limits, Network, Origins, PanelAccess,
    problem::Problem,
    reader::{Report, nearest},
    setting::{TomlType, Unit, Value, settings},
};

/// One setting, for the documentation and the JSON Schema.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The key in its table.
    pub name: &'static str,
    /// The expected value, in words.
    pub expected: &'static str,
    /// The TOML types that it may have.
    pub toml: &'static [TomlType],
    /// What its number counts; `None` if it is not a number.
    pub unit: Option<Unit>,
    /// All values, if they can be listed.
    pub values: &'static [&'static str],
    /// The least and the greatest number.
    pub bounds: (u64, u64),
    /// Empty if the default depends on the environment.
    pub default: String,
    /// What the setting does.
    pub doc: &'static str,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text.
    Text,
    /// One JSON object per line.
    Json,
}

impl Value for LogFormat {
    const TYPE: &'static str = "\"text\" or \"json\"";
    const VALUES: &'static [&'static str] = &["text", "json"];
    const TOML: &'static [TomlType] = &[TomlType::Text];
    fn parse(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Json => "json".into(),
        }
    }
}

/// Globs of files and directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globs(pub Vec<String>);

impl Value for Globs {
    const TYPE: &'static str = "globs such as \"data\" or \"**/*.md\"";
    const TOML: &'static [TomlType] = &[TomlType::Text, TomlType::Texts];
    /// Commas separate globs, except within braces.
    fn parse(text: &str) -> Option<Self> {
        let mut depth = 0_usize;
        let globs = text.split(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        });
        let globs = globs.map(str::trim).filter(|glob| !glob.is_empty());
        Some(Self(globs.map(str::to_owned).collect()))
    }
    fn show(&self) -> String {
        self.0.join(",")
    }
}

const DAY: u64 = 24 * 3600 * 1000;
const GIB: u64 = 1 << 30;

settings! {
    /// Settings of the server.
    pub struct ServerSettings in "server" {
        /// Address to listen on: `::` in a container, which is IPv6 and IPv4 (0.0.0.0 without
        /// IPv6); 127.0.0.1 for `wws`.
        host: Option<IpAddr> = None, 0 => 0;
        /// Port to listen on: 3000 in a container, 8080 for `wws`; 0 takes a free port.
        port: Option<u16> = None, 0 => 65_535;
        /// Address of the server's metrics, health checks and panel; see
        /// [the admin address](../operate/metrics.md#the-admin-address). Port 0 takes a free port.
        admin: AdminAddress = AdminAddress::Off, 0 => 0;
        /// Time to compile the project; a server that is not ready by then exits.
        compile_timeout: Duration = Duration::from_secs(600), 1000 => DAY;
        /// Prefix of every route and asset, such as `/api`.
        prefix: Option<String> = None, 0 => 0;
        /// Files and directories to ignore, relative to the project: a list in TOML, separated by
        /// commas in the environment.
        ignore: Globs = Globs::default(), 0 => 0;
        /// Time for the head of a request to arrive; then the client gets a 408 and the connection
        /// closes.
        header_timeout: Duration = Duration::from_secs(10), 1 => DAY;
        /// Time for the body of a request to arrive; then the client gets a 408. For a worker that
        /// reads it as it comes, `limits.stream_idle` takes its place.
        body_timeout: Duration = Duration::from_secs(30), 1 => DAY;
        /// Time that a connection may wait for its next request; then it closes.
        idle_timeout: Duration = Duration::from_secs(75), 1 => DAY;
        /// Time for requests in progress to end after SIGTERM; then they are aborted.
        grace_period: Duration = Duration::from_secs(8), 0 => DAY;
        /// The minimum rate, in bytes per second, at which a client takes what is sent, averaged
        /// over `body_timeout`; a slower client is disconnected. 0 sets no bound. While memory is
        /// short, a response has to be taken within `body_timeout`.
        min_send_rate: u64 = 1 << 10, 0 => GIB;
        /// Maximum size of the head of a request; a larger one gets a 431.
        max_header_bytes: u64 = 64 << 10, 8 << 10 => 16 << 20;
        /// Maximum number of headers of a request; more get a 431.
        max_headers: u32 = 100, 1 => 10_000;
        /// Maximum size of the body of a request; a larger one gets a 413. For a worker that reads
        /// it as it comes, `limits.stream_bytes` takes its place.
        max_body: u64 = 10 << 20, 0 => 4 * GIB;
        /// Concurrent connections, as far as memory and open files allow (an eighth of the memory,
        /// 40 KiB for each). For a further connection, those that have waited longest for their
        /// clients are closed.
        max_connections: u32 = 10_000, 1 => 1_000_000;
        /// Concurrent requests of an HTTP/2 connection.
        max_streams: u32 = 100, 1 => 10_000;
        /// WebSockets that are open at once, as far as connections (half of them) and memory (three
        /// quarters) allow; a further one gets a 503. They do not count as calls that run.
        max_sockets: u32 = 1024, 0 => 1_000_000;
        /// Calls of workers that run at once; 0 is 64 for each CPU.
        concurrency: u32 = 0, 0 => 100_000;
        /// Requests that may wait for a worker; further ones get a 503.
        queue: u32 = 1024, 0 => 1_000_000;
        /// Time that a request may wait for a worker before it gets a 503.
        queue_timeout: Duration = Duration::from_secs(5), 0 => DAY;
        /// Format of the log.
        log_format: LogFormat = LogFormat::Text, 0 => 0;
        /// Origins of pages that may read all responses, unless a worker has `[cors]` of its own;
        /// see [CORS](../configure/worker.md#cors).
        cors: Origins = Origins::None, 0 => 0;
        /// Whether the panel is served on the port of the workers as well; see
        /// [the panel](../operate/metrics.md#the-panel).
        panel: PanelAccess = PanelAccess::Off, 0 => 0;
        /// Whether each request is logged.
        access_log: bool = true, 0 => 0;
        /// Whether a worker that does not load prevents the start; if not, it answers 500 and the
        /// others are served.
        strict: bool = true, 0 => 0;
        /// Whether the project is loaded again when one of its files has changed; see
        /// [reload](../operate/reload.md#watch-the-files).
        watch: bool = false, 0 => 0;
        /// Private networks that requests of workers may reach, if `allowed_hosts` names the host.
        allow_private: Vec<Network> = Vec::new(), 0 => 0;
        /// Whether responses of workers are compressed (gzip, Brotli) for clients that accept it:
        /// text of 1 KiB and more; and messages of WebSockets (`permessage-deflate`). Precompressed
        /// files next to assets (`.gz`, `.br`, `.zst`) are always used.
        compression: bool = false, 0 => 0;
        /// Proxies that are trusted to report a client's address, scheme and host; see
        /// [the client's address](../configure/server.md#client-address-and-proxies).
        trusted_proxies: Vec<Network> = Vec::new(), 0 => 0;
        /// Memory for all workers together; 0 takes three quarters of the container's or the
        /// machine's.
        memory: u64 = 0, 0 => u64::MAX;
    }
}

/// Settings that take effect when the project is loaded again. All others need a restart.
const LIVE: [&str; 10] = [
    "compile_timeout",
    "prefix",
    "ignore",
    "cors",
    "panel",
    "access_log",
    "strict",
    "allow_private",
    "compression",
    "trusted_proxies",
];

/// Variables that begin with `WWS_` and are not settings.
const OTHERS: [&str; 8] = [
    "WWS_RESOLVE",
    "WWS_REPO_NAME",
    "WWS_REPO_URL",
    "WWS_LOG",
    "WWS_CODE_CACHE",
    "WWS_STORE",
    "WWS_FOLDER",
    "WWS_ARGUMENTS",
];

impl ServerSettings {
    /// Keeps the settings that a server has started with and that cannot change while it runs.
    /// Returns the names of those that would have changed.
    pub fn keep_fixed(&mut self, started: &Self) -> Vec<&'static str> {
        let mut changed = self.changed(started);
        changed.retain(|name| !LIVE.contains(name));
        self.take_over(&changed, started);
        changed
    }

    /// Takes over the `WWS_*` variables of the environment. An unknown variable is a warning: it
    /// may be meant for another program.
    ///
    /// `WWS_LIMITS_*` are limits of the project.
    pub(crate) fn override_from(
        &mut self,
        limits: &mut Limits,
        env: &BTreeMap<String, String>,
        report: &Report,
        warnings: &mut Vec<Problem>,
    ) {
        for (variable, text) in env {
            let Some(key) = variable.strip_prefix("WWS_") else {
                continue;
            };
            let place = || PathBuf::from("environment");
            // Kubernetes sets these for a service named `wws`.
            if OTHERS.contains(&variable.as_str())
                || key.starts_with("SERVICE_")
                || key.starts_with("PORT_")
                || (key == "PORT" && text.starts_with("tcp://"))
            {
                continue;
            }
            let key = key.to_ascii_lowercase();
            let set = match key.strip_prefix("limits_") {
                Some(key) => limits.set(key, variable, text),
                None => self.set(&key, variable, text),
            };
            match set {
                Some(Ok(())) => {}
                Some(Err(error)) => report.add(Problem::new(place(), error.to_string())),
                None => {
                    let names: Vec<&str> =
                        Self::table().iter().map(|setting| setting.name).collect();
                    let warning = Problem::new(place(), format!("no setting is called {variable}"));
                    warnings.push(match nearest(&key, &names) {
                        Some(name) => {
                            warning.help(format!("did you mean WWS_{}?", name.to_ascii_uppercase()))
                        }
                        None => warning,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn from_env(pairs: &[(&str, &str)]) -> (ServerSettings, Vec<Problem>, Vec<Problem>) {
        let env = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let (report, mut warnings) = (Report::default(), Vec::new());
        let mut settings = ServerSettings::default();
        settings.override_from(&mut Limits::default(), &env, &report, &mut warnings);
        (settings, report.into_problems(), warnings)
    }

    #[test]
    fn the_environment_wins() {
        let (settings, problems, warnings) = from_env(&[
            ("WWS_PORT", "81"),
            ("WWS_MAX_BODY", "1MiB"),
            ("WWS_IDLE_TIMEOUT", "2m"),
            ("WWS_ALLOW_PRIVATE", "10.0.0.0/8, fd00::/8"),
            ("PATH", "/bin"),
        ]);
        assert_eq!((settings.port, settings.max_body), (Some(81), 1 << 20));
        assert_eq!(settings.idle_timeout, Duration::from_secs(120));
        assert_eq!(settings.allow_private.len(), 2);
        assert!(problems.is_empty() && warnings.is_empty());
    }

    #[test]
    fn globs_are_separated_by_commas_outside_of_braces() {
        let (settings, problems, _) =
            from_env(&[("WWS_IGNORE", "data, *.{md,txt},"), ("WWS_PREFIX", "/v1")]);
        assert!(problems.is_empty());
        assert_eq!(settings.ignore.0, ["data", "*.{md,txt}"]);
        assert_eq!(settings.prefix.as_deref(), Some("/v1"));
    }

    #[test]
    fn a_bad_value_names_variable_and_type() {
        let (_, problems, _) = from_env(&[("WWS_PORT", "http"), ("WWS_MAX_HEADER_BYTES", "1")]);
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            all,
            [
                "environment: `WWS_MAX_HEADER_BYTES` is `1`: the least is 8KiB",
                "environment: `WWS_PORT` is `http`, expected a port number (0 to 65535)",
            ]
        );
    }

    #[test]
    fn ignores_variables_of_a_kubernetes_service_named_wws() {
        let (settings, problems, warnings) = from_env(&[
            ("WWS_PORT", "tcp://10.0.0.1:3000"),
            ("WWS_PORT_3000_TCP_ADDR", "10.0.0.1"),
            ("WWS_SERVICE_HOST", "10.0.0.1"),
        ]);
        assert_eq!(settings, ServerSettings::default());
        assert!(problems.is_empty() && warnings.is_empty());
    }

    #[test]
    fn a_variable_that_is_no_setting_is_a_warning() {
        let (_, problems, warnings) = from_env(&[("WWS_PROT", "1")]);
        assert!(problems.is_empty());
        assert_eq!(
            warnings[0].to_string(),
            "environment: no setting is called WWS_PROT\n    did you mean WWS_PORT?"
        );
    }

    #[test]
    fn settings_that_need_a_restart_are_kept_and_named() {
        let names: Vec<_> = ServerSettings::table().iter().map(|s| s.name).collect();
        assert!(LIVE.iter().all(|name| names.contains(name)), "{LIVE:?}");
        let started = ServerSettings::default();
        let mut settings = ServerSettings {
            port: Some(81),
            max_body: 1,
            access_log: false,
            ..started.clone()
        };
        assert_eq!(settings.keep_fixed(&started), ["port", "max_body"]);
        assert_eq!((settings.port, settings.access_log), (None, false));
        assert_eq!(settings.max_body, started.max_body);
    }

    #[test]
    fn every_setting_shows_a_default_that_parses() {
        for setting in ServerSettings::table() {
            if !setting.default.is_empty() {
                let mut settings = ServerSettings::default();
                settings
                    .set(setting.name, setting.name, &setting.default)
                    .unwrap()
                    .unwrap();
                assert_eq!(settings, ServerSettings::default(), "{}", setting.name);
            }
        }
    }
}
