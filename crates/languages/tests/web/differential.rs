//! Random programs behave as in Node.

use super::*;

/// Programs whose steps are compared with Node's: the first of them, and how many.
/// `WWS_DIFFERENTIAL=FIRST,COUNT` asks for others.
fn programs() -> (u32, u32) {
    let given = std::env::var("WWS_DIFFERENTIAL").unwrap_or_else(|_| "0,2000".into());
    let (first, count) = given.split_once(',').expect("FIRST,COUNT");
    (first.parse().unwrap(), count.parse().unwrap())
}

static PROGRAMS: LazyLock<std::path::PathBuf> =
    LazyLock::new(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/programs.js"));

/// The lines that programs give in Node, if this machine has the one that they are made for.
fn in_node(first: u32, count: u32) -> Option<Vec<String>> {
    let version = Command::new("node").arg("--version").output();
    match version {
        Ok(output) if output.stdout.starts_with(b"v20.") => {}
        other => {
            eprintln!("not tested: node 20 is not there ({other:?})");
            return None;
        }
    }
    let script = format!(
        "process.on('unhandledRejection', () => {{}}); const {{ run }} = await import({:?}); \
         process.stdout.write(JSON.stringify(await run({first}, {count})), () => process.exit(0));",
        format!("file://{}", PROGRAMS.display())
    );
    let output = Command::new("node")
        .args(["--no-warnings", "--input-type=module", "-e", &script])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn random_programs_behave_as_in_node() {
    /// Programs of one request.
    const PART: u32 = 100;
    let (first, count) = programs();
    let Some(wanted) = in_node(first, count) else {
        return;
    };
    let programs = std::fs::read_to_string(&*PROGRAMS).unwrap();
    let project = Project::new(&[
        (
            "w.js",
            "import { run } from './programs.js'; export default async (r) => Response.json(await \
             run(...r.params.range.split('-').map(Number)))",
        ),
        ("programs.js", &programs),
    ]);
    let mut spec = spec();
    spec.limits.cpu_time = Duration::from_secs(60);
    spec.limits.wall_time = Duration::from_secs(300);
    spec.limits.log = 0;
    let guest = project.guest("w.js", spec);
    let mut given: Vec<String> = Vec::new();
    for from in (first..first + count).step_by(PART as usize) {
        let mut call = get("/");
        let part = PART.min(first + count - from);
        call.params = vec![("range".into(), format!("{from}-{part}"))];
        let response = guest.call(call).await.unwrap();
        given.extend(serde_json::from_slice::<Vec<String>>(response.body()).unwrap());
    }
    assert_eq!(given.len(), wanted.len());
    let different: Vec<String> = given
        .iter()
        .zip(&wanted)
        .filter(|(given, wanted)| given != wanted)
        .map(|(given, wanted)| format!("worker: {given}\nnode:   {wanted}\n"))
        .collect();
    assert!(
        different.is_empty(),
        "{} of {} steps differ:\n{}",
        different.len(),
        wanted.len(),
        different[..different.len().min(40)].join("\n")
    );
}
