#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use std::{
    fs::File,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

fn module(text: &str) -> Vec<u8> {
    let text = format!(r#"(module (func (export "_start")) (data "{text}") (memory 1))"#);
    wat::parse_str(text).unwrap()
}

struct Machine {
    directory: tempfile::TempDir,
    store: CodeCache,
    compiled: AtomicUsize,
    compiling: Compiling,
    languages: Languages,
}

impl Machine {
    fn new(max: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = CodeCache::open(&directory.path().join("code"), max).unwrap();
        Self {
            directory,
            store,
            compiled: AtomicUsize::new(0),
            compiling: Compiling::default(),
            languages: Languages::standard(),
        }
    }

    /// Compiles here, and links nothing.
    fn precompile(&self) -> Precompile<'_> {
        Precompile {
            store: &self.store,
            links: None,
            container: false,
            patient: false,
            compiling: &self.compiling,
            languages: &self.languages,
            compile: &compile_here,
        }
    }

    fn project(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let project = self.directory.path().join(name);
        fs::create_dir_all(&project).unwrap();
        for (name, content) in files {
            fs::write(project.join(name), content).unwrap();
        }
        project
    }

    /// What was done, and the entries that are linked.
    fn run(&self, project: &Path) -> (Precompiled, Vec<String>) {
        let links = tempfile::tempdir_in(self.directory.path()).unwrap();
        let precompile = Precompile {
            links: Some(links.path()),
            compile: &|job, code| {
                self.compiled.fetch_add(1, Ordering::Relaxed);
                compile_here(job, code)
            },
            ..self.precompile()
        };
        let done = precompile.run(project, None).unwrap();
        (counted(done), names(links.path()))
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn done(compiled: usize, cached: usize, left: usize) -> Precompiled {
    Precompiled {
        cached,
        compiled,
        left,
        ..Precompiled::default()
    }
}

/// The counts alone.
fn counted(done: Precompiled) -> Precompiled {
    Precompiled {
        retry: 0,
        failures: Vec::new(),
        ..done
    }
}

#[test]
fn compiles_only_the_file_that_is_the_project() {
    let machine = Machine::new(1 << 30);
    let project = machine.project("p", &[("app.wasm", &module("a")), ("other.wasm", b"no")]);
    let run = |file| {
        let precompile = machine.precompile();
        precompile.run(&project, Some(Path::new(file))).unwrap()
    };
    let done = run("app.wasm");
    assert_eq!((done.compiled, done.left), (1, 0), "{done:?}");
    for outside in ["../p/app.wasm", "/etc/passwd.wasm", "none.wasm"] {
        let done = run(outside);
        assert_eq!((done.compiled, done.cached), (0, 0), "{outside}: {done:?}");
    }
}

#[test]
fn a_project_sees_its_own_code_and_no_other() {
    let machine = Machine::new(1 << 30);
    let (a, b) = (module("a"), module("b"));
    let one = machine.project("one", &[("a.wasm", &a), ("same.wasm", &a)]);
    let two = machine.project("two", &[("b.wasm", &b)]);
    let (did, of_one) = machine.run(&one);
    assert_eq!((did, of_one.len()), (done(1, 1, 0), 1));
    let (did, of_two) = machine.run(&two);
    assert_eq!((did, of_two.len()), (done(1, 0, 0), 1));
    assert_ne!(of_one, of_two);
    assert_eq!(machine.run(&one), (done(0, 2, 0), of_one));
    let entry = machine.directory.path().join("code").join(&of_two[0]);
    assert_eq!(
        fs::metadata(entry).unwrap().permissions().mode() & 0o777,
        0o444
    );
}

#[test]
fn records_the_hash_of_a_runtime_that_was_read() {
    let machine = Machine::new(1 << 30);
    let toml = "version = 1\n[[repositories]]\nname = \"r\"\n[[repositories.runtimes]]\n\
        name = \"n\"\nversion = \"1\"\n\
                extensions = [\"x\"]\n[repositories.runtimes.binary]\nfilename = \"i.wasm\"\n";
    let project = machine.project("p", &[(".wws.toml", toml.as_bytes()), ("w.x", b"")]);
    let directory = project.join(".wws/runtimes/r/n/1");
    fs::create_dir_all(&directory).unwrap();
    let wasm = module("interpreter");
    fs::write(directory.join("i.wasm"), &wasm).unwrap();
    let links = tempfile::tempdir_in(machine.directory.path()).unwrap();
    let precompile = Precompile {
        links: Some(links.path()),
        ..machine.precompile()
    };
    assert!(hashed(links.path()).is_empty());
    assert_eq!(precompile.run(&project, None).unwrap(), done(1, 0, 0));
    let digest = Sha256::digest(&wasm);
    let sha256 = hex::encode(&digest);
    let noted = hashed(links.path());
    assert_eq!(
        noted,
        [(".wws/runtimes/r/n/1/i.wasm".into(), sha256)].into()
    );
}

#[test]
fn keeps_used_entries() {
    let size = {
        let machine = Machine::new(1 << 30);
        let (_, links) = machine.run(&machine.project("p", &[("a.wasm", &module("a"))]));
        let entry = machine.directory.path().join("code").join(&links[0]);
        fs::metadata(entry).unwrap().len()
    };
    let machine = Machine::new(2 * size + size / 2);
    let project = |name: &str| machine.project(name, &[("x.wasm", &module(name))]);
    let (used, unused, new) = (project("a"), project("b"), project("c"));
    for (number, project) in [&used, &unused].into_iter().enumerate() {
        let (_, links) = machine.run(project);
        let entry = machine.directory.path().join("code").join(&links[0]);
        let time = SystemTime::now() - Duration::from_secs(1000 - number as u64);
        File::open(entry).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(machine.run(&used).0, done(0, 1, 0));
    assert_eq!(machine.run(&new).0, done(1, 0, 0));
    assert_eq!(machine.run(&used).0, done(0, 1, 0));
    assert_eq!(machine.run(&unused).0, done(1, 0, 0));
}

#[test]
fn does_not_retry_a_failed_compilation_at_once() {
    let machine = Machine::new(1 << 30);
    let project = machine.project(
        "p",
        &[
            ("bad.wasm", b"\0asm\x01\0\0\0\xff"),
            ("a.wasm", &module("a")),
        ],
    );
    assert_eq!(machine.run(&project).0, done(1, 0, 1));
    assert_eq!(machine.run(&project).0, done(0, 1, 1));
    assert_eq!(machine.compiled.load(Ordering::Relaxed), 2);
    // Put right, it is another module.
    machine.project("p", &[("bad.wasm", &module("b"))]);
    assert_eq!(machine.run(&project).0, done(1, 1, 0));
}

#[test]
fn remembers_only_failures_of_the_module() {
    type FailureCase = (&'static str, fn() -> CompileFailure, usize, bool);
    let machine = Machine::new(1 << 30);
    let cases: [FailureCase; 5] = [
        (
            "busy",
            || CompileFailure::Machine("too little CPU time".into()),
            1,
            false,
        ),
        (
            "full",
            || io::Error::from(io::ErrorKind::StorageFull).into(),
            1,
            false,
        ),
        (
            "crash",
            || CompileFailure::Crashed("signal: 6".into()),
            1,
            true,
        ),
        ("slow", || CompileFailure::CpuTime(MAX_CPU_TIME), 0, true),
        (
            "bad",
            || CompileFailure::Rejected("no module".into()),
            0,
            true,
        ),
    ];
    for (name, fail, retry, is_noted) in cases {
        let project = machine.project(name, &[("a.wasm", &module(name))]);
        let failing = Precompile {
            compile: &|job, _| {
                io::copy(job.wasm, &mut io::sink())?;
                Err(fail())
            },
            ..machine.precompile()
        };
        let did = failing.run(&project, None).unwrap();
        assert_eq!((did.left, did.retry), (1, retry), "{name}");
        let [failure] = &did.failures[..] else {
            panic!("{name}: {:?}", did.failures);
        };
        let begins = format!("a.wasm: not compiled ahead: {}; ", fail());
        assert!(failure.starts_with(&begins), "{name}: {failure}");
        let again = machine.run(&project).0;
        let expected = if is_noted {
            done(0, 0, 1)
        } else {
            done(1, 0, 0)
        };
        assert_eq!(again, expected, "{name}");
    }
}

#[test]
fn concurrent_starts_compile_once() {
    let machine = Machine::new(1 << 30);
    let project = machine.project("p", &[("a.wasm", &module("a")), ("b.wasm", &module("b"))]);
    let precompile = |job: Job<'_>, code: &mut dyn Write| {
        machine.compiled.fetch_add(1, Ordering::Relaxed);
        // Long enough for the others to come.
        std::thread::sleep(Duration::from_millis(100));
        compile_here(job, code)
    };
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let links = tempfile::tempdir_in(machine.directory.path()).unwrap();
                    let precompile = Precompile {
                        links: Some(links.path()),
                        container: true,
                        compile: &precompile,
                        ..machine.precompile()
                    };
                    let did = precompile.run(&project, None).unwrap();
                    (
                        did.compiled + did.cached,
                        did.left,
                        names(links.path()).len(),
                    )
                })
            })
            .collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), (2, 0, 2));
        }
    });
    assert_eq!(machine.compiled.load(Ordering::Relaxed), 2);
}

