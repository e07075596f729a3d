//! The images that the test suites of containerd and Kubernetes pull, under their names, in a
//! registry on loopback. They are made of a static busybox and of the programs beside this one:
//! what a suite looks at is there, and nothing else. `make test-conformance` calls it.
//!
//!     suite-registry ADDRESS BUSYBOX

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, Result, bail};
use wws_image::Image;
use wws_test::command;
use wws_test::registry::Registry;

/// The longest that busybox may take to list its commands.
const LIMIT: Duration = Duration::from_secs(10);

/// What the suites look for in the output, in the process list and in the file of the process
/// number of nginx and httpd.
const WEB_SERVER: &str = "#!/bin/sh
mkdir -p /var/run
echo $$ > /var/run/nginx.pid
echo 'start worker processes' > /dev/stderr
echo httpd
exec -a 'nginx: master process' /usr/sbin/nginx
";

/// The memory that the suite asks `stress` for, and a little more: it looks for an increase by all
/// of it.
const STRESS: &str = "#!/bin/sh
exec /tool hold 110 30
";

/// Commands that Debian's busybox has not.
const BASH: &str = "#!/bin/sh
exec /bin/sh \"$@\"
";

const PGREP: &str = "#!/bin/sh
exec pidof \"$1\"
";

const IPCS: &str = "#!/bin/sh
exec cat /proc/sysvipc/shm
";

const USERS: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
www-data:x:33:33::/var/www:/bin/sh
nobody:x:65534:65534::/nonexistent:/bin/false
";

const GROUPS: &str = "root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
wheel:x:10:root
www-data:x:33:
nogroup:x:65534:
";

/// Of one image only: elsewhere the number 1000 is nobody's.
const DEFAULT_USER: &str = "default-user:x:1000:1000::/home/default-user:/bin/sh
";

const DEFAULT_GROUPS: &str = "group-defined-in-image:x:50000:default-user
default-user:x:1000:
";

const SYSTEM: &str = "NAME='stand-in for Alpine Linux'
";

const NOTHING: &[&str] = &[];

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [address, busybox] = &arguments[..] else {
        bail!("usage: suite-registry ADDRESS BUSYBOX");
    };
    let address: SocketAddr = address.parse().context("the address")?;
    let parts = Parts::read(Path::new(busybox))?;
    let registry = Registry::start_on(address)?;
    parts.push(&registry)?;
    println!("listening on {address}");
    loop {
        thread::park();
    }
}

/// What the images consist of.
struct Parts {
    busybox: Vec<u8>,
    commands: Vec<String>,
    hello: Vec<u8>,
    tool: Vec<u8>,
}

impl Parts {
    fn read(busybox: &Path) -> Result<Self> {
        let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
        let listed = command::run(Command::new(busybox).arg("--list"), LIMIT)?.success()?;
        let beside =
            |name: &str| -> Result<PathBuf> { Ok(env::current_exe()?.with_file_name(name)) };
        Ok(Self {
            busybox: read(busybox)?,
            commands: listed.lines().map(str::to_owned).collect(),
            hello: read(&beside("native-hello")?)?,
            tool: read(&beside("native-tool")?)?,
        })
    }

