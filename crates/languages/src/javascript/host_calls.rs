//! The functions that QuickJS imports: those that the kit calls, and the loading of modules.

mod arguments;
mod decode;
mod start;

use std::{
    sync::{Mutex, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;
use wws_engine::{
    Charge, Host, NoMemory, kv_value_in, wait_in,
    wasmtime::{AsContextMut, Caller, Error, Linker, Result, error::Context as _},
    websocket::{Message, NotSent},
};

use super::{
    crypto::{Hash, Hmac},
    encoding,
    exception::KitException,
    exports::{Exports, NoRoom},
    modules, multipart, operations, sockets,
    state::{CallState, Outcome, Thrown},
    store, streams, urls,
};

/// Functions of the host that the kit finds in `wws.host`.
pub(super) const NAMES: [&str; 30] = [
    "start",
    "cancel",
    "wake",
    "log",
    "respond",
    "begin",
    "accept",
    "socketSend",
    "socketClose",
    "end",
    "close",
    "breakOff",
    "fail",
    "body",
    "bodyText",
    "kvGet",
    "kvSet",
    "kvDelete",
    "number",
    "random",
    "now",
    "url",
    "urlSet",
    "percentDecode",
    "encode",
    "decode",
    "encodingName",
    "multipart",
    "digest",
    "hmac",
];

/// The maximum number of random bytes for one call.
const RANDOM: f64 = 65_536.0;

/// Defines the imports.
pub(super) fn define(linker: &mut Linker<Host>) -> Result<()> {
    // Workers see UTC, wherever they run.
    linker.func_wrap("env", "host_get_timezone_offset", |_: i32, _: i32| 0i32)?;
    // The engine stops what runs for too long.
    linker.func_wrap("env", "host_interrupt", || 0i32)?;
    linker.func_wrap_async(
        "env",
        "host_promise_rejection",
        |mut caller: Caller<'_, Host>, (promise, reason, is_handled): (u32, u32, u32)| {
            Box::new(async move { rejection(&mut caller, promise, reason, is_handled).await })
        },
    )?;
    modules::define(linker)?;
    linker.func_wrap_async(
        "env",
        "host_call",
        |mut caller: Caller<'_, Host>,
         (name, name_len, _this, count, values): (u32, u32, u32, u32, u32)| {
            Box::new(async move {
                let state = CallState::of(caller.data_mut())?;
                let (js, scratch) = (state.exports.clone(), state.scratch);
                let name = js.copy(&mut caller, name, name_len)?;
                let list = js.copy(&mut caller, values, count.min(16) * 4)?;
                let call = FunctionCall {
                    js: &js,
                    scratch,
                    held: Mutex::default(),
                    values: list
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|word| u32::from_le_bytes(*word))
                        .collect(),
                };
                call.run(&mut caller, &name).await
            })
        },
    )?;
    Ok(())
}

/// Reports to the kit a rejected promise that nothing handles, or that is handled now.
async fn rejection(
    caller: &mut Caller<'_, Host>,
    promise: u32,
    reason: u32,
    is_handled: u32,
) -> Result<()> {
    let state = CallState::of(caller.data_mut())?;
    let (js, scratch, kit) = (state.exports.clone(), state.scratch, state.kit);
    if let Some(kit) = kit {
        state.has_rejections = true;
        let is_handled = if is_handled == 0 {
            &js.get_false
        } else {
            &js.get_true
        };
        let is_handled = is_handled.call_async(caller.as_context_mut(), ()).await?;
        let arguments = [promise, reason, is_handled];
        js.invoke(caller.as_context_mut(), scratch, kit.rejection, &arguments)
            .await?;
    }
    for value in [promise, reason] {
        js.free_value
            .call_async(caller.as_context_mut(), (value,))
            .await?;
    }
    Ok(())
}

/// A call of one function.
struct FunctionCall<'a> {
    js: &'a Exports,
    scratch: u32,
    values: Vec<u32>,
    /// Charges for texts that were copied for the call.
    held: Mutex<Vec<Charge>>,
}

/// What a function returns.
enum FunctionResult {
    Undefined,
    Bool(bool),
    Number(f64),
    Text(String),
    Bytes(Bytes),
    /// A value of the guest's; 0: an exception was thrown.
    Value(u32),
}

impl From<Option<String>> for FunctionResult {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Undefined, Self::Text)
    }
}

