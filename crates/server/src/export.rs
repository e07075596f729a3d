//! The exporter of a server: what the standard variables (`OTEL_*`) say, and the metrics.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use wws_otlp::{ExportOptions, ExportSettings, Exporter, RunningExporter};
use wws_outbound::{Overrides, Proxies};
use wws_project::Problem;
use wws_telemetry::Telemetry;

use crate::request::app::App;
use crate::status::metrics;
use crate::workers::outgoing::{self, RESOLVE};

/// The time to export what is left when a server stops.
const LAST_EXPORT: Duration = Duration::from_secs(1);

/// An exporter that is not started.
pub(crate) struct PreparedExport {
    /// `None` if the variables ask for none.
    pub(crate) exporter: Option<Exporter>,
    /// What is wrong with the variables: a server that is not watched is better than none.
    pub(crate) warnings: Vec<Problem>,
}

/// The exporter that the variables ask for.
pub(crate) fn exporter(
    env: &BTreeMap<String, String>,
    root: &Path,
    telemetry: &Telemetry,
) -> PreparedExport {
    let variable = |name: &str| env.get(name).map(String::as_str);
    let (settings, problems) = ExportSettings::from_env(variable);
    let problems = problems.iter().map(ToString::to_string);
    let mut warnings: Vec<_> = problems.map(warning).collect();
    let Some(settings) = settings else {
        return PreparedExport {
            exporter: None,
            warnings,
        };
    };
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let proxies = Proxies::from_env(set).map_err(|error| error.to_string());
    // Checked when the clients of workers were made.
    let resolve = Overrides::parse(set(RESOLVE).unwrap_or("")).unwrap_or_default();
    let exporter = proxies.and_then(|proxies| {
        let options = ExportOptions {
            version: telemetry.version(),
            roots: outgoing::roots(root, set),
            proxies,
            resolve,
        };
        Exporter::new(settings, &options).map_err(|error| error.to_string())
    });
    let exporter = exporter.map_err(|error| {
        warnings.push(warning(format!("nothing is exported by OTLP: {error}")));
    });
    PreparedExport {
        exporter: exporter.ok(),
        warnings,
    }
}

fn warning(message: String) -> Problem {
    Problem {
        file: "environment".into(),
        line: None,
        column: None,
        message,
        help: None,
    }
}

/// Starts an exporter.
pub(crate) fn start(exporter: Exporter, app: &Arc<App>) -> RunningExporter {
    let shown = app.clone();
    exporter.start(&app.telemetry, move |sink| {
        metrics::collect(&shown.status(&shown.generation()), sink);
    })
}

/// Stops an exporter when everything else has ended.
pub(crate) async fn stop(exporter: Option<RunningExporter>) {
    if let Some(exporter) = exporter {
        exporter.stop(LAST_EXPORT).await;
    }
}
