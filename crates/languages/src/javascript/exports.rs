//! QuickJS' C interface, as its Wasm module exports it. A value is the address of a box that holds it.

use wws_engine::{
    Host, Vm,
    wasmtime::{AsContextMut, Memory, Result, TypedFunc, error::Context as _},
};

macro_rules! exports {
    ($($(#[$doc:meta])* $name:ident: $export:literal ($($p:ty),*) -> $r:ty;)*) => {
        /// Functions of one instance.
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
    /// Takes the bytes' memory over.
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
}

/// Scratch memory of the guest that its host uses, in bytes.
pub(super) const SCRATCH: u32 = 64;

impl Exports {
    fn word(&self, cx: impl AsContextMut<Data = Host>, at: u32) -> Result<u32> {
        let mut word = [0; 4];
        self.memory.read(cx, at as usize, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    /// Memory of the guest, copied.
    pub(super) fn copy(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        at: u32,
        len: u32,
    ) -> Result<Vec<u8>> {
        let memory = self.memory.data(cx.as_context_mut());
        (at as usize)
            .checked_add(len as usize)
            .and_then(|end| memory.get(at as usize..end))
            .map(<[u8]>::to_vec)
            .context("the interpreter names memory that it does not have")
    }

    /// A value as text; what is no string is converted.
    pub(super) async fn text(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        scratch: u32,
        value: u32,
    ) -> Result<String> {
        let at = self
            .get_string
            .call_async(cx.as_context_mut(), (value, scratch))
            .await?;
        if at == 0 {
            return Ok(String::new());
        }
        let len = self.word(cx.as_context_mut(), scratch)?;
        let bytes = self.copy(cx.as_context_mut(), at, len)?;
        self.free_string
            .call_async(cx.as_context_mut(), (at,))
            .await?;
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            // Lone surrogates.
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    /// The bytes of a Uint8Array.
    pub(super) async fn bytes(
        &self,
        mut cx: impl AsContextMut<Data = Host>,
        scratch: u32,
        value: u32,
    ) -> Result<Vec<u8>> {
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
            return Ok(Vec::new());
        }
        if offset.checked_add(len).is_none_or(|end| end > all) {
            return Err(wws_engine::wasmtime::Error::msg(
                "the interpreter gave a view beyond its buffer",
            ));
        }
        let at = at
            .checked_add(offset)
            .context("the interpreter names memory that it does not have")?;
        self.copy(cx, at, len)
    }

    /// Puts bytes into memory of the guest's; `None` if it has no room.
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
            .context("no memory left for a text")?;
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
            .context("no memory left for bytes")?;
        self.new_bytes.call_async(cx, (at, len)).await
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
