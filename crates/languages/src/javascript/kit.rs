//! The parts of the binary: the interpreter, the kit and a polyfill.

/// QuickJS-NG as Wasm, with the frames that `build.rs` widens.
pub(super) const QUICKJS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/quickjs.wasm"));

/// The Streams Standard.
pub(super) const STREAMS: &str = include_str!(concat!(
    env!("WWS_INTERPRETERS"),
    "/web-streams/polyfill.js"
));

macro_rules! kit {
    ($($file:literal)*) => {
        concat!("(function (wws) \
            {\n", $(include_str!(concat!("../../../../kits/js/src/", $file, ".js")), "\n",)* "})")
    };
}

/// The kit: a function of the object that its parts share.
pub(super) const KIT: &str = kit!(
    "base" "url" "events" "encoding" "headers" "blob" "console" "sockets" "body" "fetch"
    "clone" "performance" "crypto" "cache" "files" "main"
);
