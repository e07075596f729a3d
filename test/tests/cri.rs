//! What a kubelet does to pods, by `crictl`, on containerd 1.6, 1.7, 2.1, 2.3 and 2.4. `make
//! test-clients` runs these: `crictl` and the newest versions are built from their Go modules.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use wws_test::container::LIMIT;
use wws_test::containerd::Version;
use wws_test::image::{Image, PROBE};
use wws_test::pods::{BY_PATH, K3S, Pod, Pods};
use wws_test::registry::Registry;
use wws_test::{command, groups, http, wait};

const NATIVE: &str = env!("CARGO_BIN_EXE_native-hello");
const TOOL: &str = env!("CARGO_BIN_EXE_native-tool");

/// Where a container of workers listens.
const PORT: u16 = 3000;

/// Runs scenarios on each version that has what they are about, and looks that they leave nothing.
macro_rules! on_each_containerd {
    (
        all: [$($all:ident),* $(,)?],
        from_1_7: [$($from_1_7:ident),* $(,)?],
        from_2_1: [$($from_2_1:ident),* $(,)?],
    ) => {
        on_each_containerd![@ cri_1_6 V1_6 $($all)*];
        on_each_containerd![@ cri_1_7 V1_7 $($all)* $($from_1_7)*];
        on_each_containerd![@ cri_2_1 V2_1 $($all)* $($from_1_7)* $($from_2_1)*];
        on_each_containerd![@ cri_2_3 V2_3 $($all)* $($from_1_7)* $($from_2_1)*];
        on_each_containerd![@ cri_2_4 V2_4 $($all)* $($from_1_7)* $($from_2_1)*];
    };
    (@ $module:ident $version:ident $($name:ident)*) => {
        mod $module {
            $(#[test]
            #[ignore = "make test-clients"]
            fn $name() -> anyhow::Result<()> {
                super::on(super::Version::$version, super::$name)
            })*
        }
    };
}

on_each_containerd![
    all: [
        a_pod_has_one_shim_and_one_network,
        logs_and_statistics_and_processes,
        runs_commands_and_probes_inside,
        respects_and_updates_limits,
        respects_the_security_context_of_the_example,
        a_request_in_flight_ends_within_the_grace_period,
        exits_have_codes_and_reasons,
        a_killed_shim_stops_its_pod,
        pods_survive_a_restart_of_containerd,
        pulled_images_run,
        a_pod_is_deleted_while_its_code_compiles,
        arguments_and_the_entry_point_again_are_taken,
    ],
    from_1_7: [
        // 1.6 has no `drain_exec_sync_io_timeout`, and waits for the process.
        a_command_that_leaves_a_process_behind_ends,
        // 1.6 hands on a file with the options and nothing else, and k3s has newer ones.
        k3s_configuration_runs_workers_and_programs,
    ],
    from_2_1: [
        // Older ones do not ask the shim.
        the_shim_by_its_path_offers_what_the_oci_runtime_can,
        pods_have_user_namespaces,
    ],
];

fn on(version: Version, scenario: fn(&mut Pods) -> Result<()>) -> Result<()> {
    let mut pods = Pods::start(version, NATIVE)?;
    scenario(&mut pods)?;
    pods.expect_nothing_left()
}

fn probe(pods: &Pods) -> Result<String> {
    Image::probe("probe", "")?.import(pods.containerd())
}

/// Starts a container of workers in `pod`, and waits until it answers.
fn workers(pods: &Pods, pod: &Pod, linux: Value) -> Result<String> {
    let image = probe(pods)?;
    let id = pods.create(pod, "workers", &image, &[("NAME", "pod")], linux)?;
    pods.crictl(&["start", &id])?;
    is_served(pods, pod)?;
    Ok(id)
}

fn is_served(pods: &Pods, pod: &Pod) -> Result<()> {
    let answer = pods.get(pod, PORT, &format!("{PROBE}?log=served"))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    Ok(())
}

/// Waits until a container has ended, and returns its code and reason.
fn ended(pods: &Pods, id: &str) -> Result<String> {
    wait::until("the end", LIMIT, || {
        let state = pods.state(id)?;
        Ok(state
            .strip_prefix("CONTAINER_EXITED ")
            .map(ToOwned::to_owned))
    })
}

