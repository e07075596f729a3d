//! What containerd passes to the shim before there is a container, and what the shim saves of it:
//! any message, command line and file is read or rejected, and options are loaded as they were
//! saved.
#![no_main]

use std::fs;
use std::path::{Component, Path};
use std::sync::LazyLock;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{CodedOutputStream, Message};
use libfuzzer_sys::fuzz_target;

use cli::args::{Args, Command};
use containerd::bootstrap::StartParameters;
use containerd::options::Options;
use oci::bundle;

// Of the shim without what runs.
#[allow(dead_code)]
#[path = "../../shim/src/cli"]
mod cli {
    pub(crate) mod args;
}
#[allow(dead_code)]
#[path = "../../shim/src/containerd"]
mod containerd {
    pub(crate) mod bootstrap;
    pub(crate) mod identifier;
    pub(crate) mod options;
    mod wire;
}
#[allow(dead_code)]
#[path = "../../shim/src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../shim/src/oci"]
mod oci {
    pub(crate) mod bundle;
}
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../../shim/src/sys"]
mod sys {
    pub(crate) mod log;
    pub(crate) mod time;
}

/// Types of options, and one that is unknown.
const TYPES: [&str; 6] = [
    "containerd.runc.v1.Options",
    "containerd.linux.runc.Options",
    "containerd.linux.runc.CreateOptions",
    "runtimeoptions.v1.Options",
    "types.googleapis.com/cri.runtimeoptions.v1.Options",
    "windows.Options",
];

/// The container of the start parameters.
const ID: &str = "c1";

static BUNDLE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.expect("a directory")
});

// The first byte is what the others are.
fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, rest)) = bytes.split_first() else {
        return;
    };
    match usize::from(kind) % 9 {
        6 => start_parameters(&without_absolute_paths(rest)),
        7 => saved(rest),
        8 => command_line(rest),
        kind => options(TYPES[kind], without_absolute_paths(rest)),
    }
});

/// The bytes without slashes: options may name a file, and the host has files that block or act
/// when they are opened.
fn without_absolute_paths(bytes: &[u8]) -> Vec<u8> {
    let no_slash = |byte: &u8| if *byte == b'/' { b'.' } else { *byte };
    bytes.iter().map(no_slash).collect()
}

fn options(kind: &str, value: Vec<u8>) {
    let any = Any {
        type_url: kind.to_owned(),
        value,
        ..Any::default()
    };
    let read = Options::from_any(Some(&any));
    if let Ok(options) = &read {
        assert!(Options::knows(&any));
        bundle::save_options(BUNDLE.path(), options).expect("room");
        assert_eq!(&bundle::load_options(BUNDLE.path()), options);
    }
    if !Options::knows(&any) {
        return;
    }
    // The same options as start parameters, with and without the container around them.
    let any = any.write_to_bytes().expect("memory");
    let extension = field(8, &field(1, &any));
    let parameters = [field(1, ID.as_bytes()), extension].concat();
    for input in [any, parameters] {
        let again = StartParameters::read(&input[..], ID);
        assert_eq!(
            again.ok().map(|all| all.options),
            read.as_ref().ok().cloned()
        );
    }
}

/// A field of bytes of a message.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    let mut output = CodedOutputStream::vec(&mut message);
    output.write_bytes(number, bytes).expect("memory");
    output.flush().expect("memory");
    drop(output);
    message
}

fn start_parameters(bytes: &[u8]) {
    match StartParameters::read(bytes, ID) {
        Ok(read) if bytes.first() == Some(&b'{') => assert_eq!(read, StartParameters::default()),
        Ok(read) => assert!(read.socket_directory.is_none_or(|path| path.is_absolute())),
        Err(error) => assert!(!format!("{error:#}").is_empty()),
    }
}

/// What is loaded from any file is loaded again as it was.
fn saved(file: &[u8]) {
    fs::write(BUNDLE.path().join("wws-options.json"), file).expect("room");
    let options = bundle::load_options(BUNDLE.path());
    bundle::save_options(BUNDLE.path(), &options).expect("room");
    assert_eq!(bundle::load_options(BUNDLE.path()), options);
}

/// Identifiers stay one name in paths and on command lines.
fn command_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(args) = Args::parse(text.split('\n').map(str::to_owned)) else {
        return;
    };
    if !matches!(
        args.command,
        Command::Start | Command::Delete | Command::Serve
    ) {
        return;
    }
    for name in [&args.namespace, &args.id] {
        let mut parts = Path::new(name).components();
        assert!(matches!(parts.next(), Some(Component::Normal(part)) if part == name.as_str()));
        assert!(parts.next().is_none() && !name.starts_with('-'), "{name:?}");
    }
}
