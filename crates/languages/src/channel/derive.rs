//! Keys derived from passwords: an interpreter without OpenSSL would compute them far too slowly.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use wws_engine::{Host, wasmtime::Result};

use crate::channel::message::{Body, MessageLine};
use crate::channel::reply::{Refusal, Reply, to_line};

/// The maximum length of a derived key, in bytes.
const MAX_LENGTH: usize = 64 << 10;

/// Iterations between two checks of the CPU time: about a millisecond.
const PAUSE: u64 = 2048;

/// Memory that scrypt may use, in bytes; its time is proportional to that times its parallelism.
const MAX_SCRYPT_MEMORY: u64 = 64 << 20;
const MAX_SCRYPT_WORK: u64 = 256 << 20;

fn invalid(message: impl Into<String>) -> Refusal {
    ("invalid", message.into())
}

/// The password and the salt, which arrive as one body.
fn split<'a>(line: &MessageLine, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Refusal> {
    if line.length == 0 || line.length > MAX_LENGTH {
        return Err(invalid(format!(
            "a derived key has 1 to {MAX_LENGTH} bytes, not {}",
            line.length
        )));
    }
    body.split_at_checked(line.split)
        .ok_or_else(|| invalid("no password"))
}

fn reply(key: Vec<u8>) -> Result<Reply, Refusal> {
    Ok((to_line(&Body { body: key.len() })?, Bytes::from(key)))
}

/// PBKDF2 with HMAC, RFC 8018. Other calls get a turn meanwhile.
pub(super) async fn pbkdf2(
    host: &mut Host,
    line: &MessageLine,
    body: &[u8],
) -> Result<Result<Reply, Refusal>> {
    let (password, salt) = match split(line, body) {
        Ok(parts) => parts,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let key = match line.name.as_str() {
        "sha1" => derive::<Hmac<sha1::Sha1>>(host, password, salt, line).await?,
        "sha224" => derive::<Hmac<sha2::Sha224>>(host, password, salt, line).await?,
        "sha256" => derive::<Hmac<sha2::Sha256>>(host, password, salt, line).await?,
        "sha384" => derive::<Hmac<sha2::Sha384>>(host, password, salt, line).await?,
        "sha512" => derive::<Hmac<sha2::Sha512>>(host, password, salt, line).await?,
        name => return Ok(Err(invalid(format!("no hash function {name}")))),
    };
    Ok(reply(key))
}

async fn derive<M: Mac + hmac::digest::KeyInit + Clone>(
    host: &mut Host,
    password: &[u8],
    salt: &[u8],
    line: &MessageLine,
) -> Result<Vec<u8>> {
    // Keys may have any length.
    let keyed = <M as Mac>::new_from_slice(password)?;
    let mut key = Vec::with_capacity(line.length);
    let mut done = 0u64;
    for block in 1u32.. {
        let mut last = keyed
            .clone()
            .chain_update(salt)
            .chain_update(block.to_be_bytes())
            .finalize()
            .into_bytes();
        let mut sum = last.clone();
        for _ in 1..line.iterations {
            last = keyed.clone().chain_update(&last).finalize().into_bytes();
            for (sum, byte) in sum.iter_mut().zip(&last) {
                *sum ^= byte;
            }
            done += 1;
            if done.is_multiple_of(PAUSE) {
                host.give_way().await?;
            }
        }
        let missing = line.length - key.len();
        key.extend_from_slice(&sum[..missing.min(sum.len())]);
        if key.len() == line.length {
            break;
        }
    }
    Ok(key)
}

/// scrypt, RFC 7914. It cannot be interrupted, so it runs in the slow lane.
pub(super) async fn scrypt(
    host: &mut Host,
    line: &MessageLine,
    body: &[u8],
) -> Result<Result<Reply, Refusal>> {
    let (password, salt) = match split(line, body) {
        Ok(parts) => parts,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let memory = line.n.saturating_mul(128 * u64::from(line.r));
    let work = memory.saturating_mul(u64::from(line.p));
    if !line.n.is_power_of_two() || memory > MAX_SCRYPT_MEMORY || work > MAX_SCRYPT_WORK {
        return Ok(Err(invalid(format!(
            "scrypt may use {MAX_SCRYPT_MEMORY} bytes of memory (128 n r), and {MAX_SCRYPT_WORK} \
             times p"
        ))));
    }
    let log_n = u8::try_from(line.n.trailing_zeros()).unwrap_or(u8::MAX);
    let parameters = match ::scrypt::Params::new(log_n, line.r, line.p, line.length) {
        Ok(parameters) => parameters,
        Err(error) => return Ok(Err(invalid(error.to_string()))),
    };
    host.move_to_slow_lane().await;
    let mut key = vec![0; line.length];
    let derived = ::scrypt::scrypt(password, salt, &parameters, &mut key);
    host.give_way().await?;
    Ok(derived
        .map_err(|error| invalid(error.to_string()))
        .and_then(|()| reply(key)))
}