fn a_pod_has_one_shim_and_one_network(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod("both")?;
    let ours = workers(pods, &pod, json!({}))?;
    let native = Image::native("native", NATIVE)?.import(pods.containerd())?;
    let side_car = pods.create(&pod, "side-car", &native, &[("PORT", "3001")], json!({}))?;
    pods.crictl(&["start", &side_car])?;
    assert_eq!(pods.get(&pod, 3001, "/")?.text(), "native\n");
    assert_eq!(
        pods.containerd().shims()?.len(),
        1,
        "one shim for the pause container, the workers and the side-car"
    );

    let (of_ours, of_side_car) = (pods.pid(&ours)?, pods.pid(&side_car)?);
    let network = |pid: u64| fs::read_link(format!("/proc/{pid}/ns/net"));
    assert_eq!(network(of_ours)?, network(of_side_car)?);
    // The side-car reaches the workers on loopback.
    let net = format!("--net=/proc/{of_side_car}/ns/net");
    let mut curl = std::process::Command::new("nsenter");
    curl.args([&net, "curl", "--silent", "--fail", "--noproxy", "*"]);
    curl.arg(format!("http://127.0.0.1:{PORT}{PROBE}?log=inside"));
    assert_eq!(command::run(&mut curl, LIMIT)?.success()?, "logged");

    // A container that ends is replaced in its pod; the other goes on.
    pods.crictl(&["stop", "--timeout", "5", &ours])?;
    pods.crictl(&["rm", &ours])?;
    assert_eq!(pods.get(&pod, 3001, "/")?.text(), "native\n");
    let image = "localhost/probe:latest";
    let again = pods.create(&pod, "again", image, &[], json!({}))?;
    pods.crictl(&["start", &again])?;
    is_served(pods, &pod)?;
    pods.remove(&pod)
}

fn logs_and_statistics_and_processes(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod("logs")?;
    let id = workers(pods, &pod, json!({}))?;
    let log = wait::until("the log", LIMIT, || {
        Ok(Some(pods.log(&id)?).filter(|log| log.contains("served")))
    })?;
    assert!(log.contains("listening on"), "{log}");
    let file = fs::read_to_string(pods.logs().join("workers.log"))?;
    assert!(file.contains(" stderr F "), "CRI's own format: {file}");

    let stats = pods.crictl(&["stats", "--output", "json", &id])?;
    let stats: Value = serde_json::from_str(&stats)?;
    let of = &stats["stats"][0];
    let number = |path: &str| {
        let text = of.pointer(path).and_then(Value::as_str);
        text.and_then(|text| text.parse::<u64>().ok())
            .with_context(|| format!("{path} in {stats}"))
    };
    assert!(number("/cpu/usageCoreNanoSeconds/value")? > 0, "{stats}");
    assert!(
        number("/memory/workingSetBytes/value")? > 1 << 20,
        "{stats}"
    );

    let listed = pods.crictl(&["ps", "--output", "json"])?;
    assert!(listed.contains(&id), "{listed}");
    pods.remove(&pod)
}

fn runs_commands_and_probes_inside(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod("inside")?;
    let id = workers(pods, &pod, json!({}))?;
    // By the kubelet's way for probes, and by that of `kubectl exec`, which streams.
    for way in [&["exec", "--sync"][..], &["exec"]] {
        let exec = |words: &[&str]| pods.try_crictl(&[way, &[&id], words].concat());
        let routes = exec(&["wws", "routes"])?.success()?;
        assert!(routes.contains(PROBE), "{way:?}: {routes}");
        let well = exec(&["wws", "health", "--request=/probe?log=asked"])?;
        assert!(well.status.success(), "{way:?}: {well:?}");
        let ill = exec(&["wws", "health", "--request=/probe?read=/nothing"])?;
        assert!(!ill.status.success(), "{way:?}: {ill:?}");
        let said = format!("{}{}", ill.stdout, ill.stderr);
        assert!(said.contains("status 500"), "{way:?}: {ill:?}");
        let shell = exec(&["/bin/sh"])?;
        assert!(!shell.status.success(), "{way:?}: {shell:?}");
        assert!(shell.stderr.contains("/bin/sh"), "{way:?}: {shell:?}");
    }
    // A probe that takes too long is ended.
    let from = Instant::now();
    let mut words = vec!["exec", "--sync", "--timeout", "1", &id, "wws", "health"];
    words.extend(["--timeout=30", "--request=/probe?sleep=20000"]);
    let slow = pods.try_crictl(&words)?;
    assert!(!slow.status.success(), "{slow:?}");
    assert!(
        from.elapsed() < wait::patience(Duration::from_secs(10)),
        "{slow:?}"
    );
    is_served(pods, &pod)?;
    pods.remove(&pod)
}

