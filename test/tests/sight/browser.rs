//! A headless Chromium, driven by its DevTools protocol over two pipes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use wws_test::wait::{self, patience};
use wws_test::workspace;

const LIMIT: Duration = Duration::from_secs(60);

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    number: u64,
    /// What the page complained about: exceptions, and errors of its console.
    complaints: Vec<String>,
    _directory: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Chromium, with the fonts that were unpacked beside it.
fn command(directory: &Path) -> Result<Command> {
    let tools = workspace::root().join("target/tools/chromium");
    ensure!(tools.exists(), "run `scripts/sight.sh` first");
    let fonts = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE fontconfig SYSTEM \"fonts.dtd\"><fontconfig>\
         <dir>{}</dir><cachedir>{}</cachedir></fontconfig>",
        tools.join("usr/share/fonts").display(),
        directory.join("fonts").display()
    );
    fs::write(directory.join("fonts.conf"), fonts)?;
    let libraries = tools.join("usr/lib/x86_64-linux-gnu");
    let libraries = format!("{0}:{0}/pulseaudio", libraries.display());
    // It reads commands from file 3 and writes to file 4.
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
        .arg(tools.join("usr/lib/chromium/chromium"))
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-proxy-server",
        ])
        .args([
            "--remote-debugging-pipe",
            "--hide-scrollbars",
            "--no-first-run",
        ])
        .arg(format!(
            "--user-data-dir={}",
            directory.join("profile").display()
        ))
        .env("LD_LIBRARY_PATH", libraries)
        .env("FONTCONFIG_FILE", directory.join("fonts.conf"))
        .env("HOME", directory)
        .env("DBUS_SESSION_BUS_ADDRESS", "disabled:");
    Ok(command)
}

impl Browser {
    pub(crate) fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut child = command(directory.path())?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(directory.path().join("log"))?)
            .spawn()
            .context("start chromium")?;
        let commands = child.stdin.take().context("no pipe")?;
        let output = child.stdout.take().context("no pipe")?;
        let (send, messages) = channel();
        thread::spawn(move || {
            let parts = BufReader::new(output).split(0);
            for part in parts.map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&part) else {
                    continue;
                };
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            child,
            commands,
            messages,
            session: None,
            number: 0,
            complaints: Vec::new(),
            _directory: directory,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().map(ToOwned::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({}))?;
        }
        Ok(browser)
    }

    fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.number += 1;
        let mut command = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&command)?;
        bytes.push(0);
        self.commands.write_all(&bytes)?;
        loop {
            let message = self.messages.recv_timeout(patience(LIMIT));
            let message = message.with_context(|| format!("no answer to {method}"))?;
            if message["id"] == self.number {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let text = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => &message["params"]["exceptionDetails"],
            Some("Log.entryAdded") if message["params"]["entry"]["level"] == "error" => {
                &message["params"]["entry"]
            }
            _ => return,
        };
        self.complaints.push(text.to_string());
    }

    /// Sets the size of the window and the preferred colours.
    pub(crate) fn look(&mut self, width: u32, scheme: &str) -> Result<()> {
        let metrics = json!({
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics)?;
        let scheme = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": scheme }))?;
        Ok(())
    }

    pub(crate) fn open(&mut self, url: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({ "url": url }))?;
        ensure!(opened["errorText"].is_null(), "{url}: {opened}");
        Ok(())
    }

    /// The value of an expression in the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let wanted =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let done = self.call("Runtime.evaluate", wanted)?;
        ensure!(done["exceptionDetails"].is_null(), "{expression}: {done}");
        Ok(done["result"]["value"].clone())
    }

    /// Waits until an expression in the page is true.
    pub(crate) fn wait(&mut self, expression: &str) -> Result<()> {
        let done = wait::until(expression, LIMIT, || {
            // While a page loads, there may be none.
            let value = self.evaluate(expression).unwrap_or_default();
            Ok((value == true).then_some(()))
        });
        done.with_context(|| self.evaluate("document.body.innerText").unwrap_or_default())
    }

    /// Writes a picture of the whole page.
    pub(crate) fn picture(&mut self, path: &Path) -> Result<()> {
        let wanted = json!({ "format": "png", "captureBeyondViewport": true });
        let taken = self.call("Page.captureScreenshot", wanted)?;
        let data = taken["data"].as_str().context("no picture")?;
        fs::write(path, base64(data)?)?;
        Ok(())
    }

    /// What the page complained about since the last call.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }
}

/// Decodes what the browser encoded.
fn base64(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.bytes().filter(|byte| *byte != b'=') {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => anyhow::bail!("no base64: {other}"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}