impl From<Option<Vec<u8>>> for FunctionResult {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        bytes.map_or(Self::Undefined, |bytes| Self::Bytes(bytes.into()))
    }
}

impl FunctionCall<'_> {
    async fn run(&self, caller: &mut Caller<'_, Host>, name: &[u8]) -> Result<u32> {
        let name = std::str::from_utf8(name)?;
        let given = match self.answer(caller, name).await {
            Ok(answer) => self.to_value(caller, answer).await,
            Err(error) => Err(error),
        };
        match given {
            Err(error) if error.is::<NoMemory>() || error.is::<NoRoom>() => {
                self.throw(caller, &KitException::no_memory(error)).await
            }
            given => given,
        }
    }

    async fn to_value(&self, caller: &mut Caller<'_, Host>, answer: FunctionResult) -> Result<u32> {
        let js = self.js;
        match answer {
            FunctionResult::Undefined => js.undefined.call_async(caller, ()).await,
            FunctionResult::Bool(true) => js.get_true.call_async(caller, ()).await,
            FunctionResult::Bool(false) => js.get_false.call_async(caller, ()).await,
            FunctionResult::Number(number) => js.new_number.call_async(caller, (number,)).await,
            FunctionResult::Text(text) => js.make_text(caller, &text).await,
            FunctionResult::Bytes(bytes) => js.make_bytes(caller, &bytes).await,
            FunctionResult::Value(value) => Ok(value),
        }
    }

    fn value(&self, index: usize) -> Result<u32> {
        self.values
            .get(index)
            .copied()
            .context("the kit gave too few arguments")
    }

    /// Throws an error of the kit, which the worker can catch: it learns that there was no memory,
    /// and continues.
    async fn throw(&self, caller: &mut Caller<'_, Host>, exception: &KitException) -> Result<u32> {
        caller.data_mut().refusal_was_handled();
        let kit = CallState::of(caller.data_mut())?.kit;
        let error = kit.context("an error before the kit is there")?.error;
        let text = exception.to_string();
        let text = self.js.make_text(caller.as_context_mut(), &text).await?;
        let error = self
            .js
            .invoke(caller.as_context_mut(), self.scratch, error, &[text])
            .await?;
        self.js
            .throw
            .call_async(caller.as_context_mut(), (error,))
            .await?;
        for value in [text, error] {
            self.js
                .free_value
                .call_async(caller.as_context_mut(), (value,))
                .await?;
        }
        Ok(0)
    }

    async fn answer(&self, caller: &mut Caller<'_, Host>, name: &str) -> Result<FunctionResult> {
        Ok(match name {
            "respond" => {
                let head = self.text(caller, 0).await?;
                let limit = caller.data().limits().output;
                let outcome = match self.answered(caller, 1, limit).await? {
                    Some(body) => Ok((head, body)),
                    None => Err(Thrown::without_stack(format!(
                        "answered with more than {limit} bytes (`limits.output`)"
                    ))),
                };
                CallState::of(caller.data_mut())?.outcome = Some(match outcome {
                    Ok((head, body)) => Outcome::Whole(head, body),
                    Err(thrown) => Outcome::Failed(thrown),
                });
                FunctionResult::Undefined
            }
            "begin" => {
                let head = self.text(caller, 0).await?;
                match streams::begin(caller.data_mut(), &head)? {
                    Ok(()) => FunctionResult::Undefined,
                    Err(error) => FunctionResult::Text(error.to_string()),
                }
            }
            "accept" => {
                let head = self.text(caller, 0).await?;
                match sockets::accept(caller.data_mut(), &head)? {
                    Ok(()) => FunctionResult::Undefined,
                    Err(error) => FunctionResult::Text(error.to_string()),
                }
            }
            "socketSend" => self.socket_send(caller).await?,
            "socketClose" => {
                let id = self.number(caller, 0).await? as u64;
                let code = self.number(caller, 1).await? as u16;
                let reason = self.text(caller, 2).await?;
                sockets::close(caller.data_mut(), id, code, &reason)?;
                FunctionResult::Undefined
            }
            "end" => {
                let goes_on = self.number(caller, 0).await? == 1.0;
                CallState::of(caller.data_mut())?.outcome = Some(Outcome::Ended { goes_on });
                FunctionResult::Undefined
            }
            "close" => {
                let id = self.number(caller, 0).await? as u64;
                CallState::of(caller.data_mut())?.incoming.remove(&id);
                FunctionResult::Undefined
            }
            "breakOff" => {
                let id = self.number(caller, 0).await? as u64;
                CallState::of(caller.data_mut())?.outgoing.remove(&id);
                FunctionResult::Undefined
            }
            "fail" => {
                let text = self.text(caller, 0).await?;
                let stack = self.text(caller, 1).await?;
                let thrown = Thrown { text, stack };
                CallState::of(caller.data_mut())?.outcome = Some(Outcome::Failed(thrown));
                FunctionResult::Undefined
            }
            "start" => self.start(caller).await?,
            "cancel" => {
                let id = self.number(caller, 0).await? as u64;
                operations::cancel(caller.data_mut(), id);
                FunctionResult::Undefined
            }
            "wake" => {
                let milliseconds = self.number(caller, 0).await?;
                let state = CallState::of(caller.data_mut())?;
                if state.loading {
                    return Ok(FunctionResult::Bool(false));
                }
                // No call lasts a day.
                state.wake = (milliseconds >= 0.0).then(|| {
                    let delay = (milliseconds / 1000.0).min(86_400.0);
                    Instant::now() + Duration::from_secs_f64(delay)
                });
                FunctionResult::Undefined
            }
            "log" => {
                let level = match self.number(caller, 0).await? as i32 {
                    1 => tracing::Level::ERROR,
                    2 => tracing::Level::WARN,
                    4 => tracing::Level::DEBUG,
                    _ => tracing::Level::INFO,
                };
                let text = self.text(caller, 1).await?;
                caller.data_mut().log(level, &text);
                FunctionResult::Undefined
            }
            "body" => FunctionResult::Bytes(CallState::of(caller.data_mut())?.body.clone()),
            "bodyText" => {
                let body = CallState::of(caller.data_mut())?.body.clone();
                let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&body);
                let text = String::from_utf8_lossy(text);
                FunctionResult::Value(self.js.make_text(caller, &text).await?)
            }
            "kvGet" | "kvSet" | "kvDelete" => self.store(caller, name).await?,
            "now" => FunctionResult::Number(caller.data_mut().elapsed().as_secs_f64() * 1000.0),
            "number" => {
                let mut bytes = [0; 8];
                getrandom::fill(&mut bytes)?;
                // 53 bits, as many as a number holds.
                let number = (u64::from_le_bytes(bytes) >> 11) as f64;
                FunctionResult::Number(number / (1u64 << 53) as f64)
            }
            "random" => {
                if CallState::of(caller.data_mut())?.loading {
                    // Bytes drawn at load would be the same for every request.
                    return Ok(FunctionResult::Undefined);
                }
                let len = self.number(caller, 0).await?.clamp(0.0, RANDOM) as usize;
                let mut bytes = vec![0; len];
                getrandom::fill(&mut bytes)?;
                FunctionResult::Bytes(bytes.into())
            }
            "url" => {
                let text = self.text(caller, 0).await?;
                let base = self.text(caller, 1).await?;
                let has_base = self.number(caller, 2).await? == 1.0;
                urls::parse(&text, has_base.then_some(base.as_str())).into()
            }
            "urlSet" => {
                let href = self.text(caller, 0).await?;
                let part = self.text(caller, 1).await?;
                let value = self.text(caller, 2).await?;
                urls::set(&href, &part, &value).into()
            }
            "percentDecode" => {
                FunctionResult::Text(encoding::percent_decode(&self.text(caller, 0).await?))
            }
            "encode" => FunctionResult::Value(
                self.js
                    .encode(caller.as_context_mut(), self.scratch, self.value(0)?)
                    .await?,
            ),
            "decode" => self.decode(caller).await?,
            "encodingName" => encoding::name(&self.text(caller, 0).await?).into(),
            "multipart" => {
                let body = self.view(caller, 0).await?;
                let boundary = self.text(caller, 1).await?;
                let parts = multipart::parse(self.js.slice(&*caller, body)?, &boundary);
                FunctionResult::Text(match parts {
                    Ok(parts) => serde_json::to_string(&parts)?,
                    Err(why) => serde_json::to_string(why)?,
                })
            }
            "digest" => {
                let Some(mut hash) = Hash::new(&self.text(caller, 0).await?) else {
                    return Ok(FunctionResult::Undefined);
                };
                let bytes = self.view(caller, 1).await?;
                self.pieces(caller, bytes, |piece, _| {
                    hash.update(piece);
                    Ok(())
                })
                .await?;
                FunctionResult::Bytes(hash.finish().into())
            }
            "hmac" => {
                let algorithm = self.text(caller, 0).await?;
                let key = self.key(caller, &algorithm).await?;
                let Some(mut hmac) = Hmac::new(&algorithm, &key) else {
                    return Ok(FunctionResult::Undefined);
                };
                let bytes = self.view(caller, 2).await?;
                self.pieces(caller, bytes, |piece, _| {
                    hmac.update(piece);
                    Ok(())
                })
                .await?;
                FunctionResult::Bytes(hmac.finish().into())
            }
            _ => FunctionResult::Undefined,
        })
    }

    /// The key of an HMAC: one that is longer than a block is hashed.
    async fn key(&self, caller: &mut Caller<'_, Host>, algorithm: &str) -> Result<Vec<u8>> {
        let key = self.view(caller, 1).await?;
        match Hash::new(algorithm) {
            Some(mut hash) if key.len as usize > Hmac::block(algorithm) => {
                self.pieces(caller, key, |piece, _| {
                    hash.update(piece);
                    Ok(())
                })
                .await?;
                Ok(hash.finish())
            }
            _ => self.js.copy(caller, key.at, key.len),
        }
    }

    /// Sends a message of a socket, once there is room for it. Returns why it cannot be sent.
    async fn socket_send(&self, caller: &mut Caller<'_, Host>) -> Result<FunctionResult> {
        let id = self.number(caller, 0).await? as u64;
        let limit = caller.data().limits().stream.socket.message;
        let (span, is_text) = self.content_at(caller, 1).await?;
        let held = match u64::from(span.len) > limit {
            true => Ok(None),
            // Until it is queued, which charges it.
            false => self.hold(caller, span.len),
        };
        let message = match &held {
            Ok(_) if u64::from(span.len) <= limit => {
                let bytes = self.copy_content(caller, span, is_text)?.into();
                Some(match is_text {
                    true => Message::Text(bytes),
                    false => Message::Binary(bytes),
                })
            }
            Ok(_) | Err(_) => None,
        };
        self.free_content(caller, span, is_text).await?;
        let _held = held?;
        let Some(message) = message else {
            let exception = KitException::new(
                "TypeError",
                format!("the message has more than {limit} bytes (`limits.socket_message`)"),
            );
            return Ok(FunctionResult::Text(exception.to_string()));
        };
        let state = CallState::of(caller.data_mut())?;
        let slot = state.sockets.get(&id).cloned();
        let Some(end) = slot.as_deref().and_then(OnceLock::get) else {
            return Ok(FunctionResult::Undefined);
        };
        Ok(match wait_in(caller, end.sender.send(message)).await {
            // A peer that is gone misses nothing.
            Ok(()) | Err(NotSent::Closed) => FunctionResult::Undefined,
            Err(error @ NotSent::NoMemory(_)) => {
                caller.data_mut().refusal_was_handled();
                FunctionResult::Text(KitException::new("Error", error.to_string()).to_string())
            }
        })
    }

    /// The key/value store of the worker, which a call sees as it was when the call began, and one
    /// with a WebSocket as it was at the last event. Without one, it is empty and nothing is kept.
    async fn store(&self, caller: &mut Caller<'_, Host>, name: &str) -> Result<FunctionResult> {
        if CallState::of(caller.data_mut())?.loading {
            return Ok(FunctionResult::Bool(false));
        }
        let key = self.text(caller, 0).await?;
        if name == "kvGet" {
            let value = kv_value_in(caller, &key).await.map_err(Error::new)?;
            return Ok(value.map_or(FunctionResult::Undefined, FunctionResult::from));
        }
        let (value, ttl) = match name {
            "kvSet" => (
                Some(self.text(caller, 1).await?),
                store::time(self.number(caller, 2).await?),
            ),
            _ => (None, None),
        };
        let kv = caller.data_mut().current_kv().await;
        Ok(match kv.map_err(Error::new)? {
            Some(kv) => FunctionResult::Bool(kv.set(key, value, ttl)),
            None => FunctionResult::Undefined,
        })
    }
}