fn a_command_that_leaves_a_process_behind_ends(pods: &mut Pods) -> Result<()> {
    let image = Image::native("tool", TOOL)?.entrypoint(&["/program", "sleep", "1000"]);
    let image = image.import(pods.containerd())?;
    let pod = pods.run_pod("behind")?;
    let id = pods.create(&pod, "tool", &image, &[], json!({}))?;
    pods.crictl(&["start", &id])?;
    let exec = |seconds| pods.try_crictl(&["exec", "--sync", &id, "/program", "orphan", seconds]);
    let in_time = exec("1")?.success()?;
    assert_eq!(in_time.trim(), "started");
    // The 3 s of containerd's configuration, and those that the streams are kept for: it took until
    // the client gave up.
    let from = Instant::now();
    let held = exec("300")?;
    assert!(
        held.stderr.contains("failed to drain exec process"),
        "{held:?}"
    );
    let limit = wait::patience(Duration::from_secs(20));
    assert!(from.elapsed() < limit, "{:?}", from.elapsed());
    pods.remove(&pod)
}

fn respects_and_updates_limits(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod("limits")?;
    let resources = json!({ "resources": {
        "memory_limit_in_bytes": 64 << 20,
        "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512,
    } });
    let id = workers(pods, &pod, resources)?;
    let pid = pods.pid(&id)?;
    assert_eq!(groups::is_scope(pid)?, groups::by_systemd());
    let memory = || groups::memory_limit(pid);
    assert_eq!(memory()?, (64 << 20).to_string());
    let quota = groups::read(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    assert!(quota.starts_with("50000"), "{quota}");
    pods.crictl(&["update", "--memory", &(128 << 20).to_string(), &id])?;
    assert_eq!(memory()?, (128 << 20).to_string());
    is_served(pods, &pod)?;
    pods.remove(&pod)
}

fn respects_the_security_context_of_the_example(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod("strict")?;
    let context = json!({ "security_context": {
        "run_as_user": { "value": 65532 },
        "run_as_group": { "value": 65532 },
        "readonly_rootfs": true,
        "no_new_privs": true,
        "capabilities": { "drop_capabilities": ["ALL"] },
        "seccomp": { "profile_type": 0 },
    } });
    let id = workers(pods, &pod, context)?;
    let status = fs::read_to_string(format!("/proc/{}/status", pods.pid(&id)?))?;
    for line in [
        "Uid:\t65532\t65532\t65532\t65532",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} in\n{status}");
    }
    pods.remove(&pod)
}

fn a_request_in_flight_ends_within_the_grace_period(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod("grace")?;
    let id = workers(pods, &pod, json!({}))?;
    thread::scope(|scope| {
        let asked = scope.spawn(|| http::get_from(pod.address, PORT, "/probe?sleep=2000"));
        wait::until("the request inside", LIMIT, || {
            Ok(pods.log(&id)?.contains("asleep").then_some(()))
        })?;
        pods.crictl(&["stop", "--timeout", "10", &id])?;
        let answer = asked.join().ok().context("the client panicked")??;
        assert_eq!(answer.text(), "awake");
        anyhow::Ok(())
    })?;
    assert_eq!(ended(pods, &id)?, "0 Completed");
    pods.remove(&pod)
}

fn exits_have_codes_and_reasons(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod("ends")?;
    let image = Image::workers("broken").file("bad.wasm", "no Wasm")?;
    let image = image.import(pods.containerd())?;
    let broken = pods.create(&pod, "broken", &image, &[], json!({}))?;
    pods.crictl(&["start", &broken])?;
    assert_eq!(ended(pods, &broken)?, "78 Error");
    let log = pods.log(&broken)?;
    assert!(log.contains("bad.wasm"), "{log}");

    let native = Image::native("native", NATIVE)?.import(pods.containerd())?;
    let bounded = json!({ "resources": {
        "memory_limit_in_bytes": 32 << 20, "memory_swap_limit_in_bytes": 32 << 20,
    } });
    let hungry = pods.create(&pod, "hungry", &native, &[("PORT", "3001")], bounded)?;
    pods.crictl(&["start", &hungry])?;
    pods.get(&pod, 3001, "/")?;
    // The answer never comes.
    drop(http::get_from(pod.address, 3001, "/eat"));
    assert_eq!(ended(pods, &hungry)?, "137 OOMKilled");

    let lost = Image::probe("lost", "")?.entrypoint(&["/nowhere"]);
    let image = lost.import(pods.containerd())?;
    let lost = pods.create(&pod, "lost", &image, &[], json!({}))?;
    let started = pods.try_crictl(&["start", &lost])?;
    assert!(!started.status.success(), "{started:?}");
    assert!(started.stderr.contains("/nowhere"), "{started:?}");
    assert_eq!(ended(pods, &lost)?, "128 StartError");
    pods.remove(&pod)
}

