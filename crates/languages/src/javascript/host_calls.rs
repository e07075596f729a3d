//! What QuickJS imports: functions that the kit calls, and the loading of modules.

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use wws_engine::{
    Charge, Host, NoMemory,
    wasmtime::{AsContextMut, Caller, Error, Linker, Memory, Result, error::Context as _},
};

use super::{
    crypto::{Hash, Hmac},
    encoding::{self, TextDecoder},
    exports::{Exports, NoRoom, Span},
    files::{self, FileCall},
    modules, multipart,
    operations::{self, Operation},
    state::{DECODERS, State},
    urls,
};

/// Functions of the host that the kit finds in `wws.host`.
pub(super) const NAMES: [&str; 23] = [
    "start",
    "cancel",
    "wake",
    "log",
    "respond",
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

/// What `decode` is asked for, as bits.
const KEEP_MARK: u32 = 1;
const FATAL: u32 = 2;
const MORE_FOLLOWS: u32 = 4;

/// Bytes that a function of the host works on between two looks at the clock.
const PIECE: u32 = 64 << 10;

/// Bytes after which others have a turn; a multiple of [`PIECE`].
const TURN: u32 = 1 << 20;

/// What an operation that is under way takes beside what it was given, in bytes.
const OPERATION: u64 = 1 << 10;

/// Bytes of UTF-8 that the interpreter may take from where they are, in one piece.
const AT_ONCE: u32 = 4 << 20;

/// Random bytes that one call gives, at most.
const RANDOM: f64 = 65_536.0;

/// Defines the imports.
pub(super) fn define(linker: &mut Linker<Host>) -> Result<()> {
    // Workers see UTC, wherever they run.
    linker.func_wrap("env", "host_get_timezone_offset", |_: i32, _: i32| 0i32)?;
    // The engine's own clock ends what runs for too long.
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
                let state = State::of(caller.data_mut())?;
                let (js, scratch) = (state.exports.clone(), state.scratch);
                let name = js.copy(&mut caller, name, name_len)?;
                let list = js.copy(&mut caller, values, count.min(16) * 4)?;
                let call = Call {
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

/// Tells the kit of a promise that was rejected and that nothing handles, or that something does now.
async fn rejection(
    caller: &mut Caller<'_, Host>,
    promise: u32,
    reason: u32,
    is_handled: u32,
) -> Result<()> {
    let state = State::of(caller.data_mut())?;
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

/// The memory of a caller whose state is not there yet.
pub(super) fn memory(caller: &mut Caller<'_, Host>) -> Result<Memory> {
    caller
        .get_export("memory")
        .and_then(wws_engine::wasmtime::Extern::into_memory)
        .context("the interpreter exports no memory")
}

/// A call of one function.
struct Call<'a> {
    js: &'a Exports,
    scratch: u32,
    values: Vec<u32>,
    /// Charges for texts that were copied for it.
    held: Mutex<Vec<Charge>>,
}

/// What a function gives back.
enum Answer {
    Undefined,
    Bool(bool),
    Number(f64),
    Text(String),
    Bytes(Bytes),
    /// A value of the guest's; 0: an exception was thrown.
    Value(u32),
}

impl From<Option<String>> for Answer {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Undefined, Self::Text)
    }
}

impl From<Option<Vec<u8>>> for Answer {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        bytes.map_or(Self::Undefined, |bytes| Self::Bytes(bytes.into()))
    }
}