#[test]
fn small_project_does_not_wait_for_long_compilations() {
    let machine = Machine::new(1 << 30);
    let small = machine.project("small", &[("a.wasm", &module("a"))]);
    let text = "b".repeat(usize::try_from(SMALL).unwrap());
    let large = machine.project("large", &[("b.wasm", &module(&text))]);
    // What other images' modules do.
    let work = CompileWork {
        memory: COMPILER_MEMORY,
        small: false,
    };
    let mut held = Vec::new();
    while let Some(turn) = machine.store.cpu(work, Instant::now()).unwrap() {
        held.push(turn);
    }
    assert_eq!(machine.run(&small).0, done(1, 0, 0));
    let started = Instant::now();
    assert_eq!(machine.run(&large).0, done(0, 0, 1));
    assert!(started.elapsed() >= PATIENCE);
    assert_eq!(machine.compiled.load(Ordering::Relaxed), 1);
    // It was not its fault. A later run waits as long as it takes.
    let run_patiently = || {
        let patient = Precompile {
            patient: true,
            ..machine.precompile()
        };
        patient.run(&large, None).unwrap()
    };
    std::thread::scope(|scope| {
        let run = scope.spawn(run_patiently);
        std::thread::sleep(PATIENCE + Duration::from_millis(200));
        assert!(!run.is_finished());
        drop(held);
        assert_eq!(run.join().unwrap(), done(1, 0, 0));
    });
}

