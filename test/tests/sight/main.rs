//! What an operator sees, by the programs that operators use: Prometheus, an OpenTelemetry
//! collector and a browser. `make test-sight` runs all of them, `make test` those with Prometheus.

mod browser;
mod collector;
mod panel;
mod prometheus;
