//! Decoding of bytes as text.

use wws_engine::{
    Host, NoMemory,
    wasmtime::{Caller, Error, Result},
};

use super::arguments::PIECE;
use super::{FunctionCall, FunctionResult};
use crate::javascript::{
    encoding::TextDecoder,
    state::{CallState, DECODERS},
};

/// Flags of `decode`.
const KEEP_MARK: u32 = 1;
const FATAL: u32 = 2;
const MORE_FOLLOWS: u32 = 4;

/// Up to this many bytes of UTF-8 are passed to the interpreter in place, in one piece.
const IN_PLACE: u32 = 4 << 20;

impl FunctionCall<'_> {
    /// Decodes bytes. Arguments: the name of the encoding, the bytes, flags, and the number of the
    /// decoder that may have begun. Returns undefined if the bytes are malformed.
    pub(super) async fn decode(&self, caller: &mut Caller<'_, Host>) -> Result<FunctionResult> {
        let label = self.text(caller, 0).await?;
        let bytes = self.view(caller, 1).await?;
        let flags = self.number(caller, 2).await? as u32;
        let id = self.number(caller, 3).await? as u64;
        let keep_mark = flags & KEEP_MARK != 0;
        if id == 0 && bytes.len <= IN_PLACE && label == "utf-8" {
            let text = self.js.slice(&*caller, bytes)?;
            if std::str::from_utf8(text).is_ok() {
                let mark = !keep_mark && text.starts_with(b"\xef\xbb\xbf");
                let text = bytes.part(if mark { 3 } else { 0 }, u32::MAX);
                let value = self.js.new_string.call_async(caller, (text.at, text.len));
                return Ok(FunctionResult::Value(value.await?));
            }
        }
        let state = CallState::of(caller.data_mut())?;
        let begun = state.decoders.remove(&id);
        let more_follows = flags & MORE_FOLLOWS != 0;
        if more_follows && state.decoders.len() >= DECODERS {
            return Ok(FunctionResult::Bool(false));
        }
        let Some(mut decoder) =
            begun.or_else(|| TextDecoder::new(&label, keep_mark, flags & FATAL != 0))
        else {
            return Ok(FunctionResult::Undefined);
        };
        let (mut text, mut is_malformed) = (String::new(), false);
        let mut charge = caller.data_mut().hold(0).map_err(Error::new)?;
        self.pieces(caller, bytes, |piece, is_last| {
            // Each byte becomes a character of up to three bytes.
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
            return Ok(FunctionResult::Undefined);
        }
        if more_follows {
            CallState::of(caller.data_mut())?
                .decoders
                .insert(id, decoder);
        }
        Ok(FunctionResult::Text(text))
    }
}