#[test]
fn requires_read_access_to_a_module() {
    let machine = Machine::new(1 << 30);
    let wasm = module("secret");
    let owner = machine.project("owner", &[("a.wasm", &wasm)]);
    machine.run(&owner);
    let sha256 = hex::encode(&Sha256::digest(&wasm));
    let config = format!(
        "version = 1\n[[repositories]]\nname = \"r\"\n[[repositories.runtimes]]\nname = \"l\"\n\
         version = \"1\"\n\
         tags = []\nstatus = \"active\"\nextensions = [\"l\"]\nargs = [\"x\"]\n\
         [repositories.runtimes.binary]\nurl = \"x\"\nfilename = \"x.wasm\"\n\
         checksum = {{ type = \"sha256\", value = \"{sha256}\" }}\n"
    );
    let thief = machine.project("thief", &[(".wws.toml", config.as_bytes()), ("a.l", b"")]);
    // Who knows its hash alone gets nothing.
    assert_eq!(machine.run(&thief), (done(0, 0, 1), Vec::new()));
    let place = thief.join(".wws/runtimes/r/l/1");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("x.wasm"), &wasm).unwrap();
    let key = engine().unwrap().code_key(&Sha256::digest(&wasm).into());
    let mut all = vec![key.file_name(), format!("{sha256}.sha256")];
    all.sort();
    assert_eq!(machine.run(&thief), (done(0, 1, 0), all));
}