fn a_killed_shim_stops_its_pod(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod("orphan")?;
    let id = workers(pods, &pod, json!({}))?;
    for shim in pods.containerd().shims()? {
        kill_process(shim, Signal::KILL)?;
    }
    ended(pods, &id)?;
    let state = wait::until("the pod's end", LIMIT, || {
        let inspected = pods.inspect("inspectp", &pod.id)?;
        Ok(Some(inspected["status"]["state"].clone()).filter(|state| state == "SANDBOX_NOTREADY"))
    });
    state?;
    pods.remove(&pod)
}

fn pods_survive_a_restart_of_containerd(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod("steady")?;
    let id = workers(pods, &pod, json!({}))?;
    let pid = pods.pid(&id)?;
    pods.restart()?;
    is_served(pods, &pod)?;
    assert_eq!(pods.pid(&id)?, pid);
    pods.crictl(&["exec", "--sync", &id, "wws", "--version"])?;
    pods.crictl(&["stop", "--timeout", "5", &id])?;
    assert_eq!(ended(pods, &id)?, "0 Completed");
    pods.remove(&pod)
}

/// A node pulls for its own platform and unpacks for no other.
fn pulled_images_run(pods: &mut Pods) -> Result<()> {
    let registry = Registry::start()?;
    let pod = pods.run_pod("pulled")?;
    let image = registry.push("pulled", Image::probe("pulled", "")?.everywhere())?;
    pods.crictl(&["pull", &image])?;
    let id = pods.create(&pod, "workers", &image, &[], json!({}))?;
    pods.crictl(&["start", &id])?;
    is_served(pods, &pod)?;
    let requests = registry.requests();
    let layers = requests
        .iter()
        .filter(|request| request.starts_with("GET /v2/pulled/blobs/"));
    // A configuration and a layer: not three of each.
    assert_eq!(layers.count(), 2, "{requests:?}");
    pods.remove(&pod)
}

/// A number as modules have it.
fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Bytes with their length before them.
fn counted(bytes: &[u8]) -> Vec<u8> {
    [&leb128(bytes.len()), bytes].concat()
}

/// A worker that takes seconds to compile, on however many CPUs: functions without end, each of
/// which mixes many values. As bytes, since its text would be ten times as long.
fn slow_to_compile() -> Result<Vec<u8>> {
    const FUNCTIONS_FOR_EACH_CPU: usize = 600;
    const STATEMENTS: usize = 800;
    const VALUES: u8 = 30;
    let cpus = thread::available_parallelism()?.get().min(8);
    let mut bodies = Vec::new();
    // It answers `ok`.
    let start = b"\x00\x41\x01\x41\x00\x41\x01\x41\x08\x10\x00\x1a\x0b";
    bodies.extend(counted(start));
    // Any numbers do that have no pattern: a generator of Knuth's.
    let mut state = 1_u64;
    let mut any = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005);
        state = state.wrapping_add(1_442_695_040_888_963_407);
        u8::try_from((state >> 33) % u64::from(VALUES)).unwrap_or(0)
    };
    let functions = FUNCTIONS_FOR_EACH_CPU * cpus;
    for _ in 0..functions {
        let mut body = vec![1, VALUES, 0x7e];
        for _ in 0..STATEMENTS {
            let (to, one, other, rotated) = (1 + any(), any(), any(), any());
            // to = (one * other) ^ rotl(rotated, to), of 64 bits.
            body.extend([0x20, one, 0x20, other, 0x7e, 0x20, rotated, 0x20, to]);
            body.extend([0x89, 0x85, 0x21, to]);
        }
        body.extend([0x20, 1, 0x0b]);
        bodies.extend(counted(&body));
    }
    let section = |id: u8, content: &[u8]| [&[id], &counted(content)[..]].concat();
    let count = leb128(functions + 1);
    let import = [
        &counted(b"wasi_snapshot_preview1")[..],
        &counted(b"fd_write"),
        &[0, 0],
    ];
    let exports = [
        &counted(b"memory")[..],
        &[2, 0],
        &counted(b"_start"),
        &[0, 1],
    ];
    // One slice of output at address 64, described at 0.
    let described = b"\x00\x41\x00\x0b\x08\x40\x00\x00\x00\x0d\x00\x00\x00";
    let output = [b"\x00\x41\xc0\x00\x0b", &counted(b"{\"data\":\"ok\"}")[..]].concat();
    Ok([
        b"\0asm\x01\0\0\0".to_vec(),
        section(
            1,
            b"\x03\x60\x04\x7f\x7f\x7f\x7f\x01\x7f\x60\0\0\x60\x01\x7e\x01\x7e",
        ),
        section(2, &[&[1], &import.concat()[..]].concat()),
        section(3, &[&count[..], &[1], &vec![2; functions]].concat()),
        section(5, &[1, 0, 1]),
        section(7, &[&[2], &exports.concat()[..]].concat()),
        section(10, &[count, bodies].concat()),
        section(11, &[&[2], &described[..], &output].concat()),
    ]
    .concat())
}

