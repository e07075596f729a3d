//! The article's walk on Docker, word for word, as a transcript: a private Docker Engine builds the
//! example's image and runs it through our shim. All of it is cleared up. `make demo-docker` builds
//! what this needs, and calls it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use wws_test::docker::{DOCKER_LIMIT, Docker, DockerVersion};
use wws_test::port;
use wws_test::stand_in::StandIn;
use wws_test::user_generation::{CERTIFICATES, CONTENT};
use wws_test::{command, wait, workspace};

const NAME: &str = "docker-wws";

/// The port that the article says.
const PORT: u16 = 3000;

struct Demo {
    docker: Docker,
    /// Where the commands are typed: the Dockerfile and `tmp` lie there.
    directory: PathBuf,
    port: u16,
}

fn main() -> Result<()> {
    let version = match env::args().nth(1).as_deref() {
        None | Some("28") => DockerVersion::V28,
        Some("26") => DockerVersion::V26,
        Some("29") => DockerVersion::V29,
        _ => bail!("usage: demo-docker [26|28|29]"),
    };
    let docker = Docker::start(version)?;
    let directory = docker.containerd().directory().join("demo");
    copy(
        &workspace::root().join("target/images/user-generation"),
        &directory,
    )?;
    fs::create_dir_all(directory.join("tmp"))?;
    fs::write(directory.join("tmp/file.txt"), CONTENT)?;
    // The outside service of the article is not asked: a stand-in on the bridge answers for it.
    let stand_in = StandIn::start_on(docker.host())?;
    fs::write(directory.join("authority.pem"), stand_in.authority())?;
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).is_err();
    let port = if taken { port::free()? } else { PORT };
    let demo = Demo {
        docker,
        directory,
        port,
    };
    let walked = demo.walk(&stand_in);
    if walked.is_err() {
        // So that nothing is left, whatever failed.
        drop(demo.docker.try_docker(&["rm", "--force", NAME]));
    }
    walked?;
    demo.docker.expect_nothing_left()?;
    println!("\nnothing is left: no process, mount, cgroup, file or network device");
    Ok(())
}

impl Demo {
    fn walk(&self, stand_in: &StandIn) -> Result<()> {
        println!(
            "# random-data-api.com is a stand-in on {}: the container trusts its authority and \
             finds it by WWS_RESOLVE",
            stand_in.address()
        );
        self.docker("docker version --format {{.Server.Version}}")?;
        self.shell("cat Dockerfile")?;
        self.docker(
            "docker buildx build --platform wasi/wasm --provenance false --quiet -t \
             wws-apps:latest .",
        )?;
        self.docker("docker inspect wws-apps:latest -f {{.Architecture}}")?;
        self.docker("docker inspect wws-apps:latest -f {{.Os}}")?;
        self.shell("cat tmp/file.txt")?;
        self.docker(&format!(
            "docker run -d --name {NAME} -p {}:3000 --runtime=io.containerd.wws.v1 \
             --platform=wasi/wasm -v {directory}/tmp:/tmp -v \
             {directory}/authority.pem:{CERTIFICATES}:ro -e WWS_RESOLVE={} wws-apps:latest",
            self.port,
            stand_in.resolve(),
            directory = self.directory.display(),
        ))?;
        for count in 1..=3 {
            let answer = self.ask()?;
            if !answer.contains(&format!("\"generated_users\":{count}")) {
                bail!("the counter is not {count}");
            }
        }
        self.docker("docker ps --format {{.Names}}\\t{{.Image}}\\t{{.Status}}\\t{{.Ports}}")?;
        self.docker(&format!("docker exec {NAME} wws routes"))?;
        self.docker(&format!("docker top {NAME}"))?;
        self.docker(&format!("docker stats --no-stream {NAME}"))?;
        self.docker(&format!("docker logs {NAME}"))?;
        self.docker(&format!("docker stop {NAME}"))?;
        let state = self.docker(&format!("docker inspect {NAME} -f {{{{.State.ExitCode}}}}"))?;
        if state.trim() != "0" {
            bail!("exit code {state}");
        }
        self.docker(&format!("docker rm {NAME}"))?;
        Ok(())
    }

    /// The first answer takes until the container is up.
    fn ask(&self) -> Result<String> {
        let url = format!("http://localhost:{}/user-generation-rust", self.port);
        println!("\n$ curl {url}");
        let answer = wait::until("an answer", wws_test::container::LIMIT, || {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--noproxy", "*", "--max-time", "10", &url]);
            let ended = command::run(&mut curl, DOCKER_LIMIT)?;
            Ok(ended.status.success().then_some(ended.stdout))
        })?;
        println!("{}", answer.trim_end());
        Ok(answer)
    }

    fn docker(&self, line: &str) -> Result<String> {
        let words = line
            .split(' ')
            .skip(1)
            .map(|word| word.replace("\\t", "\t"));
        let mut command = self.docker.command();
        command.args(words);
        self.show(line, command)
    }

    fn shell(&self, line: &str) -> Result<String> {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().context("an empty line")?);
        command.args(words);
        self.show(line, command)
    }

    fn show(&self, line: &str, mut command: Command) -> Result<String> {
        println!(
            "\n$ {}",
            line.replace(" -", " \\\n    -")
                .replacen(" \\\n    -", " -", 1)
        );
        let ended = command::run(command.current_dir(&self.directory), DOCKER_LIMIT)?;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        println!("{}", said.trim_end());
        if !ended.status.success() {
            bail!("{line}: {}", ended.status);
        }
        Ok(said)
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
