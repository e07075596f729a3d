//! QuickJS's C interface, as its Wasm module exports it. A value is the address of a box that holds
//! it.

use wws_engine::{
    Host, Vm,
    wasmtime::{AsContextMut, Error, Memory, Result, StoreContext, TypedFunc, error::Context as _},
};

use super::encoding;

macro_rules! exports {
    ($($(#[$doc:meta])* $name:ident: $export:literal ($($p:ty),*) -> $r:ty;)*) => {
        /// The functions of one instance.
        pub(super) struct Exports {
            pub(super) memory: Memory,
            $($(#[$doc])* pub(super) $name: TypedFunc<($($p,)*), $r>,)*
        }

        impl Exports {
            pub(super) fn of(vm: &mut Vm) -> Result<Self> {
                Ok(Self {
                    memory: vm.memory()?,
                    $($name: vm.function($export)?,)*
                })
            }
        }
    };
}

exports! {
    malloc: "wasm_malloc"(u32) -> u32;
    free: "wasm_free"(u32) -> ();
    free_string: "qjs_free_cstring"(u32) -> ();
    new_string: "qjs_new_string"(u32, u32) -> u32;
    new_number: "qjs_new_number"(f64) -> u32;
    /// Copies the bytes.
    new_bytes: "qjs_new_uint8_array"(u32, u32) -> u32;
    undefined: "qjs_get_undefined"() -> u32;
    get_true: "qjs_get_true"() -> u32;
    get_false: "qjs_get_false"() -> u32;
    is_undefined: "qjs_is_undefined"(u32) -> u32;
    is_string: "qjs_is_string"(u32) -> u32;
    is_exception: "qjs_is_exception"(u32) -> u32;
    get_number: "qjs_get_float64"(u32) -> f64;
    /// Value, where to put the length.
    get_string: "qjs_get_string_len"(u32, u32) -> u32;
    /// Value, where to put the offset, the length and the size of an element.
    get_view: "qjs_get_typed_array_buffer"(u32, u32, u32, u32) -> u32;
    /// Value, where to put the length.
    get_buffer: "qjs_get_array_buffer"(u32, u32) -> u32;
    free_value: "qjs_free_value"(u32) -> ();
    /// Function, `this`, count, where the arguments are.
    call: "qjs_call"(u32, u32, u32, u32) -> u32;
    run_job: "qjs_execute_pending_job"() -> i32;
    exception: "qjs_get_exception"() -> u32;
    /// Throws a value: the host's function must return 0 then.
    throw: "qjs_throw"(u32) -> u32;
}

/// The guest has no memory left for this many bytes. The worker can catch it.
#[derive(Debug)]
pub(super) struct NoRoom(usize);

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no memory left for {} bytes (`limits.memory`)", self.0)
    }
}

impl std::error::Error for NoRoom {}

/// A span of the guest's memory.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) at: u32,
    pub(super) len: u32,
}

impl Span {
    pub(super) const NONE: Self = Self { at: 0, len: 0 };

    /// The part that starts at `from`, of up to `len` bytes.
    pub(super) fn part(self, from: u32, len: u32) -> Self {
        Self {
            at: self.at.saturating_add(from),
            len: self.len.saturating_sub(from).min(len),
        }
    }
}

/// Scratch memory of the guest that its host uses, in bytes.
pub(super) const SCRATCH: u32 = 64;

impl Exports {
    fn word(&self, cx: impl AsContextMut<Data = Host>, at: u32) -> Result<u32> {
        let mut word = [0; 4];
        self.memory.read(cx, at as usize, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    /// Memory of the guest.
    pub(super) fn slice<'a>(
        &self,
        cx: impl Into<StoreContext<'a, Host>>,
        span: Span,
    ) -> Result<&'a [u8]> {
        let start = span.at as usize;
        start
            .checked_add(span.len as usize)
            .and_then(|end| self.memory.data(cx).get(start..end))
            .context("the interpreter names memory that it does not have")
    }

    /// A copy of the guest's memory.
    pub(super) fn copy(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        at: u32,
        len: u32,
    ) -> Result<Vec<u8>> {
        let span = Span { at, len };
        Ok(self.slice(cx.as_context_mut(), span)?.to_vec())
    }

    /// The text of a value in the guest's memory: UTF-8, except for lone surrogates. To be freed
    /// with `free_string`, unless its address is 0: then its conversion threw.
    pub(super) async fn text_at(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        scratch: u32,
        value: u32,
    ) -> Result<Span> {
        let at = self
            .get_string
            .call_async(cx.as_context_mut(), (value, scratch))
            .await?;
        if at == 0 {
            return Ok(Span::NONE);
        }
        let len = self.word(cx, scratch)?;
        Ok(Span { at, len })
    }

    /// A value as text; other values than strings are converted.
    pub(super) async fn text(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        scratch: u32,
        value: u32,
    ) -> Result<String> {
        let span = self.text_at(cx.as_context_mut(), scratch, value).await?;
        if span.at == 0 {
            return Ok(String::new());
        }
        let text = self.copy_text(cx.as_context_mut(), span)?;
        self.free_string.call_async(cx, (span.at,)).await?;
        Ok(text)
    }

    /// The text of a span, see [`Self::text_at`].
    pub(super) fn copy_text(
        &self,
        cx: impl AsContextMut<Data = Host>,
        span: Span,
    ) -> Result<String> {
        let mut bytes = self.copy(cx, span.at, span.len)?;
        encoding::replace_surrogates(&mut bytes);
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// The span of a Uint8Array.
    pub(super) async fn view(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        scratch: u32,
        value: u32,
    ) -> Result<Span> {
        let buffer = self
            .get_view
            .call_async(
                cx.as_context_mut(),
                (value, scratch, scratch + 4, scratch + 8),
            )
            .await?;
        let offset = self.word(cx.as_context_mut(), scratch)?;
        let len = self.word(cx.as_context_mut(), scratch + 4)?;
        let at = self
            .get_buffer
            .call_async(cx.as_context_mut(), (buffer, scratch + 12))
            .await?;
        let all = self.word(cx.as_context_mut(), scratch + 12)?;
        self.free_value
            .call_async(cx.as_context_mut(), (buffer,))
            .await?;
        if at == 0 || len == 0 {
            return Ok(Span::NONE);
        }
        if offset.checked_add(len).is_none_or(|end| end > all) {
            return Err(Error::msg("the interpreter gave a view beyond its buffer"));
        }
        let at = at
            .checked_add(offset)
            .context("the interpreter names memory that it does not have")?;
        Ok(Span { at, len })
    }

    /// The text of a value as a new Uint8Array, without a copy in the host. 0: its conversion
    /// threw.
    pub(super) async fn encode(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        scratch: u32,
        value: u32,
    ) -> Result<u32> {
        let span = self.text_at(cx.as_context_mut(), scratch, value).await?;
        if span.at == 0 {
            return Ok(0);
        }
        let to = self
            .malloc
            .call_async(cx.as_context_mut(), (span.len.max(1),))
            .await?;
        if to == 0 {
            self.free_string
                .call_async(cx.as_context_mut(), (span.at,))
                .await?;
            return Err(Error::new(NoRoom(span.len as usize)));
        }
        self.slice(cx.as_context_mut(), span)?;
        let (from, len) = (span.at as usize, span.len as usize);
        let memory = self.memory.data_mut(&mut cx);
        memory.copy_within(from..from + len, to as usize);
        encoding::replace_surrogates(&mut memory[to as usize..to as usize + len]);
        self.free_string
            .call_async(cx.as_context_mut(), (span.at,))
            .await?;
        let value = self
            .new_bytes
            .call_async(cx.as_context_mut(), (to, span.len))
            .await?;
        self.free.call_async(cx, (to,)).await?;
        Ok(value)
    }

    /// Writes bytes to newly allocated memory of the guest; `None` if it has no room.
    pub(super) async fn put(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        bytes: &[u8],
    ) -> Result<Option<u32>> {
        let len = u32::try_from(bytes.len())?;
        let at = self
            .malloc
            .call_async(cx.as_context_mut(), (len.max(1),))
            .await?;
        if at == 0 {
            return Ok(None);
        }
        self.memory.write(cx, at as usize, bytes)?;
        Ok(Some(at))
    }

    /// A new string.
    pub(super) async fn make_text(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        text: &str,
    ) -> Result<u32> {
        let len = u32::try_from(text.len())?;
        let at = self
            .put(cx.as_context_mut(), text.as_bytes())
            .await?
            .ok_or_else(|| Error::new(NoRoom(text.len())))?;
        let value = self
            .new_string
            .call_async(cx.as_context_mut(), (at, len))
            .await?;
        self.free.call_async(cx, (at,)).await?;
        Ok(value)
    }

    /// A new Uint8Array.
    pub(super) async fn make_bytes(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        bytes: &[u8],
    ) -> Result<u32> {
        let len = u32::try_from(bytes.len())?;
        let at = self
            .put(cx.as_context_mut(), bytes)
            .await?
            .ok_or_else(|| Error::new(NoRoom(bytes.len())))?;
        let value = self
            .new_bytes
            .call_async(cx.as_context_mut(), (at, len))
            .await?;
        self.free.call_async(cx, (at,)).await?;
        Ok(value)
    }

    /// Calls a JavaScript function, which may throw: see `is_exception`.
    pub(super) async fn invoke(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        scratch: u32,
        function: u32,
        arguments: &[u32],
    ) -> Result<u32> {
        let mut list = [0u8; SCRATCH as usize];
        for (to, from) in list.chunks_exact_mut(4).zip(arguments) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        self.memory
            .write(cx.as_context_mut(), scratch as usize, &list)?;
        let this = self.undefined.call_async(cx.as_context_mut(), ()).await?;
        let count = u32::try_from(arguments.len())?;
        self.call
            .call_async(cx, (function, this, count, scratch))
            .await
    }
}
