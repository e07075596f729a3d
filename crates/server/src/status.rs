//! What an operator can read of the server: metrics, health, workers, the panel.

pub(crate) mod answer;
mod api;
pub(crate) mod metrics;
mod panel;
mod private_response;
mod process;
pub(crate) mod view;
mod workers;
