//! What QuickJS imports: functions that the kit calls, and the loading of modules.

use std::time::Duration;

use bytes::Bytes;
use wws_engine::{
    Host,
    wasmtime::{AsContextMut, Caller, Linker, Memory, Result, error::Context as _},
};

use super::{
    crypto, encoding,
    exports::Exports,
    files::FileCall,
    modules,
    operations::{self, Operation},
    state::State,
    urls,
};

/// Functions of the host that the kit finds in `wws.host`.
pub(super) const NAMES: [&str; 21] = [
    "start",
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
    "isMalformed",
    "encodingName",
    "digest",
    "hmac",
];

/// Random bytes that one call gives, at most.
const RANDOM: f64 = 65_536.0;

/// Defines the imports.
pub(super) fn define(linker: &mut Linker<Host>) -> Result<()> {
    // Workers see UTC, wherever they run.
    linker.func_wrap("env", "host_get_timezone_offset", |_: i32, _: i32| 0i32)?;
    // The engine's own clock ends what runs for too long.
    linker.func_wrap("env", "host_interrupt", || 0i32)?;
    linker.func_wrap(
        "env",
        "host_promise_rejection",
        |_promise: i32, _reason: i32, _handled: i32| {},
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
}

/// What a function gives back.
enum Answer {
    Undefined,
    Bool(bool),
    Number(f64),
    Text(String),
    Bytes(Vec<u8>),
}

impl From<Option<String>> for Answer {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Undefined, Self::Text)
    }
}

impl From<Option<Vec<u8>>> for Answer {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        bytes.map_or(Self::Undefined, Self::Bytes)
    }
}

impl Call<'_> {
    async fn run(&self, caller: &mut Caller<'_, Host>, name: &[u8]) -> Result<u32> {
        let name = std::str::from_utf8(name)?;
        let answer = self.answer(caller, name).await?;
        let js = self.js;
        match answer {
            Answer::Undefined => js.undefined.call_async(caller, ()).await,
            Answer::Bool(true) => js.get_true.call_async(caller, ()).await,
            Answer::Bool(false) => js.get_false.call_async(caller, ()).await,
            Answer::Number(number) => js.new_number.call_async(caller, (number,)).await,
            Answer::Text(text) => js.make_text(caller, &text).await,
            Answer::Bytes(bytes) => js.make_bytes(caller, &bytes).await,
        }
    }

    fn value(&self, index: usize) -> Result<u32> {
        self.values
            .get(index)
            .copied()
            .context("the kit gave too few arguments")
    }

    async fn text(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<String> {
        self.js
            .text(caller.as_context_mut(), self.scratch, self.value(index)?)
            .await
    }

    async fn number(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<f64> {
        self.js
            .get_number
            .call_async(caller.as_context_mut(), (self.value(index)?,))
            .await
    }

    /// A Uint8Array's bytes, a string's as UTF-8, none for undefined.
    async fn content(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<Vec<u8>> {
        let Some(value) = self.values.get(index).copied() else {
            return Ok(Vec::new());
        };
        let is = |function: &wws_engine::wasmtime::TypedFunc<(u32,), u32>| function.clone();
        let undefined = is(&self.js.is_undefined);
        if undefined
            .call_async(caller.as_context_mut(), (value,))
            .await?
            != 0
        {
            return Ok(Vec::new());
        }
        let string = is(&self.js.is_string);
        if string.call_async(caller.as_context_mut(), (value,)).await? != 0 {
            return Ok(self.text(caller, index).await?.into_bytes());
        }
        self.js
            .bytes(caller.as_context_mut(), self.scratch, value)
            .await
    }

    async fn answer(&self, caller: &mut Caller<'_, Host>, name: &str) -> Result<Answer> {
        Ok(match name {
            "respond" => {
                let head = self.text(caller, 0).await?;
                let body = self.content(caller, 1).await?;
                State::of(caller.data_mut())?.outcome = Some(Ok((head, body)));
                Answer::Undefined
            }
            "fail" => {
                let text = self.text(caller, 0).await?;
                State::of(caller.data_mut())?.outcome = Some(Err(text));
                Answer::Undefined
            }
            "start" => self.start(caller).await?,
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
            "body" => Answer::Bytes(State::of(caller.data_mut())?.body.to_vec()),
            "bodyText" => {
                let body = State::of(caller.data_mut())?.body.clone();
                encoding::decode("utf-8", &body, false).into()
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
                Answer::Bytes(bytes)
            }
            "url" => {
                let text = self.text(caller, 0).await?;
                let base = self.text(caller, 1).await?;
                urls::parse(&text, Some(base.as_str()).filter(|base| !base.is_empty())).into()
            }
            "urlSet" => {
                let href = self.text(caller, 0).await?;
                let part = self.text(caller, 1).await?;
                let value = self.text(caller, 2).await?;
                urls::set(&href, &part, &value).into()
            }
            "percentDecode" => Answer::Text(encoding::percent_decode(&self.text(caller, 0).await?)),
            "encode" => Answer::Bytes(self.text(caller, 0).await?.into_bytes()),
            "decode" => {
                let label = self.text(caller, 0).await?;
                let bytes = self.content(caller, 1).await?;
                let keep_mark = self.is_true(caller, 2).await?;
                encoding::decode(&label, &bytes, keep_mark).into()
            }
            "isMalformed" => {
                let label = self.text(caller, 0).await?;
                let bytes = self.content(caller, 1).await?;
                Answer::Bool(encoding::is_malformed(&label, &bytes))
            }
            "encodingName" => encoding::name(&self.text(caller, 0).await?).into(),
            "digest" => {
                let algorithm = self.text(caller, 0).await?;
                let bytes = self.content(caller, 1).await?;
                crypto::digest(&algorithm, &bytes).into()
            }
            "hmac" => {
                let algorithm = self.text(caller, 0).await?;
                let key = self.content(caller, 1).await?;
                let bytes = self.content(caller, 2).await?;
                crypto::hmac(&algorithm, &key, &bytes).into()
            }
            _ => Answer::Undefined,
        })
    }

    /// Is an argument `true`? As a number it is 1.
    async fn is_true(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<bool> {
        Ok(index < self.values.len() && self.number(caller, index).await? == 1.0)
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
        let id = self.number(caller, 0).await?;
        let operation = match self.text(caller, 1).await?.as_str() {
            "fetch" => Operation::Fetch(
                self.text(caller, 2).await?,
                Bytes::from(self.content(caller, 3).await?),
            ),
            "sleep" => {
                let milliseconds = self.number(caller, 2).await?;
                // No call lasts a day.
                Operation::Sleep(Duration::from_secs_f64(
                    (milliseconds / 1000.0).clamp(0.0, 86_400.0),
                ))
            }
            "increment" => {
                Operation::Increment(self.text(caller, 2).await?, self.number(caller, 3).await?)
            }
            _ => {
                let name = self.text(caller, 2).await?;
                let rename = name == "rename";
                Operation::File(FileCall {
                    path: self.text(caller, 3).await?,
                    to: if rename {
                        self.text(caller, 4).await?
                    } else {
                        String::new()
                    },
                    content: if rename {
                        Vec::new()
                    } else {
                        self.content(caller, 4).await?
                    },
                    limit: caller.data().limits().memory,
                    name,
                })
            }
        };
        Ok(match operations::start(caller.data_mut(), id, operation) {
            Ok(()) => Answer::Undefined,
            Err(why) => Answer::Text(why.to_owned()),
        })
    }
}
