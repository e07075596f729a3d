//! Frames (RFC 6455, section 5): decoded as their bytes come, and encoded.

use bytes::Bytes;

use crate::charge::MemoryCharge;
use crate::close::{Close, code};
use crate::deflate::{BadData, Deflate, INFLATER, Inflater};
use crate::queue::Message;

/// Opcodes.
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Set in the first frame of a compressed message.
pub(crate) const COMPRESSED: u8 = 0x40;

/// The longest head of a frame.
const MAX_HEAD: usize = 14;

/// The longest content of a control frame.
const MAX_CONTROL: usize = 125;

/// What a message that is incomplete may take without a charge, in bytes: it is part of what a
/// connection costs.
const FREE: u64 = 4 << 10;

/// The first room for an inflated message, in bytes.
const INFLATED_STEP: usize = 4 << 10;

/// The longest content of frames whose message has `max` bytes: incompressible bytes take a few
/// more when they are compressed.
fn compressed_max(max: u64) -> u64 {
    max.saturating_add(max / 1024 + 64)
}

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer is a client: its frames are masked.
    Server,
    /// The peer is a server: its frames are not.
    Client,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Message(Message),
    Ping(Bytes),
    Pong,
    Close(Close),
}

/// Why the socket is closed: the code that is sent to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Breach(pub(crate) u16);

const PROTOCOL: Breach = Breach(code::PROTOCOL);

/// A frame whose content is arriving.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: u8,
    is_final: bool,
    /// Bytes of the content that have not come.
    left: u64,
    mask: [u8; 4],
    /// Bytes of the content that have come, modulo 4.
    phase: usize,
}

/// Decodes what a peer sends.
pub(crate) struct Decoder {
    role: Role,
    max_frame: u64,
    max_message: u64,
    /// The bytes of a head that have come.
    head: [u8; MAX_HEAD],
    len: usize,
    frame: Option<Frame>,
    /// The kind of a message whose last frame has not come, and what has come of it.
    kind: Option<u8>,
    message: Vec<u8>,
    /// Bytes of a text that are known to be UTF-8.
    valid: usize,
    control: Vec<u8>,
    /// What was negotiated.
    deflate: Option<Deflate>,
    /// While a compressed message comes.
    inflater: Option<Box<Inflater>>,
    /// Bytes of the message that have come in its frames.
    came: u64,
    /// For the capacity of `message`, and the inflater.
    charge: Box<dyn MemoryCharge>,
}

impl Decoder {
    /// The bytes that have come of a message that has not come as a whole.
    pub(crate) fn collected(&self) -> u64 {
        self.came
    }

    /// Takes compressed messages from now on.
    pub(crate) fn set_deflate(&mut self, deflate: Option<Deflate>) {
        self.deflate = deflate;
    }

    pub(crate) fn new(
        role: Role,
        max_frame: u64,
        max_message: u64,
        charge: Box<dyn MemoryCharge>,
    ) -> Self {
        Self {
            role,
            max_frame,
            max_message,
            head: [0; MAX_HEAD],
            len: 0,
            frame: None,
            kind: None,
            message: Vec::new(),
            valid: 0,
            control: Vec::new(),
            deflate: None,
            inflater: None,
            came: 0,
            charge,
        }
    }