impl Call<'_> {
    async fn run(&self, caller: &mut Caller<'_, Host>, name: &[u8]) -> Result<u32> {
        let name = std::str::from_utf8(name)?;
        let given = match self.answer(caller, name).await {
            Ok(answer) => self.give(caller, answer).await,
            Err(error) => Err(error),
        };
        match given {
            Err(error) if error.is::<NoMemory>() || error.is::<NoRoom>() => {
                self.throw(caller, &format!("ENOMEM:{error}")).await
            }
            given => given,
        }
    }

    async fn give(&self, caller: &mut Caller<'_, Host>, answer: Answer) -> Result<u32> {
        let js = self.js;
        match answer {
            Answer::Undefined => js.undefined.call_async(caller, ()).await,
            Answer::Bool(true) => js.get_true.call_async(caller, ()).await,
            Answer::Bool(false) => js.get_false.call_async(caller, ()).await,
            Answer::Number(number) => js.new_number.call_async(caller, (number,)).await,
            Answer::Text(text) => js.make_text(caller, &text).await,
            Answer::Bytes(bytes) => js.make_bytes(caller, &bytes).await,
            Answer::Value(value) => Ok(value),
        }
    }

    fn value(&self, index: usize) -> Result<u32> {
        self.values
            .get(index)
            .copied()
            .context("the kit gave too few arguments")
    }

    /// Throws an error of the kit's, which the worker can catch: it is told that it got no memory, and goes on.
    async fn throw(&self, caller: &mut Caller<'_, Host>, failure: &str) -> Result<u32> {
        caller.data_mut().refusal_was_handled();
        let kit = State::of(caller.data_mut())?.kit;
        let error = kit.context("an error before the kit is there")?.error;
        let text = self.js.make_text(caller.as_context_mut(), failure).await?;
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

    /// Charges what is about to be copied. What is small is not: it is gone when the function returns.
    fn hold(&self, caller: &mut Caller<'_, Host>, len: u32) -> Result<Option<Charge>> {
        if len <= PIECE {
            return Ok(None);
        }
        Ok(Some(
            caller.data_mut().hold(len.into()).map_err(Error::new)?,
        ))
    }

    /// An argument as text.
    async fn text(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<String> {
        let (js, value) = (self.js, self.value(index)?);
        let span = js.text_at(caller.as_context_mut(), self.scratch, value);
        let span = span.await?;
        if span.at == 0 {
            return Ok(String::new());
        }
        // Given back when the function of the host returns.
        let text = match self.hold(caller, span.len) {
            Ok(charge) => {
                if let (Some(charge), Ok(mut held)) = (charge, self.held.lock()) {
                    held.push(charge);
                }
                js.copy_text(&mut *caller, span)
            }
            Err(error) => Err(error),
        };
        js.free_string
            .call_async(caller.as_context_mut(), (span.at,))
            .await?;
        text
    }

    async fn number(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<f64> {
        self.js
            .get_number
            .call_async(caller.as_context_mut(), (self.value(index)?,))
            .await
    }

    /// A Uint8Array's bytes, a string's as UTF-8, none for undefined. They keep their charge.
    async fn content(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<Bytes> {
        let (span, is_text) = self.content_at(caller, index).await?;
        let bytes = match caller.data_mut().hold(span.len.into()) {
            Ok(charge) => {
                let bytes = self.copy_content(caller, span, is_text);
                bytes.map(|bytes| charge.hold(bytes.into()))
            }
            Err(refused) => Err(Error::new(refused)),
        };
        self.free_content(caller, span, is_text).await?;
        bytes
    }

    /// The same as an answer, which the engine charges itself; `None` if it has more than `limit` bytes.
    async fn answered(
        &self,
        caller: &mut Caller<'_, Host>,
        index: usize,
        limit: u64,
    ) -> Result<Option<Bytes>> {
        let (span, is_text) = self.content_at(caller, index).await?;
        if u64::from(span.len) > limit {
            return Ok(None);
        }
        let bytes = self.copy_content(caller, span, is_text)?;
        self.free_content(caller, span, is_text).await?;
        Ok(Some(bytes.into()))
    }

    /// Where the bytes lie, and whether they are a text's, which are to be freed.
    async fn content_at(
        &self,
        caller: &mut Caller<'_, Host>,
        index: usize,
    ) -> Result<(Span, bool)> {
        let Some(value) = self.values.get(index).copied() else {
            return Ok((Span::NONE, false));
        };
        let (js, scratch) = (self.js, self.scratch);
        let undefined = js
            .is_undefined
            .call_async(caller.as_context_mut(), (value,));
        if undefined.await? != 0 {
            return Ok((Span::NONE, false));
        }
        let string = js.is_string.call_async(caller.as_context_mut(), (value,));
        if string.await? != 0 {
            let text = js.text_at(caller.as_context_mut(), scratch, value);
            return Ok((text.await?, true));
        }
        let view = js.view(caller.as_context_mut(), scratch, value);
        Ok((view.await?, false))
    }

    fn copy_content(
        &self,
        caller: &mut Caller<'_, Host>,
        span: Span,
        is_text: bool,
    ) -> Result<Vec<u8>> {
        let mut bytes = self.js.copy(caller, span.at, span.len)?;
        if is_text {
            encoding::replace_surrogates(&mut bytes);
        }
        Ok(bytes)
    }

    async fn free_content(
        &self,
        caller: &mut Caller<'_, Host>,
        span: Span,
        is_text: bool,
    ) -> Result<()> {
        if is_text && span.at != 0 {
            let free = &self.js.free_string;
            free.call_async(caller, (span.at,)).await?;
        }
        Ok(())
    }

    async fn answer(&self, caller: &mut Caller<'_, Host>, name: &str) -> Result<Answer> {
        Ok(match name {
            "respond" => {
                let head = self.text(caller, 0).await?;
                let limit = caller.data().limits().output;
                let outcome = match self.answered(caller, 1, limit).await? {
                    Some(body) => Ok((head, body)),
                    None => Err(format!(
                        "answered with more than {limit} bytes (`limits.output`)"
                    )),
                };
                State::of(caller.data_mut())?.outcome = Some(outcome);
                Answer::Undefined
            }
            "fail" => {
                let text = self.text(caller, 0).await?;
                State::of(caller.data_mut())?.outcome = Some(Err(text));
                Answer::Undefined
            }
            "start" => self.start(caller).await?,
            "cancel" => {
                let id = self.number(caller, 0).await? as u64;
                operations::cancel(caller.data_mut(), id);
                Answer::Undefined
            }
            "wake" => {
                let milliseconds = self.number(caller, 0).await?;
                let state = State::of(caller.data_mut())?;
                if state.loading {
                    return Ok(Answer::Bool(false));
                }
                // No call lasts a day.
                state.wake = (milliseconds >= 0.0).then(|| {
                    let delay = (milliseconds / 1000.0).min(86_400.0);
                    Instant::now() + Duration::from_secs_f64(delay)
                });
                Answer::Undefined
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
                Answer::Undefined
            }
            "body" => Answer::Bytes(State::of(caller.data_mut())?.body.clone()),
            "bodyText" => {
                let body = State::of(caller.data_mut())?.body.clone();
                let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&body);
                let text = String::from_utf8_lossy(text);
                Answer::Value(self.js.make_text(caller, &text).await?)
            }
            "kvGet" | "kvSet" | "kvDelete" => self.store(caller, name).await?,
            "now" => Answer::Number(caller.data_mut().elapsed().as_secs_f64() * 1000.0),
            "number" => {
                let mut bytes = [0; 8];
                getrandom::fill(&mut bytes)?;
                // 53 bits, as many as a number holds.
                let number = (u64::from_le_bytes(bytes) >> 11) as f64;
                Answer::Number(number / (1u64 << 53) as f64)
            }
            "random" => {
                if State::of(caller.data_mut())?.loading {
                    // What is drawn at load would be the same for every request.
                    return Ok(Answer::Undefined);
                }
                let len = self.number(caller, 0).await?.clamp(0.0, RANDOM) as usize;
                let mut bytes = vec![0; len];
                getrandom::fill(&mut bytes)?;
                Answer::Bytes(bytes.into())
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
            "percentDecode" => Answer::Text(encoding::percent_decode(&self.text(caller, 0).await?)),
            "encode" => Answer::Value(
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
                Answer::Text(match parts {
                    Ok(parts) => serde_json::to_string(&parts)?,
                    Err(why) => serde_json::to_string(why)?,
                })
            }
            "digest" => {
                let Some(mut hash) = Hash::new(&self.text(caller, 0).await?) else {
                    return Ok(Answer::Undefined);
                };
                let bytes = self.view(caller, 1).await?;
                self.pieces(caller, bytes, |piece, _| {
                    hash.update(piece);
                    Ok(())
                })
                .await?;
                Answer::Bytes(hash.finish().into())
            }
            "hmac" => {
                let algorithm = self.text(caller, 0).await?;
                let key = self.key(caller, &algorithm).await?;
                let Some(mut hmac) = Hmac::new(&algorithm, &key) else {
                    return Ok(Answer::Undefined);
                };
                let bytes = self.view(caller, 2).await?;
                self.pieces(caller, bytes, |piece, _| {
                    hmac.update(piece);
                    Ok(())
                })
                .await?;
                Answer::Bytes(hmac.finish().into())
            }
            _ => Answer::Undefined,
        })
    }

    /// Where the bytes of a Uint8Array lie.
    async fn view(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<Span> {
        self.js
            .view(caller.as_context_mut(), self.scratch, self.value(index)?)
            .await
    }

    /// Works on bytes of the guest where they lie, piece by piece; `work` is told which one is the last. There is at least one.
    /// Between pieces others have their turn, and the guest's time is looked at.
    async fn pieces(
        &self,
        caller: &mut Caller<'_, Host>,
        bytes: Span,
        mut work: impl FnMut(&[u8], bool) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        loop {
            let piece = bytes.part(done, PIECE);
            done += piece.len;
            let is_last = done == bytes.len;
            work(self.js.slice(&*caller, piece)?, is_last)?;
            if is_last {
                return Ok(());
            }
            if done.is_multiple_of(TURN) {
                caller.data_mut().give_way().await?;
            }
        }
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

    /// Bytes as text: the name of the encoding, the bytes, what is asked for, and the number of the decoder that may have begun.
    /// Undefined: they are malformed.
    async fn decode(&self, caller: &mut Caller<'_, Host>) -> Result<Answer> {
        let label = self.text(caller, 0).await?;
        let bytes = self.view(caller, 1).await?;
        let flags = self.number(caller, 2).await? as u32;
        let id = self.number(caller, 3).await? as u64;
        let keep_mark = flags & KEEP_MARK != 0;
        if id == 0 && bytes.len <= AT_ONCE && label == "utf-8" {
            let text = self.js.slice(&*caller, bytes)?;
            if std::str::from_utf8(text).is_ok() {
                let mark = !keep_mark && text.starts_with(b"\xef\xbb\xbf");
                let text = bytes.part(if mark { 3 } else { 0 }, u32::MAX);
                let value = self.js.new_string.call_async(caller, (text.at, text.len));
                return Ok(Answer::Value(value.await?));
            }
        }
        let state = State::of(caller.data_mut())?;
        let begun = state.decoders.remove(&id);
        let more_follows = flags & MORE_FOLLOWS != 0;
        if more_follows && state.decoders.len() >= DECODERS {
            return Ok(Answer::Bool(false));
        }
        let Some(mut decoder) =
            begun.or_else(|| TextDecoder::new(&label, keep_mark, flags & FATAL != 0))
        else {
            return Ok(Answer::Undefined);
        };
        let (mut text, mut is_malformed) = (String::new(), false);
        let mut charge = caller.data_mut().hold(0).map_err(Error::new)?;
        self.pieces(caller, bytes, |piece, is_last| {
            // Each byte is a character of three bytes at most.
            let most = (text.len() + 3 * piece.len()) as u64;
            if text.capacity() > PIECE as usize && !charge.grow_to(2 * most) {
                return Err(Error::new(NoMemory(2 * most)));
            }
            if !is_malformed {
                let last = is_last && !more_follows;
                is_malformed = decoder.decode(piece, &mut text, last).is_err();
            }
            Ok(())
        })
        .await?;
        if is_malformed {
            return Ok(Answer::Undefined);
        }
        if more_follows {
            State::of(caller.data_mut())?.decoders.insert(id, decoder);
        }
        Ok(Answer::Text(text))
    }

    /// The store of the worker, which a call sees as it was when the call came. Without one, nothing is there and nothing stays.
    async fn store(&self, caller: &mut Caller<'_, Host>, name: &str) -> Result<Answer> {
        if State::of(caller.data_mut())?.loading {
            return Ok(Answer::Bool(false));
        }
        let key = self.text(caller, 0).await?;
        let value = match name {
            "kvSet" => Some(self.text(caller, 1).await?),
            _ => None,
        };
        let Some(kv) = caller.data_mut().kv() else {
            return Ok(Answer::Undefined);
        };
        Ok(match name {
            "kvGet" => kv.get(&key).map(str::to_owned).into(),
            _ => Answer::Bool(kv.set(key, value)),
        })
    }

    async fn start(&self, caller: &mut Caller<'_, Host>) -> Result<Answer> {
        let id = self.number(caller, 0).await? as u64;
        let kind = self.text(caller, 1).await?;
        let (operation, kept) = match kind.as_str() {
            "fetch" => {
                let head = self.text(caller, 2).await?;
                let (body, kept) = (self.content(caller, 3).await?, head.len());
                (Operation::Fetch(head, body), kept)
            }
            "increment" => {
                let key = self.text(caller, 2).await?;
                let (by, kept) = (self.number(caller, 3).await?, key.len());
                (Operation::Increment(key, by), kept)
            }
            _ => self.file(caller).await?,
        };
        let charge = caller.data_mut().hold(OPERATION + kept as u64);
        let charge = charge.map_err(Error::new)?;
        let started = operations::start(caller.data_mut(), id, operation, charge);
        Ok(match started {
            Ok(()) => Answer::Undefined,
            Err(why) => Answer::Text(format!("Error:{kind}: {why}")),
        })
    }

    async fn file(&self, caller: &mut Caller<'_, Host>) -> Result<(Operation, usize)> {
        let name = self.text(caller, 2).await?;
        let path = self.text(caller, 3).await?;
        // What cannot be is not copied.
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
