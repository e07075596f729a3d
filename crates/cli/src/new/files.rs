//! The files of new projects. Compiled languages get their kit with them, of this very version.

use crate::args::Language;

/// A file: its path below the project's directory, with `/`, and its content.
pub(super) type File = (&'static str, &'static str);

/// Includes a template.
macro_rules! template {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/", $path))
    };
}

/// Includes a file of the repository.
macro_rules! repository {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../", $path))
    };
}

/// What all projects have.
const ALL: &[File] = &[("Dockerfile", template!("all/Dockerfile"))];

/// What projects of compiled workers have.
const COMPILED: &[File] = &[
    (".gitignore", template!("compiled/gitignore")),
    ("project/hello.toml", template!("all/hello.toml")),
];

/// The files of JavaScript.
const JAVASCRIPT: &[File] = &[
    ("project/hello.js", template!("javascript/hello.js")),
    ("project/hello.toml", template!("all/hello.toml")),
    ("jsconfig.json", template!("javascript/jsconfig.json")),
    ("wws.d.ts", repository!("kits/js/wws.d.ts")),
    ("README.md", template!("javascript/README.md")),
];

/// The files of Python.
const PYTHON: &[File] = &[
    ("project/hello.py", template!("python/hello.py")),
    ("project/hello.toml", template!("all/hello.toml")),
    ("README.md", template!("python/README.md")),
];

/// The files of Ruby.
const RUBY: &[File] = &[
    ("project/hello.rb", template!("ruby/hello.rb")),
    ("project/hello.toml", template!("all/hello.toml")),
    ("README.md", template!("ruby/README.md")),
];

/// The files of Rust.
const RUST: &[File] = &[
    ("src/main.rs", repository!("images/hello/src/main.rs")),
    ("Cargo.toml", template!("rust/Cargo.toml")),
    ("Makefile", template!("rust/Makefile")),
    ("README.md", template!("rust/README.md")),
];

/// The files of Go.
const GO: &[File] = &[
    ("main.go", repository!("kits/go/examples/hello/main.go")),
    ("go.mod", template!("go/go.mod")),
    ("Makefile", template!("go/Makefile")),
    ("README.md", template!("go/README.md")),
];

/// The files of C.
const C: &[File] = &[
    ("hello.c", repository!("kits/c/examples/hello.c")),
    ("Makefile", template!("c/Makefile")),
    ("README.md", template!("c/README.md")),
];

/// The files of C++.
const CPP: &[File] = &[
    ("hello.cpp", repository!("kits/cpp/examples/hello.cpp")),
    ("Makefile", template!("cpp/Makefile")),
    ("README.md", template!("cpp/README.md")),
];

/// The files of Zig.
const ZIG: &[File] = &[
    ("hello.zig", repository!("kits/zig/examples/hello.zig")),
    ("Makefile", template!("zig/Makefile")),
    ("README.md", template!("zig/README.md")),
];

/// The files of a component.
const COMPONENT: &[File] = &[
    ("src/main.rs", template!("component/main.rs")),
    ("Cargo.toml", template!("component/Cargo.toml")),
    ("Makefile", template!("component/Makefile")),
    ("README.md", template!("component/README.md")),
];

/// The kit for Rust.
const RUST_KIT: &[File] = &[
    ("kit/Cargo.toml", repository!("kits/rust/Cargo.toml")),
    (
        "kit/macros/Cargo.toml",
        repository!("kits/rust/macros/Cargo.toml"),
    ),
    (
        "kit/macros/src/lib.rs",
        repository!("kits/rust/macros/src/lib.rs"),
    ),
    (
        "kit/src/bindings.rs",
        repository!("kits/rust/src/bindings.rs"),
    ),
    (
        "kit/src/content.rs",
        repository!("kits/rust/src/content.rs"),
    ),
    ("kit/src/lib.rs", repository!("kits/rust/src/lib.rs")),
    (
        "kit/src/request.rs",
        repository!("kits/rust/src/request.rs"),
    ),
    (
        "kit/src/response.rs",
        repository!("kits/rust/src/response.rs"),
    ),
    ("kit/src/run.rs", repository!("kits/rust/src/run.rs")),
    ("kit/README.md", repository!("kits/rust/README.md")),
];

/// The kit for Go.
const GO_KIT: &[File] = &[
    ("kit/go.mod", repository!("kits/go/go.mod")),
    ("kit/handle.go", repository!("kits/go/handle.go")),
    (
        "kit/handle_wasip1.go",
        repository!("kits/go/handle_wasip1.go"),
    ),
    ("kit/http.go", repository!("kits/go/http.go")),
    ("kit/http_other.go", repository!("kits/go/http_other.go")),
    ("kit/http_wasip1.go", repository!("kits/go/http_wasip1.go")),
    ("kit/protocol.go", repository!("kits/go/protocol.go")),
    ("kit/response.go", repository!("kits/go/response.go")),
    ("kit/worker.go", repository!("kits/go/worker.go")),
];

/// The kit for C.
const C_KIT: &[File] = &[
    ("kit/worker.h", repository!("kits/c/worker.h")),
    ("kit/src/arena.c", repository!("kits/c/src/arena.c")),
    ("kit/src/base64.c", repository!("kits/c/src/base64.c")),
    ("kit/src/http.c", repository!("kits/c/src/http.c")),
    ("kit/src/internal.h", repository!("kits/c/src/internal.h")),
    ("kit/src/json.c", repository!("kits/c/src/json.c")),
    ("kit/src/protocol.c", repository!("kits/c/src/protocol.c")),
    ("kit/src/worker.c", repository!("kits/c/src/worker.c")),
];

/// The kit for C++, over that for C.
const CPP_KIT: &[File] = &[("kit/worker.hpp", repository!("kits/cpp/worker.hpp"))];

/// The kit for Zig.
const ZIG_KIT: &[File] = &[
    ("kit/http.zig", repository!("kits/zig/src/http.zig")),
    ("kit/protocol.zig", repository!("kits/zig/src/protocol.zig")),
    ("kit/tests.zig", repository!("kits/zig/src/tests.zig")),
    ("kit/worker.zig", repository!("kits/zig/src/worker.zig")),
];

/// Returns the tables of the files of a project in `language`.
pub(super) fn files(language: Language) -> impl Iterator<Item = File> {
    let tables: &[&[File]] = match language {
        Language::Javascript => &[JAVASCRIPT],
        Language::Python => &[PYTHON],
        Language::Ruby => &[RUBY],
        Language::Rust => &[RUST, COMPILED, RUST_KIT],
        Language::Go => &[GO, COMPILED, GO_KIT],
        Language::C => &[C, COMPILED, C_KIT],
        Language::Cpp => &[CPP, COMPILED, C_KIT, CPP_KIT],
        Language::Zig => &[ZIG, COMPILED, ZIG_KIT],
        Language::Component => &[COMPONENT, COMPILED],
    };
    tables.iter().copied().flatten().chain(ALL).copied()
}
