//! The start of operations.

use bytes::Bytes;
use wws_engine::{
    Host,
    wasmtime::{Caller, Error, Result},
};

use super::{FunctionCall, FunctionResult};
use crate::javascript::{
    exception::KitException,
    files::{self, FileCall},
    operations::{self, Operation},
    store::{self, StoreOperation},
};

/// Bytes that a running operation takes in addition to its arguments.
const OPERATION: u64 = 1 << 10;

impl FunctionCall<'_> {
    pub(super) async fn start(&self, caller: &mut Caller<'_, Host>) -> Result<FunctionResult> {
        let id = self.number(caller, 0).await? as u64;
        let kind = self.text(caller, 1).await?;
        let (operation, kept) = match kind.as_str() {
            "fetch" => {
                let head = self.text(caller, 2).await?;
                let is_stream = self.number(caller, 4).await? == 1.0;
                let body = match is_stream {
                    true => None,
                    false => Some(self.content(caller, 3).await?),
                };
                let kept = head.len();
                (Operation::Fetch(head, body), kept)
            }
            "read" => (Operation::Read(self.number(caller, 2).await? as u64), 0),
            "readAll" => (Operation::ReadAll(self.number(caller, 2).await? as u64), 0),
            "send" => {
                let body = self.number(caller, 2).await? as u64;
                (Operation::Send(body, self.content(caller, 3).await?), 0)
            }
            "finish" => (Operation::Finish(self.number(caller, 2).await? as u64), 0),
            "connect" => {
                let head = self.text(caller, 2).await?;
                let kept = head.len();
                (Operation::Connect(head), kept)
            }
            "receive" => (Operation::Receive(self.number(caller, 2).await? as u64), 0),
            "increment" | "compareAndSet" | "list" => {
                let operation = self.store_operation(caller, &kind).await?;
                let kept = operation.size();
                (Operation::Store(operation), kept)
            }
            _ => self.file(caller).await?,
        };
        let charge = caller.data_mut().hold(OPERATION + kept as u64);
        let charge = charge.map_err(Error::new)?;
        let started = operations::start(caller.data_mut(), id, operation, charge);
        Ok(match started {
            Ok(()) => FunctionResult::Undefined,
            Err(why) => {
                let exception = KitException::new("Error", format!("{kind}: {why}"));
                FunctionResult::Text(exception.to_string())
            }
        })
    }

    async fn store_operation(
        &self,
        caller: &mut Caller<'_, Host>,
        kind: &str,
    ) -> Result<StoreOperation> {
        let text = self.text(caller, 2).await?;
        Ok(match kind {
            "increment" => StoreOperation::Increment(text, self.number(caller, 3).await?),
            "compareAndSet" => StoreOperation::CompareAndSet {
                key: text,
                value: self.text(caller, 3).await?,
                ttl: store::time(self.number(caller, 4).await?),
                expected: self.optional(caller, 5).await?,
            },
            _ => StoreOperation::List {
                prefix: text,
                // The cast saturates, and the store has a bound of its own.
                limit: self.number(caller, 3).await? as usize,
                after: self.optional(caller, 4).await?,
            },
        })
    }

    /// The texts from an argument on: one, or none.
    async fn optional(
        &self,
        caller: &mut Caller<'_, Host>,
        index: usize,
    ) -> Result<Option<String>> {
        Ok(match self.number(caller, index).await? > 0.0 {
            true => Some(self.text(caller, index + 1).await?),
            false => None,
        })
    }

    pub(super) async fn file(&self, caller: &mut Caller<'_, Host>) -> Result<(Operation, usize)> {
        let name = self.text(caller, 2).await?;
        let path = self.text(caller, 3).await?;
        // Nothing is copied for a path that cannot exist.
        if !caller.data().directories().has(&path) {
            let failure = files::not_found(&name, &path);
            let kept = failure.len();
            return Ok((Operation::Failed(failure), kept));
        }
        let (mut to, mut content) = (String::new(), Bytes::new());
        match name.as_str() {
            "rename" => to = self.text(caller, 4).await?,
            "write" | "append" | "create" => content = self.content(caller, 4).await?,
            _ => {}
        }
        let kept = path.len() + to.len();
        let call = FileCall {
            path,
            to,
            content,
            limit: caller.data().limits().memory,
            charge: caller.data_mut().hold(0).map_err(Error::new)?,
            name,
        };
        Ok((Operation::File(call), kept))
    }
}
