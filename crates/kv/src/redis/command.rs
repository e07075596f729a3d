//! Commands as Redis reads them.

use std::sync::OnceLock;

use sha1::{Digest, Sha1};

use super::failure::Failure;
use super::reply::ReplyReader;

/// A script that Redis runs as a whole. Redis knows it by the hash of its text, once it has run.
#[derive(Debug)]
pub(super) struct Script {
    text: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub(super) const fn new(text: &'static str) -> Self {
        Self {
            text,
            hash: OnceLock::new(),
        }
    }

    fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let hash = Sha1::digest(self.text.as_bytes());
            hash.iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }
}

/// A command with its arguments.
#[derive(Debug)]
pub(super) struct Command {
    /// The script that it runs, whose arguments it has.
    script: Option<&'static Script>,
    /// The number of arguments, with the name of a command; 0 for several commands.
    count: usize,
    encoded: Vec<u8>,
    /// The number of replies.
    replies: usize,
}

impl Command {
    pub(super) fn new(name: &str) -> Self {
        let mut command = Self {
            script: None,
            count: 0,
            encoded: Vec::with_capacity(128),
            replies: 1,
        };
        command.arg(name);
        command
    }

    /// Runs a script with keys; arguments follow.
    pub(super) fn script(script: &'static Script, keys: &[&str]) -> Self {
        let mut command = Self {
            script: Some(script),
            count: 0,
            encoded: Vec::with_capacity(256),
            replies: 1,
        };
        command.number(keys.len() as u64);
        for key in keys {
            command.arg(key);
        }
        command
    }

    /// Commands that Redis executes as a whole. The reply is that of the last one.
    pub(super) fn transaction(commands: &[Self]) -> Self {
        let mut encoded = b"*1\r\n$5\r\nMULTI\r\n".to_vec();
        for command in commands {
            command.write(&mut encoded, Naming::Hash);
        }
        encoded.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
        Self {
            script: None,
            count: 0,
            encoded,
            replies: commands.len() + 2,
        }
    }

    pub(super) fn arg(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        push(&mut self.encoded, value.as_ref());
        self.count += 1;
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        let mut digits = [0; 20];
        self.arg(decimal(number, &mut digits))
    }

    /// The number of replies.
    pub(super) fn replies(&self) -> usize {
        self.replies
    }

    /// Skips what precedes the reply of the last command.
    pub(super) fn skip_to_result(&self, reply: &mut ReplyReader<'_>) -> Result<(), Failure> {
        if self.replies > 1 {
            for _ in 1..self.replies {
                reply.skip()?;
            }
            for _ in 1..reply.array()? {
                reply.skip()?;
            }
        }
        Ok(())
    }

    /// Whether it runs a script.
    pub(super) fn is_script(&self) -> bool {
        self.script.is_some()
    }

    /// Appends it to bytes that are to be sent.
    pub(super) fn write(&self, to: &mut Vec<u8>, naming: Naming) {
        if self.count > 0 {
            let of_script = if self.script.is_some() { 2 } else { 0 };
            let mut digits = [0; 20];
            to.push(b'*');
            to.extend_from_slice(decimal((self.count + of_script) as u64, &mut digits));
            to.extend_from_slice(b"\r\n");
        }
        match (self.script, naming) {
            (None, _) => {}
            (Some(script), Naming::Hash) => {
                to.extend_from_slice(b"$7\r\nEVALSHA\r\n");
                push(to, script.hash().as_bytes());
            }
            (Some(script), Naming::Text) => {
                to.extend_from_slice(b"$4\r\nEVAL\r\n");
                push(to, script.text.as_bytes());
            }
        }
        to.extend_from_slice(&self.encoded);
    }
}

/// How a command names its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// By its hash: Redis has an error if it does not know the script.
    Hash,
    /// By its text, after which Redis knows it.
    Text,
}

fn push(to: &mut Vec<u8>, argument: &[u8]) {
    let mut digits = [0; 20];
    to.push(b'$');
    to.extend_from_slice(decimal(argument.len() as u64, &mut digits));
    to.extend_from_slice(b"\r\n");
    to.extend_from_slice(argument);
    to.extend_from_slice(b"\r\n");
}

/// A number in decimal digits.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::FromReply;
    use super::*;

    fn written(command: &Command, naming: Naming) -> String {
        let mut bytes = Vec::new();
        command.write(&mut bytes, naming);
        String::from_utf8_lossy(&bytes).replace("\r\n", " ")
    }

    #[test]
    fn writes_commands() {
        let mut set = Command::new("SET");
        set.arg("k").arg("").arg("PX").number(120);
        let text = "*5 $3 SET $1 k $0  $2 PX $3 120 ";
        assert_eq!(written(&set, Naming::Hash), text);
        let both = Command::transaction(&[set]);
        let text = format!("*1 $5 MULTI {text}*1 $4 EXEC ");
        assert_eq!(written(&both, Naming::Hash), text);
        assert_eq!(both.replies(), 3);
        let result = |bytes| {
            let mut reply = ReplyReader::new(bytes);
            both.skip_to_result(&mut reply)?;
            i64::read(&mut reply)
        };
        assert_eq!(result(b"+OK\r\n+QUEUED\r\n*1\r\n:1\r\n").ok(), Some(1));
        for (bytes, code) in [
            (&b"+OK\r\n-OOM no\r\n-EXECABORT it\r\n"[..], "OOM"),
            (b"+OK\r\n+QUEUED\r\n*1\r\n-WRONGTYPE it\r\n", "WRONGTYPE"),
        ] {
            let failed = result(bytes).err();
            assert_eq!(failed.as_ref().and_then(Failure::code), Some(code));
        }
    }

    #[test]
    fn writes_scripts_by_hash_and_by_text() {
        static SCRIPT: Script = Script::new("return 1");
        let mut command = Command::script(&SCRIPT, &["k"]);
        command.number(u64::MAX);
        assert_eq!(
            written(&command, Naming::Hash),
            "*5 $7 EVALSHA $40 e0e1f9fabfc9d4800c877a703b823ac0578ff8db \
             $1 1 $1 k $20 18446744073709551615 "
        );
        assert_eq!(
            written(&command, Naming::Text),
            "*5 $4 EVAL $8 return 1 $1 1 $1 k $20 18446744073709551615 "
        );
    }
}