    /// Decodes bytes until something has come completely. Returns how many were used.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Incoming>), Breach> {
        let mut used = 0;
        loop {
            let Some(mut frame) = self.frame else {
                if used == bytes.len() {
                    return Ok((used, None));
                }
                self.head[self.len] = bytes[used];
                self.len += 1;
                used += 1;
                if self.len >= 2 && self.len == self.head_len()? {
                    self.len = 0;
                    self.frame = Some(self.begin()?);
                }
                continue;
            };
            let left = usize::try_from(frame.left).unwrap_or(usize::MAX);
            let came = left.min(bytes.len() - used);
            self.content(&mut frame, &bytes[used..used + came])?;
            used += came;
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok((used, None));
            }
            self.frame = None;
            if let Some(incoming) = self.end(frame)? {
                return Ok((used, Some(incoming)));
            }
        }
    }

    /// The length of the head, which its first two bytes say. They are checked.
    fn head_len(&self) -> Result<usize, Breach> {
        let [first, second] = [self.head[0], self.head[1]];
        let is_masked = second & 0x80 != 0;
        // Reserved bits belong to extensions: compression has the first one, of a message's first
        // frame.
        let reserved = match first & 0x0f {
            TEXT | BINARY if self.deflate.is_some() => 0x70 & !COMPRESSED,
            _ => 0x70,
        };
        if first & reserved != 0 || is_masked != (self.role == Role::Server) {
            return Err(PROTOCOL);
        }
        let is_final = first & 0x80 != 0;
        let known = match first & 0x0f {
            CONTINUATION => self.kind.is_some(),
            TEXT | BINARY => self.kind.is_none(),
            CLOSE | PING | PONG => is_final && usize::from(second & 0x7f) <= MAX_CONTROL,
            _ => false,
        };
        if !known {
            return Err(PROTOCOL);
        }
        let length = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        Ok(2 + length + if is_masked { 4 } else { 0 })
    }

    /// A frame whose head has come.
    fn begin(&mut self) -> Result<Frame, Breach> {
        let (mut length, mut at) = ([0; 8], 2);
        match self.head[1] & 0x7f {
            126 => {
                length[6..].copy_from_slice(&self.head[2..4]);
                at = 4;
            }
            127 => {
                length.copy_from_slice(&self.head[2..10]);
                at = 10;
            }
            short => length[7] = short,
        }
        let left = u64::from_be_bytes(length);
        // RFC 6455, 5.2: in as few bytes as possible, and below 2^63.
        let is_minimal = match at {
            4 => left > 125,
            10 => (0x1_0000..1 << 63).contains(&left),
            _ => true,
        };
        if !is_minimal {
            return Err(PROTOCOL);
        }
        let mut mask = [0; 4];
        if self.role == Role::Server {
            mask.copy_from_slice(&self.head[at..at + 4]);
        }
        let opcode = self.head[0] & 0x0f;
        if opcode < CLOSE {
            if opcode != CONTINUATION {
                self.kind = Some(opcode);
                self.valid = 0;
                self.came = 0;
                if self.head[0] & COMPRESSED != 0 {
                    if !self.charge.resize(INFLATER) {
                        return Err(Breach(code::TRY_AGAIN));
                    }
                    self.inflater = Some(Inflater::new());
                }
            }
            let (mut frame, mut message) = (self.max_frame, self.max_message);
            if self.inflater.is_some() {
                (frame, message) = (compressed_max(frame), compressed_max(message));
            }
            if left > frame || left > message.saturating_sub(self.came) {
                return Err(Breach(code::TOO_LARGE));
            }
        }
        Ok(Frame {
            opcode,
            is_final: self.head[0] & 0x80 != 0,
            left,
            mask,
            phase: 0,
        })
    }

    /// Takes bytes of a frame's content.
    fn content(&mut self, frame: &mut Frame, bytes: &[u8]) -> Result<(), Breach> {
        let (mask, phase) = (frame.mask, frame.phase);
        frame.phase = (frame.phase + bytes.len()) % 4;
        frame.left -= bytes.len() as u64;
        if frame.opcode < CLOSE {
            self.came += bytes.len() as u64;
        }
        match (frame.opcode, self.inflater.take()) {
            (..CLOSE, Some(mut inflater)) => {
                let mut compressed = bytes.to_vec();
                unmask(&mut compressed, mask, phase);
                self.inflate(&mut inflater, &compressed)?;
                self.inflater = Some(inflater);
            }
            (opcode, inflater) => {
                self.inflater = inflater;
                if opcode < CLOSE {
                    self.make_room(bytes.len(), 0)?;
                }
                let to = match opcode {
                    CLOSE.. => &mut self.control,
                    _ => &mut self.message,
                };
                let start = to.len();
                to.extend_from_slice(bytes);
                unmask(&mut to[start..], mask, phase);
            }
        }
        if frame.opcode < CLOSE && self.kind == Some(TEXT) {
            self.check_text()?;
        }
        Ok(())
    }

    /// Inflates bytes of a compressed message, up to the largest size of one.
    fn inflate(&mut self, inflater: &mut Inflater, mut bytes: &[u8]) -> Result<(), Breach> {
        let max = usize::try_from(self.max_message).unwrap_or(usize::MAX);
        loop {
            let start = self.message.len();
            let room = max.saturating_sub(start);
            if start == self.message.capacity() && room > 0 {
                self.make_room(room.min(INFLATED_STEP.max(bytes.len())), INFLATER)?;
            }
            // Where there is no room, one byte is too much.
            let mut beyond = Vec::new();
            let to = match room {
                0 => {
                    beyond.reserve_exact(1);
                    &mut beyond
                }
                _ => &mut self.message,
            };
            let (used, is_done) = inflater.inflate(bytes, to).map_err(|BadData| PROTOCOL)?;
            if !beyond.is_empty() || self.message.len() > max {
                return Err(Breach(code::TOO_LARGE));
            }
            if is_done {
                return Ok(());
            }
            if used == 0 && self.message.len() == start {
                return Err(PROTOCOL);
            }
            bytes = &bytes[used..];
        }
    }

    /// Makes room for more of the message: its memory, and `besides`, are charged before.
    fn make_room(&mut self, more: usize, besides: u64) -> Result<(), Breach> {
        let needed = self.message.len() + more;
        if needed <= self.message.capacity() {
            return Ok(());
        }
        let max = usize::try_from(self.max_message).unwrap_or(usize::MAX);
        let capacity = needed.next_power_of_two().min(max).max(needed);
        // Both exist while the bytes are copied.
        let both = capacity + self.message.capacity();
        let charged = both as u64 + besides;
        if charged > FREE && !self.charge.resize(charged) {
            return Err(Breach(code::TRY_AGAIN));
        }
        self.message.reserve_exact(capacity - self.message.len());
        Ok(())
    }

    /// Checks what is new of a text: a byte that no UTF-8 has there is a breach at once.
    fn check_text(&mut self) -> Result<(), Breach> {
        match std::str::from_utf8(&self.message[self.valid..]) {
            Ok(_) => self.valid = self.message.len(),
            Err(error) if error.error_len().is_some() => return Err(Breach(code::INVALID)),
            // A character that is incomplete.
            Err(error) => self.valid += error.valid_up_to(),
        }
        Ok(())
    }

    /// A frame has come completely.
    fn end(&mut self, frame: Frame) -> Result<Option<Incoming>, Breach> {
        if frame.opcode >= CLOSE {
            let content = Bytes::copy_from_slice(&self.control);
            self.control.clear();
            return Ok(Some(match frame.opcode {
                PING => Incoming::Ping(content),
                PONG => Incoming::Pong,
                _ => Incoming::Close(close_of(&content)?),
            }));
        }
        if !frame.is_final {
            return Ok(None);
        }
        if let Some(mut inflater) = self.inflater.take() {
            let tail = inflater.tail();
            self.inflate(&mut inflater, tail)?;
            if self.kind == Some(TEXT) {
                self.check_text()?;
            }
        }
        self.came = 0;
        if self.kind == Some(TEXT) && self.valid < self.message.len() {
            return Err(Breach(code::INVALID));
        }
        let message: Bytes = std::mem::take(&mut self.message).into_boxed_slice().into();
        Ok(Some(Incoming::Message(match self.kind.take() {
            Some(TEXT) => Message::Text(message),
            _ => Message::Binary(message),
        })))
    }

    /// Releases the charge for the last message, which is charged elsewhere now.
    pub(crate) fn release(&mut self) {
        if self.message.capacity() == 0 {
            let _ = self.charge.resize(0);
        }
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    if mask == [0; 4] {
        return;
    }
    let mut turned = mask;
    turned.rotate_left(phase);
    let (words, rest) = bytes.as_chunks_mut::<4>();
    let word = u32::from_ne_bytes(turned);
    for bytes in words {
        *bytes = (u32::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(turned) {
        *byte ^= mask;
    }
}

/// The close that a frame says.
fn close_of(content: &[u8]) -> Result<Close, Breach> {
    let (code, reason) = match content {
        [] => (None, &[][..]),
        [high, low, reason @ ..] => (Some(u16::from_be_bytes([*high, *low])), reason),
        [_] => return Err(PROTOCOL),
    };
    let reason = std::str::from_utf8(reason).map_err(|_| Breach(code::INVALID))?;
    Close::new(code, reason).map_err(|_| PROTOCOL)
}

/// Appends a frame to `out`.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    role: Role,
    opcode: u8,
    is_final: bool,
    content: &[u8],
) -> Result<(), getrandom::Error> {
    out.push(opcode | if is_final { 0x80 } else { 0 });
    let masked = match role {
        Role::Server => 0,
        Role::Client => 0x80,
    };
    match content.len() {
        short @ 0..126 => out.push(masked | short as u8),
        medium @ 126..0x1_0000 => {
            out.push(masked | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(masked | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let mut mask = [0; 4];
    if role == Role::Client {
        getrandom::fill(&mut mask)?;
        out.extend_from_slice(&mask);
    }
    let start = out.len();
    out.extend_from_slice(content);
    unmask(&mut out[start..], mask, 0);
    Ok(())
}

/// The content of a close's frame.
pub(crate) fn close_content(close: &Close) -> Vec<u8> {
    match close.code {
        Some(code) => [&code.to_be_bytes()[..], close.reason.as_bytes()].concat(),
        None => Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::queue::tests::Budget;

    fn decoder(memory: u64) -> (Decoder, Budget) {
        let budget = Budget::new(memory);
        let decoder = Decoder::new(Role::Server, 1 << 20, 1 << 20, budget.part());
        (decoder, budget)
    }

    /// Everything that comes of bytes, fed in parts.
    fn decoded(decoder: &mut Decoder, bytes: &[u8], part: usize) -> Result<Vec<Incoming>, Breach> {
        let mut all = Vec::new();
        for mut piece in bytes.chunks(part) {
            while !piece.is_empty() {
                let (used, incoming) = decoder.feed(piece)?;
                all.extend(incoming);
                piece = &piece[used..];
            }
        }
        Ok(all)
    }

    fn left(budget: &Budget) -> u64 {
        budget.left.load(std::sync::atomic::Ordering::SeqCst)
    }

    #[test]
    fn announced_length_allocates_nothing() {
        let (mut decoder, budget) = decoder(1 << 20);
        let mut bytes = Vec::new();
        encode(&mut bytes, Role::Client, BINARY, true, &[7; 100_000]).unwrap();
        decoder.feed(&bytes[..20]).unwrap();
        assert_eq!(left(&budget), 1 << 20);
        decoder.feed(&bytes[20..60_000]).unwrap();
        assert!(left(&budget) <= (1 << 20) - 60_000);
        let (_, incoming) = decoder.feed(&bytes[60_000..]).unwrap();
        assert!(incoming.is_some());
        decoder.release();
        assert_eq!(left(&budget), 1 << 20);
    }

    #[test]
    fn a_message_without_memory_is_refused() {
        let (mut decoder, _) = decoder(50_000);
        let mut bytes = Vec::new();
        encode(&mut bytes, Role::Client, BINARY, true, &[7; 100_000]).unwrap();
        assert_eq!(
            decoded(&mut decoder, &bytes, 1000),
            Err(Breach(code::TRY_AGAIN))
        );
    }

    #[test]
    fn a_text_is_rejected_at_its_first_bad_byte() {
        let (mut decoder, _) = decoder(1 << 20);
        let mut bytes = Vec::new();
        encode(&mut bytes, Role::Client, TEXT, false, b"ok \xe2\x82").unwrap();
        assert_eq!(decoder.feed(&bytes), Ok((bytes.len(), None)));
        bytes.clear();
        encode(
            &mut bytes,
            Role::Client,
            CONTINUATION,
            true,
            b"\xacx\xff and more",
        )
        .unwrap();
        let until_bad = bytes.len() - " and more".len();
        assert_eq!(
            decoder.feed(&bytes[..until_bad]),
            Err(Breach(code::INVALID))
        );
    }

    #[test]
    fn heads_are_rejected_before_their_content() {
        for (bytes, expected) in [
            (
                &[0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4][..],
                code::TOO_LARGE,
            ),
            (
                &[
                    0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4,
                ],
                code::PROTOCOL,
            ),
            (&[0x82, 0xfe, 0, 125, 1, 2, 3, 4], code::PROTOCOL),
            (&[0x82, 0x01], code::PROTOCOL),
            (&[0xc2, 0x81], code::PROTOCOL),
            (&[0x83, 0x81], code::PROTOCOL),
            (&[0x8b, 0x81], code::PROTOCOL),
            (&[0x80, 0x81], code::PROTOCOL),
            (&[0x09, 0x81], code::PROTOCOL),
            (&[0x89, 0xfe], code::PROTOCOL),
        ] {
            let (mut decoder, _) = decoder(1 << 20);
            assert_eq!(decoder.feed(bytes), Err(Breach(expected)), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes_in_pieces_of_any_size(
            parts in proptest::collection::vec((0usize..70_000, any::<bool>()), 1..4),
            is_client in any::<bool>(),
            part in 1usize..5000,
        ) {
            let (role, peer) = match is_client {
                true => (Role::Client, Role::Server),
                false => (Role::Server, Role::Client),
            };
            let (mut bytes, mut whole, mut pings) = (Vec::new(), Vec::new(), Vec::new());
            for (n, (size, has_ping)) in parts.iter().enumerate() {
                let content: Vec<u8> = (0..*size).map(|byte| (byte % 251) as u8).collect();
                if *has_ping {
                    let ping = &content[..content.len().min(MAX_CONTROL)];
                    encode(&mut bytes, role, PING, true, ping).unwrap();
                    pings.push(Incoming::Ping(Bytes::copy_from_slice(ping)));
                }
                let opcode = if n == 0 { BINARY } else { CONTINUATION };
                encode(&mut bytes, role, opcode, n + 1 == parts.len(), &content).unwrap();
                whole.extend(content);
            }
            let budget = Budget::new(16 << 20);
            let mut decoder = Decoder::new(peer, 1 << 20, 1 << 20, budget.part());
            let all = decoded(&mut decoder, &bytes, part).unwrap();
            pings.push(Incoming::Message(Message::Binary(whole.into())));
            prop_assert_eq!(all, pings);
        }

        #[test]
        fn decodes_any_bytes_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            part in 1usize..100,
        ) {
            let (mut decoder, _) = decoder(1 << 20);
            let _ = decoded(&mut decoder, &bytes, part);
        }
    }
}