#[test]
fn skips_hostile_files() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let machine = Machine::new(1 << 30);
    let outside = machine.project("outside", &[("secret.wasm", &module("secret"))]);
    let project = machine.project("p", &[("a.wasm", &module("a"))]);
    let at = |name: &str| project.join(name);
    symlink(outside.join("secret.wasm"), at("absolute.wasm")).unwrap();
    symlink("../outside/secret.wasm", at("relative.wasm")).unwrap();
    symlink("../outside", at("directory")).unwrap();
    symlink("circle.wasm", at("circle.wasm")).unwrap();
    mknodat(CWD, at("fifo.wasm"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("fifo.wasm", at("to-fifo.wasm")).unwrap();
    // Nothing of it is read, though its text is what a module begins with.
    let huge = File::create(at("huge.wasm")).unwrap();
    huge.set_len(1 << 40).unwrap();
    if rustix::process::geteuid().is_root() {
        let node = makedev(240, 255);
        mknodat(CWD, at("node"), FileType::CharacterDevice, Mode::RUSR, node).unwrap();
        symlink("node", at("node.wasm")).unwrap();
        symlink("node", at(".wws.toml")).unwrap();
    }
    let started = Instant::now();
    let (did, links) = machine.run(&project);
    assert_eq!((did, links.len()), (done(1, 0, 1), 1));
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(machine.compiled.load(Ordering::Relaxed), 1);
}

#[test]
fn skips_files_beyond_the_limit() {
    let machine = Machine::new(1 << 30);
    let project = machine.project("p", &[]);
    let wasm = module("a");
    for number in 0..MAX_FILES + 3 {
        fs::write(project.join(format!("{number}.wasm")), &wasm).unwrap();
    }
    assert_eq!(machine.run(&project).0, done(1, MAX_FILES - 1, 3));
}

#[test]
fn code_of_a_module_that_changes_is_not_kept() {
    let machine = Machine::new(1 << 30);
    let (before, after) = (module("a"), module("b"));
    let project = machine.project("p", &[("a.wasm", &before)]);
    let file = project.join("a.wasm");
    let engine = engine().unwrap();
    // Between its two readings: the handle is the same file's.
    let precompile = Precompile {
        compile: &|job, code| {
            fs::write(&file, &after).unwrap();
            compile_here(job, code)
        },
        ..machine.precompile()
    };
    assert_eq!(
        counted(precompile.run(&project, None).unwrap()),
        done(0, 0, 1)
    );
    for wasm in [&before, &after] {
        let key = engine.code_key(&Sha256::digest(wasm).into());
        assert_eq!(machine.store.state(&key), CacheEntryState::Missing);
        assert!(machine.store.failed(&key).is_none());
    }
}

#[test]
fn links_may_be_on_another_file_system() {
    let machine = Machine::new(1 << 30);
    let project = machine.project("p", &[("a.wasm", &module("a"))]);
    let Ok(links) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let precompile = Precompile {
        links: Some(links.path()),
        ..machine.precompile()
    };
    for expected in [done(1, 0, 0), done(0, 1, 0)] {
        assert_eq!(precompile.run(&project, None).unwrap(), expected);
        assert_eq!(names(links.path()).len(), 1);
    }
}
