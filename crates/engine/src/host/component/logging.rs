//! `wasi:logging`: messages with a level, as lines of the log.

use tracing::Level;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, WasmStr};

use crate::host::state::Host;

/// The names under which toolchains import the interface. Its function is the same in all.
const NAMES: [&str; 2] = [
    "wasi:logging/logging@0.1.0-draft",
    // As the proposal has it.
    "wasi:logging/logging",
];

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "the guest makes the values")]
enum MessageLevel {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

impl From<MessageLevel> for Level {
    fn from(level: MessageLevel) -> Self {
        match level {
            MessageLevel::Trace => Self::TRACE,
            MessageLevel::Debug => Self::DEBUG,
            MessageLevel::Info => Self::INFO,
            MessageLevel::Warn => Self::WARN,
            // The log has no higher level.
            MessageLevel::Error | MessageLevel::Critical => Self::ERROR,
        }
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    for name in NAMES {
        linker.instance(name)?.func_wrap(
            "log",
            |mut store: StoreContextMut<'_, Host>,
             (level, context, message): (MessageLevel, WasmStr, WasmStr)| {
                let log = store.data_mut().component().log.clone();
                log.write_message(
                    level.into(),
                    &context.to_str(&store)?,
                    &message.to_str(&store)?,
                );
                Ok(())
            },
        )?;
    }
    Ok(())
}