    fn push(&self, registry: &Registry) -> Result<()> {
        let push = |name: &str, image: Image| registry.push_blobs(name, image.into_blobs()?);
        push("pause", self.pause("pause")?)?;
        for name in [
            "e2e-test-images/busybox",
            "containerd/alpine",
            "containerd/busybox",
        ] {
            push(name, self.shell(name)?)?;
        }
        let web = [
            "e2e-test-images/httpd",
            "e2e-test-images/nginx",
            "containerd/nginx",
        ];
        for name in web {
            push(name, self.web_server(name, 80)?)?;
        }
        let of_host = "k8s-staging-cri-tools/hostnet-nginx-amd64";
        push(of_host, self.web_server(of_host, 12003)?)?;

        let raises = self
            .shell("raises")?
            .file("tool", self.tool.clone(), 0o4755)?;
        let raises = raises
            .entrypoint(&["/tool", "effective-uid"])
            .command(NOTHING);
        push("e2e-test-images/nonewprivs", raises)?;
        let consumer = self
            .shell("consumer")?
            .file("tool", self.tool.clone(), 0o755)?;
        let consumer = consumer.file("bin/stress", STRESS, 0o755)?;
        let consumer = consumer
            .entrypoint(&["/tool", "sleep", "100000"])
            .command(NOTHING);
        push("e2e-test-images/resource-consumer", consumer)?;

        let mut copied = self.shell("copied")?;
        for (directory, file) in [
            ("test_dir", "test_file"),
            ("C:/weird_test_dir", "weird_test_file"),
            (":colon_prefixed", "colon_prefixed_file"),
        ] {
            copied = copied.file(&format!("{directory}/{file}"), "test_content\n", 0o644)?;
        }
        for volume in ["/test_dir", "C:/weird_test_dir", "/:colon_prefixed"] {
            copied = copied.volume(volume);
        }
        push("containerd/volume-copy-up", copied)?;
        let owned = self.shell("owned")?.directory_of("test_dir", 65534)?;
        push("containerd/volume-ownership", owned.volume("/test_dir"))?;

        // Of these most are only pulled and looked at.
        for (name, user) in [
            ("user-uid", "1002"),
            ("user-username", "www-data"),
            ("user-uid-group", "1003:1003"),
            ("user-username-group", "www-data:www-data"),
            ("predefined-group", "1000"),
            ("latest", ""),
            ("tag", ""),
            ("tags", ""),
            ("1", ""),
            ("2", ""),
            ("3", ""),
        ] {
            // Each has its own content.
            let mut image = self.shell(name)?.file("name", name, 0o644)?.user(user);
            if name == "predefined-group" {
                image = image
                    .file("etc/passwd", format!("{USERS}{DEFAULT_USER}"), 0o644)?
                    .file("etc/group", format!("{GROUPS}{DEFAULT_GROUPS}"), 0o644)?;
            }
            push(&format!("k8s-staging-cri-tools/test-image-{name}"), image)?;
        }
        Ok(())
    }

    /// Commands in `/bin` and some users.
    fn shell(&self, name: &str) -> Result<Image> {
        let mut image = Image::new(name)
            .platform("linux", "amd64")
            .entrypoint(NOTHING)
            .command(&["sh"])
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .file("bin/busybox", self.busybox.clone(), 0o755)?
            .file("bin/bash", BASH, 0o755)?
            .file("bin/ipcs", IPCS, 0o755)?
            .file("bin/pgrep", PGREP, 0o755)?
            .file("etc/passwd", USERS, 0o644)?
            .file("etc/group", GROUPS, 0o644)?
            .file("etc/os-release", SYSTEM, 0o644)?
            .directory("home/default-user")?
            .directory("root")?
            .directory("tmp")?;
        for command in &self.commands {
            if !["bash", "busybox", "ipcs", "pgrep"].contains(&command.as_str()) {
                image = image.link(&format!("bin/{command}"), "/bin/busybox")?;
            }
        }
        Ok(image)
    }

    fn pause(&self, name: &str) -> Result<Image> {
        let image = Image::new(name).platform("linux", "amd64");
        let image = image.file("pause", self.hello.clone(), 0o755)?;
        Ok(image.entrypoint(&["/pause", "pause"]))
    }

    fn web_server(&self, name: &str, port: u16) -> Result<Image> {
        let image = self
            .shell(name)?
            .env("PORT", &port.to_string())
            .file("usr/sbin/nginx", self.hello.clone(), 0o755)?
            .file("usr/sbin/web-server", WEB_SERVER, 0o755)?;
        Ok(image.entrypoint(&["/usr/sbin/web-server"]).command(NOTHING))
    }
}
