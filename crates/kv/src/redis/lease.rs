//! The turn of a namespace among several servers: a key with a token and a time to live.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::OwnedMutexGuard, task::JoinHandle, time::sleep};

use super::command::Command;
use super::failure::Failure;
use super::pool::{Pool, Repeat, Way};
use super::scripts;

/// A turn of a server that was killed lasts so long, in milliseconds.
const LASTS: u64 = 10_000;

/// A turn is prolonged after this time.
const RENEWED: Duration = Duration::from_secs(3);

/// Time between two attempts to take a turn, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(25));

/// The turn of a namespace. It is passed on when it is dropped, and prolonged until then.
pub(super) struct Lease {
    pool: Arc<Pool>,
    key: String,
    token: Arc<str>,
    renewing: Option<JoinHandle<()>>,
    /// The turn among the requests of this server.
    local: Option<OwnedMutexGuard<()>>,
}

impl Lease {
    /// Waits until no other server has the turn. The caller limits the time.
    pub(super) async fn take(
        pool: &Arc<Pool>,
        key: String,
        local: OwnedMutexGuard<()>,
    ) -> Result<Self, Failure> {
        // Made before it is asked for: whatever happens, it is given back.
        let mut lease = Self {
            pool: pool.clone(),
            key,
            token: token().into(),
            renewing: None,
            local: Some(local),
        };
        let mut command = Command::new("SET");
        command.arg(&lease.key).arg(&*lease.token);
        command.arg("NX").arg("PX").number(LASTS);
        let mut wait = WAIT.0;
        loop {
            let taken: Option<String> = pool.run(Way::First, &command, Repeat::Harmless).await?;
            if taken.is_some() {
                break;
            }
            sleep(wait.mul_f64(0.5 + jitter())).await;
            wait = (wait * 2).min(WAIT.1);
        }
        lease.renewing = Some(tokio::spawn(renew(
            pool.clone(),
            lease.key.clone(),
            lease.token.clone(),
        )));
        Ok(lease)
    }

    pub(super) fn token(&self) -> Arc<str> {
        self.token.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(renewing) = self.renewing.take() {
            renewing.abort();
        }
        // Without a runtime the process ends, and the turn with its time.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (pool, local) = (self.pool.clone(), self.local.take());
        let command = scripts::release(&self.key, &self.token);
        runtime.spawn(async move {
            // If it fails, the turn ends with its time.
            let _ = pool.run::<()>(Way::First, &command, Repeat::Harmless).await;
            // Only now the next request of this server asks.
            drop(local);
        });
    }
}

async fn renew(pool: Arc<Pool>, key: String, token: Arc<str>) {
    let command = scripts::renew(&key, &token, LASTS);
    loop {
        sleep(RENEWED).await;
        let renewed = pool.run(Way::First, &command, Repeat::Harmless).await;
        // A turn that was lost is noticed when the changes are written.
        if matches!(renewed, Ok(0_i64)) {
            return;
        }
    }
}

/// A token that no other has.
fn token() -> String {
    let random = random();
    format!("{:x}-{:032x}", std::process::id(), random)
}

fn jitter() -> f64 {
    f64::from((random() & 0xffff) as u16) / 65536.0
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    // Without random numbers, the address of a new allocation and the time differ.
    if getrandom::fill(&mut bytes).is_err() {
        let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        bytes = at.unwrap_or_default().as_nanos().to_ne_bytes();
    }
    u128::from_ne_bytes(bytes)
}
