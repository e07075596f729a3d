//! The OCI specification of a container: what the shim reads, and what it changes for a container
//! of workers. Everything else is preserved, also fields that the shim does not know.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::rootfs;
use super::server::{CODE, SERVE, SERVER, SERVER_IN_ROOT};
use super::view::{ContainerView, MountPoint};
use crate::error::{Error, PathContext, Result};

/// The largest specification, in bytes.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// The annotation with which CRI names the pod of a container.
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// The annotation with which other clients put containers under one shim.
const GROUP: &str = "io.containerd.runc.v2.group";

/// A specification: a JSON object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec(Value);

impl Spec {
    /// Reads `config.json` of a bundle.
    ///
    /// # Errors
    /// The file is missing, too large or not a JSON object.
    pub(crate) fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut text))
            .with_path("read", &path)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(Error::invalid_argument(format!(
                "{} has more than {MAX_SIZE} bytes",
                path.display()
            )));
        }
        Self::parse(&text).map_err(|error| error.context(path.display()))
    }

    /// Parses a specification.
    ///
    /// # Errors
    /// The text is not a JSON object.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(text)
            .map_err(|error| Error::invalid_argument("broken JSON").with_source(error))?;
        if !value.is_object() {
            return Err(Error::invalid_argument("not a JSON object"));
        }
        Ok(Self(value))
    }

    /// Writes `config.json` of a bundle atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join("config.json");
        let part = bundle.join("config.json.part");
        let mode = fs::metadata(&path)
            .map(|data| data.permissions().mode())
            .with_path("look at", &path)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode & 0o777)
            .open(&part)
            .with_path("create", &part)?;
        file.write_all(self.0.to_string().as_bytes())
            .with_path("write", &part)?;
        fs::rename(&part, &path).with_path("rename", &part)
    }

    /// Returns the group of containers that share a shim: the pod, if there is one.
    pub(crate) fn group(&self) -> Option<&str> {
        self.sandbox().or_else(|| self.annotation(GROUP))
    }

    /// Returns the pod, if there is one.
    pub(crate) fn sandbox(&self) -> Option<&str> {
        self.annotation(SANDBOX)
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        let value = self.0["annotations"][name].as_str();
        value.filter(|value| !value.is_empty())
    }

    /// Returns the root file system's directory on the host.
    fn root(&self, bundle: &Path) -> PathBuf {
        bundle.join(self.0["root"]["path"].as_str().unwrap_or("rootfs"))
    }

    /// Returns the path of the cgroup; empty if the OCI runtime chooses.
    pub(crate) fn cgroups_path(&self) -> &str {
        self.0["linux"]["cgroupsPath"].as_str().unwrap_or_default()
    }

    /// Returns whether processes outlive the init process: the container has no PID namespace of
    /// its own, in which the kernel would kill them.
    pub(crate) fn shares_pids(&self) -> bool {
        let namespaces = self.0["linux"]["namespaces"].as_array();
        !namespaces.into_iter().flatten().any(|namespace| {
            namespace["type"] == "pid" && namespace["path"].as_str().unwrap_or_default().is_empty()
        })
    }

    /// Returns the working directory of the init process in the container.
    pub(crate) fn working_directory(&self) -> &Path {
        Path::new(self.0["process"]["cwd"].as_str().unwrap_or("/"))
    }

    /// Collects what lookups in the container depend on. `bundle` is the directory of the
    /// specification.
    pub(crate) fn view(&self, bundle: &Path) -> ContainerView {
        let process = &self.0["process"];
        let words = |name: &str| {
            let list = process[name].as_array();
            list.into_iter().flatten().filter_map(Value::as_str)
        };
        let mounts = self.0["mounts"].as_array();
        let mounts = mounts.into_iter().flatten().filter_map(|mount| {
            let source = mount["source"].as_str().filter(|_| is_bind(mount));
            let destination = Path::new(mount["destination"].as_str()?);
            Some(MountPoint {
                // As the OCI runtime does.
                destination: rootfs::normalize(Path::new("/"), destination),
                source: source.map(PathBuf::from),
            })
        });
        let mut search_path = words("env").filter_map(|variable| variable.strip_prefix("PATH="));
        ContainerView {
            root: self.root(bundle),
            working_directory: self.working_directory().to_path_buf(),
            arguments: words("args").map(str::to_owned).collect(),
            search_path: search_path.next_back().unwrap_or_default().to_owned(),
            mounts: mounts.collect(),
        }
    }

    /// Sets the arguments of the init process.
    ///
    /// # Errors
    /// The specification has no process.
    pub(crate) fn set_arguments(&mut self, arguments: Vec<String>) -> Result<()> {
        self.process()?.insert("args".to_owned(), json!(arguments));
        Ok(())
    }

    /// Makes `server`, a file of the host, the program of the init process, with the arguments as
    /// they are. Returns the path of the server in the container.
    ///
    /// # Errors
    /// The specification has no process.
    pub(crate) fn call_server(&mut self, server: &Path) -> Result<&'static str> {
        let path = self.server_path();
        // The command may serve: then without precompiled code.
        let mounts = vec![bind(path, &utf8(server)?), code_mount(path, None)?];
        if let Some(Value::Array(given)) = self.process()?.get_mut("args")
            && let Some(program) = given.first_mut()
        {
            *program = json!(path);
        }
        self.add_mounts(mounts);
        Ok(path)
    }

    /// Returns the memory limit in bytes.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        let limit = self.0["linux"]["resources"]["memory"]["limit"].as_u64();
        limit.filter(|limit| *limit > 0)
    }

    /// Makes `server`, a file of the host, serve `directory`, a path of the container, with the
    /// compiled code in the directory `code` of the host. Returns the path of the server in the
    /// container.
    ///
    /// # Errors
    /// The specification has no process.
    pub(crate) fn serve(
        &mut self,
        server: &Path,
        directory: &Path,
        code: Option<&Path>,
    ) -> Result<&'static str> {
        let path = self.server_path();
        let (server, directory) = (utf8(server)?, utf8(directory)?);
        let memory = self.memory_limit();
        let process = self.process()?;
        let mut arguments = vec![json!(path), json!(SERVE)];
        let code = code_mount(path, code)?;
        let mounts = vec![bind(path, &server), code];
        if let Some(limit) = memory {
            // The container may not see its own cgroup.
            arguments.extend([json!("--memory"), json!(limit.to_string())]);
        }
        // What follows comes from the image, and must not be read as options of the shim.
        arguments.extend([json!("--"), json!(directory)]);
        if let Some(Value::Array(given)) = process.get("args") {
            arguments.extend(given.iter().skip(1).cloned());
        }
        process.insert("args".to_owned(), Value::Array(arguments));
        self.add_mounts(mounts);
        Ok(path)
    }

    /// Returns the arguments after the entry point.
    pub(crate) fn arguments_after_entrypoint(&self) -> Vec<String> {
        let given = self.0["process"]["args"].as_array();
        let words = given.into_iter().flatten().skip(1);
        words.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn process(&mut self) -> Result<&mut Map<String, Value>> {
        let process = self.0["process"].as_object_mut();
        process.ok_or_else(|| Error::invalid_argument("config.json has no process"))
    }

    fn add_mounts(&mut self, mounts: Vec<Value>) {
        match &mut self.0["mounts"] {
            // Last, so that no other mount hides them.
            Value::Array(given) => given.extend(mounts),
            none => *none = Value::Array(mounts),
        }
    }

    /// Returns the path of the server in the container.
    fn server_path(&self) -> &'static str {
        let mounts = self.0["mounts"].as_array();
        let dev = mounts.into_iter().flatten().rfind(|mount| {
            let destination = mount["destination"].as_str().unwrap_or_default();
            rootfs::normalize(Path::new("/"), Path::new(destination)) == Path::new("/dev")
        });
        match dev {
            Some(dev) if dev["type"] == "tmpfs" => SERVER,
            _ => SERVER_IN_ROOT,
        }
    }
}