/// Whether the host compiles code for a container of these pods.
fn is_compiling(pods: &Pods) -> Result<bool> {
    let store = pods.containerd().directory().join("store");
    let store = store.to_str().context("a path that is not UTF-8")?;
    for entry in fs::read_dir("/proc")? {
        // Others come and go.
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains("precompile") && line.contains(store) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The kubelet stops nothing whose start is under way: a start must not wait for the compiler.
fn a_pod_is_deleted_while_its_code_compiles(pods: &mut Pods) -> Result<()> {
    let slow = Image::workers("slow").file("slow.wasm", slow_to_compile()?)?;
    let slow = slow.import(pods.containerd())?;
    let native = Image::native("native", NATIVE)?.import(pods.containerd())?;
    let pod = pods.run_pod("compiling")?;
    let from = Instant::now();
    let id = pods.create(&pod, "workers", &slow, &[], json!({}))?;
    pods.crictl(&["start", &id])?;
    let started = from.elapsed();
    wait::until("the log says why", LIMIT, || {
        let log = pods.log(&id)?;
        Ok(log
            .contains("waiting for the host to compile")
            .then_some(()))
    })?;
    assert!(http::get_from(pod.address, PORT, "/slow").is_err());
    // Its neighbour does not wait.
    let side_car = pods.create(&pod, "side-car", &native, &[("PORT", "3001")], json!({}))?;
    pods.crictl(&["start", &side_car])?;
    assert_eq!(pods.get(&pod, 3001, "/")?.text(), "native\n");
    assert!(is_compiling(pods)?, "compiled before it could be deleted");

    // As a kubelet deletes a pod: the grace period is no reason to wait.
    let from = Instant::now();
    pods.crictl(&["stop", "--timeout", "30", &id])?;
    let stopped = from.elapsed();
    assert_eq!(ended(pods, &id)?, "0 Completed");
    let from = Instant::now();
    pods.remove(&pod)?;
    let removed = from.elapsed();
    for (what, took) in [("start", started), ("stop", stopped), ("removal", removed)] {
        println!("{what} took {took:?}");
        assert!(
            took < wait::patience(Duration::from_secs(5)),
            "{what}: {took:?}"
        );
    }
    assert!(!is_compiling(pods)?, "compiles for nobody");
    pods.expect_nothing_left()?;

    // Nothing of it is in the way of the next one, which serves when its code is there.
    let pod = pods.run_pod("again")?;
    let id = pods.create(&pod, "workers", &slow, &[], json!({}))?;
    pods.crictl(&["start", &id])?;
    let answer = wait::until("an answer", Duration::from_secs(60), || {
        Ok(http::get_from(pod.address, PORT, "/slow").ok())
    })?;
    assert_eq!(answer.text(), "ok");
    pods.remove(&pod)
}

fn arguments_and_the_entry_point_again_are_taken(pods: &mut Pods) -> Result<()> {
    let image = probe(pods)?;
    let pod = pods.run_pod("arguments")?;
    let args = json!({ "args": ["/", "--port", "3003", "--prefix=/v1"] });
    let id = pods.create_with(&pod, "workers", &image, &[], json!({}), args)?;
    pods.crictl(&["start", &id])?;
    let answer = pods.get(&pod, 3003, &format!("/v1{PROBE}?log=asked"))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Commands in the container know them.
    let request = "--request=/v1/probe?log=asked";
    let well = ["exec", "--sync", &id, "wws", "health", "--wait=20", request];
    pods.crictl(&well)?;
    let routes = pods.crictl(&["exec", "--sync", &id, "wws", "routes"])?;
    assert!(routes.contains("/v1/probe"), "{routes}");
    let wrong = json!({ "args": ["--nope"] });
    let wrong = pods.create_with(&pod, "wrong", &image, &[], json!({}), wrong)?;
    pods.crictl(&["start", &wrong])?;
    assert_eq!(ended(pods, &wrong)?, "2 Error");
    let log = pods.log(&wrong)?;
    assert!(
        log.contains("'--nope'") && !log.contains("serve-container"),
        "{log}"
    );
    pods.remove(&pod)
}

fn k3s_configuration_runs_workers_and_programs(pods: &mut Pods) -> Result<()> {
    let pod = pods.run_pod_of("k3s", K3S, json!({}))?;
    workers(pods, &pod, json!({}))?;
    let native = Image::native("native", NATIVE)?.import(pods.containerd())?;
    let side_car = pods.create(&pod, "side-car", &native, &[("PORT", "3001")], json!({}))?;
    pods.crictl(&["start", &side_car])?;
    assert_eq!(pods.get(&pod, 3001, "/")?.text(), "native\n");
    pods.remove(&pod)
}

/// What containerd tells the kubelet of a runtime.
fn features(pods: &Pods, handler: &str) -> Result<Value> {
    let info: Value = serde_json::from_str(&pods.crictl(&["info"])?)?;
    let all = info["runtimeHandlers"].as_array().context("no handlers")?;
    let one = all.iter().find(|one| one["name"] == handler);
    Ok(one.context("no such handler")?["features"].clone())
}

fn the_shim_by_its_path_offers_what_the_oci_runtime_can(pods: &mut Pods) -> Result<()> {
    let features = features(pods, BY_PATH)?;
    assert_eq!(features["recursive_read_only_mounts"], true, "{features}");
    let volume = pods.containerd().directory().join("volume");
    fs::create_dir_all(&volume)?;
    fs::write(volume.join("file"), "on the host")?;
    let pod = pods.run_pod_of("by-path", BY_PATH, json!({}))?;
    let toml = "[[folders]]\nfrom = \"./files\"\nto = \"/files\"\n";
    let image = Image::probe("files", toml)?
        .directory("files")?
        .import(pods.containerd())?;
    let mounts = json!({ "mounts": [{
        "host_path": volume, "container_path": "/files",
        "readonly": true, "recursive_read_only": true,
    }] });
    let id = pods.create_with(&pod, "workers", &image, &[], json!({}), mounts)?;
    pods.crictl(&["start", &id])?;
    let read = pods.get(&pod, PORT, &format!("{PROBE}?read=/files/file"))?;
    assert_eq!(read.text(), "on the host");
    let write = pods.get(&pod, PORT, &format!("{PROBE}?write=/files/file"))?;
    assert_eq!(write.status, 500, "{}", write.text());
    pods.remove(&pod)
}

fn pods_have_user_namespaces(pods: &mut Pods) -> Result<()> {
    const FIRST: u32 = 1_700_000_000;
    let features = features(pods, BY_PATH)?;
    if features["user_namespaces"] != true {
        // By the kernel, or by what its file systems can.
        println!("does not apply: no user namespaces for pods on this machine: {features}");
        return Ok(());
    }
    let map = json!([{ "container_id": 0, "host_id": FIRST, "length": 65536 }]);
    let options = json!({ "userns_options": { "mode": 0, "uids": map, "gids": map } });
    let pod = pods.run_pod_of("users", BY_PATH, options)?;
    let id = workers(pods, &pod, json!({}))?;
    let pid = pods.pid(&id)?;
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let fields: Vec<_> = of("uid_map")?
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert_eq!(fields, ["0", &FIRST.to_string(), "65536"]);
    assert!(of("status")?.contains(&format!("Uid:\t{FIRST}\t")));
    // The image's files are root's of the container.
    let root = fs::metadata(format!("/proc/{pid}/root/probe.wasm"))?;
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&root), FIRST);
    pods.remove(&pod)
}
