//! The OCI specification of a container: what we read of it, and what we change for a container of workers. All else stays as
//! it came, also what we know nothing of.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::entrypoint::{self, Entry};
use super::rootfs;
use super::server::{CODE, SERVE, SERVER, SERVER_IN_ROOT};
use crate::error::{Error, OnPath, Result};

/// The largest specification, in bytes.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// The annotation by which CRI tells which pod a container is of.
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// The annotation by which anybody else can put containers under one shim.
const GROUP: &str = "io.containerd.runc.v2.group";

/// A specification.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec(Value);

impl Spec {
    /// Reads `config.json` of a bundle.
    ///
    /// # Errors
    /// It is not there, too large or no JSON object.
    pub(crate) fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut text))
            .on("read", &path)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(Error::InvalidArgument(format!(
                "{} has more than {MAX_SIZE} bytes",
                path.display()
            )));
        }
        let broken = |problem: &dyn std::fmt::Display| {
            Error::InvalidArgument(format!("{}: {problem}", path.display()))
        };
        let value: Value = serde_json::from_slice(&text).map_err(|error| broken(&error))?;
        if !value.is_object() {
            return Err(broken(&"not a JSON object"));
        }
        Ok(Self(value))
    }

    /// Writes `config.json` of a bundle, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join("config.json");
        let part = bundle.join("config.json.part");
        let mode = fs::metadata(&path)
            .map(|data| data.permissions().mode())
            .on("look at", &path)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode & 0o777)
            .open(&part)
            .on("create", &part)?;
        std::io::Write::write_all(&mut file, self.0.to_string().as_bytes()).on("write", &part)?;
        fs::rename(&part, &path).on("rename", &part)
    }

    /// The group of containers that share a shim: the pod, where there is one.
    pub(crate) fn group(&self) -> Option<&str> {
        self.sandbox().or_else(|| self.annotation(GROUP))
    }

    /// The pod, where there is one.
    pub(crate) fn sandbox(&self) -> Option<&str> {
        self.annotation(SANDBOX)
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        let value = self.0["annotations"][name].as_str();
        value.filter(|value| !value.is_empty())
    }

    /// The root file system's folder on the host.
    pub(crate) fn root(&self, bundle: &Path) -> PathBuf {
        bundle.join(self.0["root"]["path"].as_str().unwrap_or("rootfs"))
    }

    /// The path of the control group; empty if the OCI runtime chooses.
    pub(crate) fn cgroups_path(&self) -> &str {
        self.0["linux"]["cgroupsPath"].as_str().unwrap_or_default()
    }

    /// Whether the container's processes outlive its first one: it has no namespace of process numbers of its own, in which
    /// the kernel would end them.
    pub(crate) fn shares_pids(&self) -> bool {
        let namespaces = self.0["linux"]["namespaces"].as_array();
        !namespaces.into_iter().flatten().any(|namespace| {
            namespace["type"] == "pid" && namespace["path"].as_str().unwrap_or_default().is_empty()
        })
    }

    /// What the entry point means, and the process's arguments without what it is wrapped in.
    ///
    /// # Errors
    /// The root file system cannot be looked at.
    pub(crate) fn entry(&self, bundle: &Path) -> Result<(Entry, Vec<String>)> {
        self.look(bundle, |container| container.entry())
    }

    /// Whether the container has a shell.
    ///
    /// # Errors
    /// The root file system cannot be looked at.
    pub(crate) fn has_shell(&self, bundle: &Path) -> Result<bool> {
        self.look(bundle, |container| container.has_shell())
    }

    /// The first process's working directory in the container.
    pub(crate) fn working_directory(&self) -> &Path {
        Path::new(self.0["process"]["cwd"].as_str().unwrap_or("/"))
    }

    /// Sets the first process's arguments.
    ///
    /// # Errors
    /// The specification has no process.
    pub(crate) fn set_arguments(&mut self, arguments: Vec<String>) -> Result<()> {
        self.process()?.insert("args".to_owned(), json!(arguments));
        Ok(())
    }

    /// Makes our `server` (a file of the host) the program of the first process, whose arguments it keeps. Returns the server's path
    /// in the container.
    ///
    /// # Errors
    /// The specification has no process.
    pub(crate) fn call_server(&mut self, server: &Path) -> Result<&'static str> {
        let path = self.server_path();
        // It serves, if that is what its arguments say, without code that was compiled ahead.
        let mounts = vec![bind(path, &utf8(server)?), code_mount(path, None)?];
        if let Some(Value::Array(given)) = self.process()?.get_mut("args")
            && let Some(program) = given.first_mut()
        {
            *program = json!(path);
        }
        self.add_mounts(mounts);
        Ok(path)
    }

    fn process(&mut self) -> Result<&mut Map<String, Value>> {
        let process = self.0["process"].as_object_mut();
        process.ok_or_else(|| Error::InvalidArgument("config.json has no process".to_owned()))
    }

    fn add_mounts(&mut self, mounts: Vec<Value>) {
        match &mut self.0["mounts"] {
            // The last ones: whatever is mounted over them before, ours are on top.
            Value::Array(given) => given.extend(mounts),
            none => *none = Value::Array(mounts),
        }
    }

    /// A handle of a folder of the container on the host.
    ///
    /// # Errors
    /// The root file system cannot be looked at.
    pub(crate) fn host_folder(&self, bundle: &Path, folder: &Path) -> Result<Option<OwnedFd>> {
        self.look(bundle, |container| container.host_folder(folder))
    }

    /// Whether the container has a program of this name on its PATH.
    ///
    /// # Errors
    /// The root file system cannot be looked at.
    pub(crate) fn has_command(&self, bundle: &Path, name: &str) -> Result<bool> {
        self.look(bundle, |container| container.is_command(name))
    }

    fn look<T>(
        &self,
        bundle: &Path,
        look: impl FnOnce(entrypoint::Container<'_>) -> Result<T>,
    ) -> Result<T> {
        let process = &self.0["process"];
        let words = |name: &str| -> Vec<&str> {
            let list = process[name].as_array();
            list.into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect()
        };
        let mounts = self.0["mounts"].as_array();
        let mounts = mounts.into_iter().flatten().filter_map(|mount| {
            Some(entrypoint::Mount {
                to: Path::new(mount["destination"].as_str()?),
                from: mount["source"].as_str().map(Path::new),
                bind: is_bind(mount),
            })
        });
        look(entrypoint::Container {
            root: &self.root(bundle),
            folder: self.working_directory(),
            arguments: &words("args"),
            environment: &words("env"),
            mounts: &mounts.collect::<Vec<_>>(),
        })
    }

    /// Makes our `server` (a file of the host) the container's first process, which serves `folder` (a path of the container)
    /// with the compiled code in the folder `code` of the host. Returns the server's path in the container.
    ///
    /// # Errors
    /// The specification has no process.
    pub(crate) fn serve(
        &mut self,
        server: &Path,
        folder: &Path,
        code: Option<&Path>,
    ) -> Result<&'static str> {
        let path = self.server_path();
        let (server, folder) = (utf8(server)?, utf8(folder)?);
        let memory = self.0["linux"]["resources"]["memory"]["limit"]
            .as_u64()
            .filter(|limit| *limit > 0);
        let process = self.process()?;
        let mut arguments = vec![json!(path), json!(SERVE)];
        let code = code_mount(path, code)?;
        let mounts = vec![bind(path, &server), code];
        if let Some(limit) = memory {
            // The container need not see its own control group.
            arguments.extend([json!("--memory"), json!(limit.to_string())]);
        }
        // From here on it is the image's words, of which none is taken for an option of ours. The server knows what it
        // understands of what follows the entry point.
        arguments.extend([json!("--"), json!(folder)]);
        if let Some(Value::Array(given)) = process.get("args") {
            arguments.extend(given.iter().skip(1).cloned());
        }
        process.insert("args".to_owned(), Value::Array(arguments));
        self.add_mounts(mounts);
        Ok(path)
    }

    /// What the image or its user gives after the entry point.
    pub(crate) fn after_entry_point(&self) -> Vec<String> {
        let given = self.0["process"]["args"].as_array();
        let words = given.into_iter().flatten().skip(1);
        words.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The path at which the server of a container already made can be run.
    pub(crate) fn server_path(&self) -> &'static str {
        let mounts = self.0["mounts"].as_array();
        let dev = mounts.into_iter().flatten().rfind(|mount| {
            let to = mount["destination"].as_str().unwrap_or_default();
            rootfs::absolute(Path::new("/"), Path::new(to)) == Path::new("/dev")
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
        .ok_or_else(|| Error::InvalidArgument(format!("{path:?} is not UTF-8")))
}

/// A mount of a host's file or folder, to be run and read.
fn bind(to: &str, from: &str) -> Value {
    json!({
        "destination": to,
        "type": "bind",
        "source": from,
        "options": ["bind", "ro", "nosuid", "nodev"],
    })
}

/// What a container with our server at `path` has as its compiled code: a directory of the host, or nothing.
fn code_mount(path: &str, code: Option<&Path>) -> Result<Value> {
    let to = CODE.iter().find(|(at, _)| *at == path);
    let to = to.map_or(CODE[1].1, |(_, to)| to);
    Ok(match code {
        Some(code) => bind(to, &utf8(code)?),
        None => empty(to),
    })
}

/// A mount of an empty directory, where there is nothing of the host's to be mounted.
fn empty(to: &str) -> Value {
    json!({
        "destination": to,
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
    fn the_server_becomes_the_first_process_and_all_else_stays() {
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
            // Without code of the host's nothing of the image is taken for it.
            json!({
                "destination": "/dev/wws-code", "type": "tmpfs", "source": "tmpfs",
                "options": ["ro", "nosuid", "nodev", "noexec", "size=4k", "mode=0755"],
            }),
        ]);
        assert_eq!(changed.0, expected);
    }

    #[test]
    fn compiled_code_is_mounted_beside_the_server() {
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
    fn arguments_after_the_entry_point_reach_the_server() {
        let mut value = spec();
        value["process"]["args"] = json!(["/", "--prefix", "x"]);
        let mut spec = Spec(value);
        assert_eq!(spec.after_entry_point(), ["--prefix", "x"]);
        spec.serve(Path::new("/opt/wws"), Path::new("/"), None)
            .unwrap();
        assert_eq!(
            spec.0["process"]["args"],
            json!(["/dev/wws", "serve-container", "--", "/", "--prefix", "x"])
        );
    }

    #[test]
    fn the_server_is_told_how_much_memory_there_is() {
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
    fn nothing_is_written_to_a_dev_that_is_the_hosts() {
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
    fn a_command_of_the_server_keeps_its_arguments() {
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
        assert_eq!(code, &empty("/dev/wws-code"));
    }

    #[test]
    fn a_specification_survives_reading_and_writing() {
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
    fn a_broken_specification_is_named_with_line_and_column() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join("config.json");
        fs::write(&path, "{\n  \"process\": oops\n}").unwrap();
        let error = Spec::read(bundle.path()).unwrap_err().to_string();
        assert!(
            error.contains("config.json") && error.contains("line 2 column 14"),
            "{error}"
        );
        fs::write(&path, "[]").unwrap();
        let error = Spec::read(bundle.path()).unwrap_err().to_string();
        assert!(error.ends_with("config.json: not a JSON object"), "{error}");
    }

    #[test]
    fn containers_of_a_pod_share_a_group() {
        let mut value = spec();
        assert_eq!(Spec(value.clone()).group(), None);
        value["annotations"] = json!({GROUP: "g", SANDBOX: "pod1"});
        assert_eq!(Spec(value).group(), Some("pod1"));
    }

    #[test]
    fn processes_survive_the_first_one_only_where_process_numbers_are_shared() {
        let mut value = spec();
        assert!(!Spec(value.clone()).shares_pids());
        value["linux"]["namespaces"] = json!([{"type": "pid", "path": "/proc/1/ns/pid"}]);
        assert!(Spec(value.clone()).shares_pids());
        value["linux"]["namespaces"] = json!([{"type": "mount"}]);
        assert!(Spec(value).shares_pids());
    }
}