fn utf8(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid_argument(format!("{path:?} is not UTF-8")))
}

/// Returns a read-only bind mount of a file or directory of the host.
fn bind(destination: &str, source: &str) -> Value {
    json!({
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": ["bind", "ro", "nosuid", "nodev"],
    })
}

/// Returns the mount of the compiled code for the server at `path`: a directory of the host, or an
/// empty file system.
fn code_mount(path: &str, code: Option<&Path>) -> Result<Value> {
    let destination = CODE.iter().find(|(server, _)| *server == path);
    let destination = destination.map_or(CODE[1].1, |(_, code)| code);
    Ok(match code {
        Some(code) => bind(destination, &utf8(code)?),
        None => empty_mount(destination),
    })
}

fn empty_mount(destination: &str) -> Value {
    json!({
        "destination": destination,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["ro", "nosuid", "nodev", "noexec", "size=4k", "mode=0755"],
    })
}

fn is_bind(mount: &Value) -> bool {
    let options = mount["options"].as_array();
    mount["type"] == "bind"
        || options
            .into_iter()
            .flatten()
            .any(|option| option == "bind" || option == "rbind")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn spec() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": ["."], "cwd": "/app", "env": ["A=1"], "user": {"uid": 1000},
                "rlimits": [{"type": "RLIMIT_NOFILE", "hard": u64::MAX, "soft": 1024}],
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            ],
            "linux": {"namespaces": [{"type": "pid"}], "somethingNew": {"kept": -1.5}},
        })
    }

    #[test]
    fn serve_replaces_the_init_process_and_nothing_else() {
        let mut changed = Spec(spec());
        let path = changed
            .serve(Path::new("/opt/wws"), Path::new("/app"), None)
            .unwrap();
        assert_eq!(path, "/dev/wws");
        let mut expected = spec();
        expected["process"]["args"] = json!(["/dev/wws", "serve-container", "--", "/app"]);
        expected["mounts"].as_array_mut().unwrap().extend([
            json!({
                "destination": "/dev/wws", "type": "bind", "source": "/opt/wws",
                "options": ["bind", "ro", "nosuid", "nodev"],
            }),
            // An empty mount, so that nothing of the image is taken for code.
            json!({
                "destination": "/dev/wws-code", "type": "tmpfs", "source": "tmpfs",
                "options": ["ro", "nosuid", "nodev", "noexec", "size=4k", "mode=0755"],
            }),
        ]);
        assert_eq!(changed.0, expected);
    }

    #[test]
    fn serve_mounts_compiled_code_beside_the_server() {
        let mut changed = Spec(spec());
        let code = Path::new("/var/lib/wws/containers/n/c");
        changed
            .serve(Path::new("/opt/wws"), Path::new("/app"), Some(code))
            .unwrap();
        assert_eq!(
            changed.0["process"]["args"],
            json!(["/dev/wws", "serve-container", "--", "/app"])
        );
        let last = changed.0["mounts"].as_array().unwrap().last().unwrap();
        assert_eq!(
            last,
            &json!({
                "destination": "/dev/wws-code", "type": "bind", "source": code,
                "options": ["bind", "ro", "nosuid", "nodev"],
            })
        );
    }

    #[test]
    fn serve_passes_arguments_after_the_entry_point() {
        let mut value = spec();
        value["process"]["args"] = json!(["/", "--prefix", "x"]);
        let mut spec = Spec(value);
        assert_eq!(spec.arguments_after_entrypoint(), ["--prefix", "x"]);
        spec.serve(Path::new("/opt/wws"), Path::new("/"), None)
            .unwrap();
        assert_eq!(
            spec.0["process"]["args"],
            json!(["/dev/wws", "serve-container", "--", "/", "--prefix", "x"])
        );
    }

    #[test]
    fn serve_passes_the_memory_limit() {
        let mut value = spec();
        value["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}});
        let mut limited = Spec(value.clone());
        limited
            .serve(Path::new("/opt/wws"), Path::new("/"), None)
            .unwrap();
        assert_eq!(
            limited.0["process"]["args"],
            json!([
                "/dev/wws",
                "serve-container",
                "--memory",
                "67108864",
                "--",
                "/"
            ])
        );
        // No limit.
        value["linux"]["resources"]["memory"]["limit"] = json!(-1);
        let mut unlimited = Spec(value);
        unlimited
            .serve(Path::new("/opt/wws"), Path::new("/"), None)
            .unwrap();
        assert_eq!(
            unlimited.0["process"]["args"],
            json!(["/dev/wws", "serve-container", "--", "/"])
        );
    }

    #[test]
    fn leaves_the_dev_of_the_host_alone() {
        let mut value = spec();
        value["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"]}),
        );
        let mut spec = Spec(value);
        assert_eq!(
            spec.serve(Path::new("/opt/wws"), Path::new("/"), None)
                .unwrap(),
            "/.wws/server"
        );
        let mut none = Spec(json!({"process": {}}));
        assert_eq!(
            none.serve(Path::new("/opt/wws"), Path::new("/"), None)
                .unwrap(),
            "/.wws/server"
        );
        assert_eq!(none.0["mounts"][0]["destination"], "/.wws/server");
    }

    #[test]
    fn call_server_keeps_the_arguments() {
        let mut value = spec();
        value["process"]["args"] = json!(["wws", "routes", "--json"]);
        let mut spec = Spec(value);
        let path = spec.call_server(Path::new("/opt/wws")).unwrap();
        assert_eq!(path, "/dev/wws");
        let process = &spec.0["process"];
        assert_eq!(process["args"], json!(["/dev/wws", "routes", "--json"]));
        let mounts = spec.0["mounts"].as_array().unwrap();
        let [.., server, code] = &mounts[..] else {
            unreachable!("two mounts are added")
        };
        assert_eq!(server["source"], "/opt/wws");
        assert_eq!(code, &empty_mount("/dev/wws-code"));
    }

    #[test]
    fn write_keeps_content_and_permissions() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join("config.json");
        fs::write(&path, spec().to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Spec::read(bundle.path())
            .unwrap()
            .write(bundle.path())
            .unwrap();
        assert_eq!(Spec::read(bundle.path()).unwrap().0, spec());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn names_file_line_and_column_of_broken_json() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join("config.json");
        fs::write(&path, "{\n  \"process\": oops\n}").unwrap();
        let error = Spec::read(bundle.path()).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("config.json") && error.contains("line 2 column 14"),
            "{error}"
        );
        fs::write(&path, "[]").unwrap();
        let error = Spec::read(bundle.path()).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.ends_with("config.json: not a JSON object"), "{error}");
    }

    #[test]
    fn view_has_mounts_where_the_runtime_makes_them() {
        let mut value = spec();
        value["mounts"] = json!([{"destination": "x/../data", "type": "bind", "source": "/s"}]);
        let view = Spec(value).view(Path::new("/bundle"));
        assert_eq!(view.mounts[0].destination, Path::new("/data"));
        assert!(view.mounts[0].is_bind());
    }

    #[test]
    fn puts_containers_of_a_pod_into_one_group() {
        let mut value = spec();
        assert_eq!(Spec(value.clone()).group(), None);
        value["annotations"] = json!({GROUP: "g", SANDBOX: "pod1"});
        assert_eq!(Spec(value).group(), Some("pod1"));
    }

    #[test]
    fn shares_pids_without_a_pid_namespace_of_its_own() {
        let mut value = spec();
        assert!(!Spec(value.clone()).shares_pids());
        value["linux"]["namespaces"] = json!([{"type": "pid", "path": "/proc/1/ns/pid"}]);
        assert!(Spec(value.clone()).shares_pids());
        value["linux"]["namespaces"] = json!([{"type": "mount"}]);
        assert!(Spec(value).shares_pids());
    }

    /// Any JSON, with the names that the shim reads more often than others.
    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            prop::sample::select(vec![
                "process",
                "args",
                "env",
                "cwd",
                "mounts",
                "destination",
                "source",
                "type",
                "options",
                "linux",
                "namespaces",
                "path",
                "cgroupsPath",
                "resources",
                "memory",
                "limit",
                "annotations",
                "root",
                SANDBOX,
                GROUP,
            ])
            .prop_map(str::to_owned),
            any::<String>(),
        ];
        let text = prop::sample::select(vec!["bind", "tmpfs", "pid", "/dev", "/", "PATH=/bin"]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            text.prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|fields| { Value::Object(fields.into_iter().collect()) }),
            ]
        })
    }

    proptest! {
        #[test]
        fn parses_any_bytes(bytes in any::<Vec<u8>>()) {
            let _ = Spec::parse(&bytes);
        }

        #[test]
        fn reads_and_changes_any_json(value in any_json()) {
            let parsed = Spec::parse(value.to_string().as_bytes());
            prop_assert_eq!(parsed.is_ok(), value.is_object());
            let Ok(mut spec) = parsed else { return Ok(()) };
            prop_assert_eq!(&spec.0, &value);
            spec.group();
            spec.cgroups_path();
            spec.shares_pids();
            spec.view(Path::new("/bundle"));
            spec.arguments_after_entrypoint();
            let mut command = spec.clone();
            let served = spec.serve(Path::new("/opt/wws"), Path::new("/app"), None);
            let called = command.call_server(Path::new("/opt/wws"));
            let has_process = value["process"].is_object();
            prop_assert_eq!((served.is_ok(), called.is_ok()), (has_process, has_process));
            if !has_process {
                return Ok(());
            }
            for spec in [&spec, &command] {
                let text = spec.0.to_string();
                prop_assert_eq!(&Spec::parse(text.as_bytes()).unwrap(), spec);
                // Nothing but the arguments and the mounts changes.
                let mut rest = spec.0.clone();
                rest["mounts"] = value["mounts"].clone();
                rest["process"]["args"] = value["process"]["args"].clone();
                let mut expected = value.clone();
                expected["mounts"] = value["mounts"].clone();
                expected["process"]["args"] = value["process"]["args"].clone();
                prop_assert_eq!(rest, expected);
            }
        }
    }
}
