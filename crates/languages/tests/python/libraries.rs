//! The standard library, packages and files beside the worker.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn imports_modules_beside_the_worker_only() {
    let project = Project::new(&[
        (
            "a/w.py",
            "import near, _libs.pack.deep as deep, far\nfrom _libs.pack import first\n\
             def worker(request):\n    import late\n    try:\n        open('/a/w.toml')\n    \
             except OSError: pass\n    else: raise\n\
             \n    return Response(near.x + deep.y + far.z + first + late.l + near.__file__)",
        ),
        ("a/near.py", "x = 'n'"),
        ("a/late.py", "l = 'l'"),
        ("a/w.toml", ""),
        ("far.py", "z = 'f'"),
        ("_libs/__init__.py", ""),
        (
            "_libs/pack/__init__.py",
            "from . import deep\nfirst = deep.y",
        ),
        ("_libs/pack/deep.py", "y = 'd'"),
    ]);
    let guest = project.guest("a/w.py", spec());
    assert_eq!(text(&guest, "/").await, "ndfdla/near.py");
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_hold_packages_and_data() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("pure.py"), "def f(): return 'pure'").unwrap();
    let project = Project::new(&[(
        "w.py",
        "import sys, os\nsys.path.append('/lib')\nimport pure\n\
         def worker(request):\n    open('/lib/out', 'w').write(os.environ['A'])\n    return \
         Response(pure.f() + open('/lib/out').read())",
    )]);
    let mut spec = spec();
    spec.env = vec![("A".into(), "é".into())];
    spec.directories = vec![wws_engine::PreopenedDirectory {
        dir: std::fs::File::open(directory.path()).unwrap(),
        to: "/lib".into(),
    }];
    let guest = project.guest("w.py", spec);
    assert_eq!(text(&guest, "/").await, "pureé");
    assert_eq!(text(&guest, "/").await, "pureé");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_library_works_after_the_snapshot() {
    let (_project, guest) = worker(
        r#"
import asyncio, collections, dataclasses, datetime, decimal, hashlib, html, itertools, re, sqlite3, time, zlib
started = time.monotonic()
def worker(request):
    now = datetime.datetime.now(datetime.timezone.utc)
    assert abs(now.timestamp() - time.time()) < 5 and time.monotonic() >= started
    time.sleep(0.01)
    db = sqlite3.connect(":memory:")
    db.execute("create table t (a)"); db.execute("insert into t values (7)")
    assert zlib.decompress(zlib.compress(b"x" * 1000)) == b"x" * 1000
    return Response(f"{db.execute('select a from t').fetchone()[0]} {hashlib.sha256(b'').hexdigest()[:8]} {decimal.Decimal('0.1') * 3}")
"#,
    );
    assert_eq!(text(&guest, "/").await, "7 e3b0c442 0.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_has_a_handler() {
    let (_project, guest) = worker(
        r#"
import logging
logging.info("at load")
def worker(request):
    import logging.handlers
    logging.getLogger("a.b").warning("in %s", "request")
    root = logging.getLogger()
    return Response(f"{len(root.handlers)} {root.level}")
"#,
    );
    assert_eq!(text(&guest, "/").await, "1 20");
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_packages_without_an_init_file() {
    let project = Project::new(&[
        (
            "a/w.py",
            "from _libs import util\nimport _libs.deep.one, json\n\
             def worker(request):\n    from _libs import late\n    try:\n        import _none\n    \
             except ModuleNotFoundError: pass\n\
             \n    return Response(util.u + _libs.deep.one.o + late.l + json.dumps([1]))",
        ),
        ("_libs/util.py", "u = 'u'"),
        ("a/_libs/deep/one.py", "o = 'o'"),
        ("_libs/late.py", "l = 'l'"),
        // A directory of that name is no reason to lose a module of the library.
        ("json/x.py", ""),
    ]);
    let guest = project.guest("a/w.py", spec());
    assert_eq!(text(&guest, "/").await, "uol[1]");
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_modules_that_are_unavailable_in_a_worker() {
    let (_project, guest) = worker(
        r#"
import ssl, ctypes, ctypes.util, multiprocessing, multiprocessing.pool, concurrent.futures, socket, http.client, urllib.request
from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor
from multiprocessing.managers import BaseManager
from ssl import SSLContext, OP_NO_SSLv2, PROTOCOL_TLS_CLIENT, TLSVersion
context = ssl.create_default_context()
context.minimum_version = TLSVersion.TLSv1_2
context.options |= ssl.OP_NO_COMPRESSION
context.load_verify_locations("none")
def why(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
def worker(request):
    assert ctypes.sizeof(ctypes.c_long) == 4 and ctypes.util.find_library("c") is None and multiprocessing.cpu_count() == 1
    assert not hasattr(ctypes, "windll")
    return Response("\n".join([
        why(lambda: urllib.request.urlopen("http://example.com/")),
        why(lambda: urllib.request.urlopen("https://example.com/")),
        why(lambda: socket.getaddrinfo("example.com", 80)),
        why(lambda: socket.create_connection(("10.0.0.1", 80))),
        why(lambda: socket.socket()),
        why(lambda: context.wrap_socket(None)),
        why(lambda: ThreadPoolExecutor().submit(print)),
        why(lambda: ProcessPoolExecutor().submit(print)),
        why(lambda: multiprocessing.Process(target=print).start()),
        why(lambda: multiprocessing.Pool()),
        why(lambda: ctypes.CDLL("libc.so")),
        why(lambda: __import__("threading").Thread(target=print).start()),
    ]))
"#,
    );
    let answer = text(&guest, "/").await;
    let lines: Vec<_> = answer.lines().collect();
    for (index, why) in [
        "use fetch()",
        "use fetch()",
        "gaierror: [Errno -4] a worker has no sockets: use fetch()",
        "use fetch()",
        "use fetch()",
        "SSLError: ",
        "can't start new thread: a worker has one",
        "a worker starts no processes",
        "a worker starts no processes",
        "a worker starts no processes",
        "OSError: a worker cannot call native code",
        "can't start new thread",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(lines[index].contains(why), "{why}: {}", lines[index]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn derives_keys_from_passwords() {
    let (_project, guest) = worker(
        r#"
import hashlib, hmac
def worker(request):
    if request.path == "/long": hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**12)
    keys = [
        hashlib.pbkdf2_hmac("sha256", b"passwd", b"salt", 1, 64),
        hashlib.pbkdf2_hmac("SHA-1", b"password", b"salt", 4096, 25),
        hashlib.pbkdf2_hmac("sha512", bytearray(b"p" * 300), b"", 5000),
        hashlib.scrypt(b"", salt=b"", n=16, r=1, p=1, dklen=64),
        hashlib.scrypt(b"pleaseletmein", salt=b"SodiumChloride", n=16384, r=8, p=1, dklen=64),
    ]
    for call in [lambda: hashlib.pbkdf2_hmac("md9", b"", b"", 1), lambda: hashlib.pbkdf2_hmac("sha1", b"", b"", 0),
                 lambda: hashlib.scrypt(b"", salt=b"", n=15, r=1, p=1), lambda: hashlib.scrypt(b"", salt=b"", n=1 << 20, r=8, p=1),
                 lambda: hashlib.scrypt(b"", salt=b"", n=1 << 20, r=8, p=1, maxmem=1 << 40)]:
        try:
            call()
        except ValueError:
            continue
        raise AssertionError
    return Response("\n".join(key.hex() for key in keys))
"#,
    );
    assert_eq!(
        text(&guest, "/").await.lines().collect::<Vec<_>>(),
        [
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc\
             49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
            "4b007901b765489abead49d926f721d065a429c12e463f6c4c",
            "88d034918b6177f42c2e376aee6f07947081ece53860fe867748140d2fd839d8\
             5953405752d33e205c4d6e80d5a97f1fcd24f91c50d82397565082d9f1514d12",
            "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442\
             fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906",
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2\
             d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887",
        ]
    );
    let error = guest.call(get("/long")).await.unwrap_err();
    assert!(matches!(error, CallError::CpuTime(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_values_at_load_are_refused_unless_allowed() {
    let source = "import uuid, os\nID = uuid.uuid4()\n\
                  def worker(request):\n    return Response(f'{ID} {uuid.uuid4()} {os.environ}')";
    let project = Project::new(&[("w.py", source)]);
    let error = project.load("w.py", spec()).err().unwrap().to_string();
    assert!(
        error.contains("w.py:2:6: RuntimeError") && error.contains("WWS_RANDOM_AT_LOAD"),
        "{error}"
    );
    let mut allowed = spec();
    allowed.env = vec![("WWS_RANDOM_AT_LOAD".into(), "allow".into())];
    let guest = project.guest("w.py", allowed);
    let (one, two) = (text(&guest, "/").await, text(&guest, "/").await);
    let (one, two): (Vec<_>, Vec<_>) = (one.split(' ').collect(), two.split(' ').collect());
    assert_eq!(one[0], two[0]);
    assert_ne!(one[1], two[1]);
    assert!(!one.join(" ").contains("WWS_RANDOM"), "{one:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_files_are_in_memory_or_in_a_directory_that_is_given() {
    let source = r#"
import tempfile
def worker(request):
    with tempfile.TemporaryFile() as file:
        file.write(b"bytes"); file.seek(0); out = file.read().decode()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        file.write("text"); file.seek(0); out += file.read()
    with tempfile.SpooledTemporaryFile(max_size=3) as file:
        file.write(b"spooled"); file.seek(0); out += file.read().decode()
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"named"); file.flush(); out += open(file.name).read()
        with tempfile.TemporaryDirectory() as path:
            open(path + "/a", "w").write("x"); out += path[:5]
    except FileNotFoundError as error:
        out += str(error)
    return Response(out)
"#;
    let (_project, guest) = worker(source);
    let answer = text(&guest, "/").await;
    assert!(
        answer
            .starts_with("bytestextspooled[Errno 2] a worker has no directory for temporary files")
            && answer.contains("to = \"/tmp\""),
        "{answer}"
    );
    let directory = tempfile::tempdir().unwrap();
    let project = Project::new(&[("w.py", source)]);
    let mut spec = spec();
    spec.directories = vec![wws_engine::PreopenedDirectory {
        dir: std::fs::File::open(directory.path()).unwrap(),
        to: "/tmp".into(),
    }];
    let guest = project.guest("w.py", spec);
    assert_eq!(text(&guest, "/").await, "bytestextspoolednamed/tmp/");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_error_in_a_library_names_both_positions() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("pure.py"),
        "\ndef f(): raise KeyError('x')",
    )
    .unwrap();
    let project = Project::new(&[(
        "w.py",
        "import sys\nsys.path.append('/lib')\nimport pure\npure.f()",
    )]);
    let mut spec = spec();
    spec.directories = vec![wws_engine::PreopenedDirectory {
        dir: std::fs::File::open(directory.path()).unwrap(),
        to: "/lib".into(),
    }];
    let error = project.load("w.py", spec).err().unwrap().to_string();
    assert!(
        error.contains("w.py:4:1: KeyError: 'x', raised at /lib/pure.py:2"),
        "{error}"
    );
}
