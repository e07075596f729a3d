//! Arguments of a call: texts, numbers and bytes of the guest.

use bytes::Bytes;
use wws_engine::{
    Charge, Host,
    wasmtime::{AsContextMut, Caller, Error, Result},
};

use super::FunctionCall;
use crate::javascript::{encoding, exports::Span};

/// Bytes that a function of the host processes between two checks of the CPU time.
pub(super) const PIECE: u32 = 64 << 10;

/// Bytes after which other calls get a turn; a multiple of [`PIECE`].
const TURN: u32 = 1 << 20;

impl FunctionCall<'_> {
    /// Charges bytes that are about to be copied, except for a few: they are freed when the
    /// function returns.
    pub(super) fn hold(&self, caller: &mut Caller<'_, Host>, len: u32) -> Result<Option<Charge>> {
        if len <= PIECE {
            return Ok(None);
        }
        Ok(Some(
            caller.data_mut().hold(len.into()).map_err(Error::new)?,
        ))
    }

    /// An argument as text.
    pub(super) async fn text(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<String> {
        let (js, value) = (self.js, self.value(index)?);
        let span = js.text_at(caller.as_context_mut(), self.scratch, value);
        let span = span.await?;
        if span.at == 0 {
            return Ok(String::new());
        }
        // Freed when the function of the host returns.
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

    pub(super) async fn number(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<f64> {
        self.js
            .get_number
            .call_async(caller.as_context_mut(), (self.value(index)?,))
            .await
    }

    /// A Uint8Array's bytes, a string's as UTF-8, none for undefined. They keep their charge.
    pub(super) async fn content(
        &self,
        caller: &mut Caller<'_, Host>,
        index: usize,
    ) -> Result<Bytes> {
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

    /// The content as the body of a response, which the engine charges; `None` if it has more than
    /// `limit` bytes.
    pub(super) async fn answered(
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

    /// The span of the bytes, and whether they are a text, which must be freed.
    pub(super) async fn content_at(
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

    pub(super) fn copy_content(
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

    pub(super) async fn free_content(
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

    /// The span of a Uint8Array.
    pub(super) async fn view(&self, caller: &mut Caller<'_, Host>, index: usize) -> Result<Span> {
        self.js
            .view(caller.as_context_mut(), self.scratch, self.value(index)?)
            .await
    }

    /// Processes bytes of the guest in place, piece by piece; there is at least one piece, and
    /// `work` knows which one is the last. Between pieces other calls get a turn and the guest's
    /// time is checked.
    pub(super) async fn pieces(
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
}
