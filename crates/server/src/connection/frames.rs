//! Follows the frames that a client of HTTP/2 sends, next to h2: whether a header block has begun,
//! which starts its time limit, and how many frames ask for work without being a part of a request.

/// What a client of HTTP/2 sends first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// The flag of the last frame of a header block.
const END_HEADERS: u8 = 4;

/// Where a client is among its frames.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Bytes of the preface that are missing.
    preface: usize,
    header: [u8; HEADER],
    header_len: usize,
    /// Bytes of the frame's payload that are missing.
    payload: usize,
    kind: u8,
    /// A header block is incomplete.
    in_block: bool,
    /// Frames since the last call of [`Self::take_counts`] that are no part of a request.
    control: u32,
    /// Bytes of bodies since then.
    data: u64,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self {
            preface: PREFACE.len(),
            header: [0; HEADER],
            header_len: 0,
            payload: 0,
            kind: DATA,
            in_block: false,
            control: 0,
            data: 0,
        }
    }

    /// Whether a header block, or a frame other than a part of a body, is incomplete.
    pub(crate) fn in_head(&self) -> bool {
        self.in_block || self.header_len > 0 || self.payload > 0 && self.kind != DATA
    }

    /// Frames that are no part of a request, and bytes of bodies, since the last call.
    pub(crate) fn take_counts(&mut self) -> (u32, u64) {
        (
            std::mem::take(&mut self.control),
            std::mem::take(&mut self.data),
        )
    }

    /// Follows bytes that the client sent.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        let preface = self.preface.min(bytes.len());
        self.preface -= preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if self.payload > 0 {
                let take = self.payload.min(bytes.len());
                self.payload -= take;
                bytes = &bytes[take..];
                if self.kind == DATA {
                    self.data += take as u64;
                }
                continue;
            }
            let take = (HEADER - self.header_len).min(bytes.len());
            self.header[self.header_len..][..take].copy_from_slice(&bytes[..take]);
            self.header_len += take;
            bytes = &bytes[take..];
            if self.header_len == HEADER {
                self.begin_frame();
            }
        }
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.header_len = 0;
        self.kind = kind;
        self.payload = u32::from_be_bytes([0, high, middle, low]) as usize;
        match kind {
            HEADERS | CONTINUATION => self.in_block = flags & END_HEADERS == 0,
            DATA if self.payload > 0 => {}
            _ => self.control += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![
            0,
            (payload >> 8) as u8,
            payload as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        bytes.resize(HEADER + payload, 0);
        bytes
    }

    #[test]
    fn follows_frames_however_they_arrive() {
        let mut bytes = PREFACE.to_vec();
        for frame in [
            frame(4, 0, 12),
            frame(HEADERS, 0, 30),
            frame(CONTINUATION, 0, 0),
            frame(CONTINUATION, END_HEADERS, 5),
            frame(DATA, 0, 300),
            frame(DATA, 0, 0),
            frame(6, 0, 8),
        ] {
            bytes.extend(frame);
        }
        for step in [1, 7, 4096] {
            let mut frames = Frames::new();
            bytes.chunks(step).for_each(|part| frames.feed(part));
            assert!(!frames.in_head());
            assert_eq!(frames.take_counts(), (3, 300));
        }
    }

    #[test]
    fn header_blocks_are_heads_until_they_end() {
        let mut frames = Frames::new();
        frames.feed(PREFACE);
        assert!(!frames.in_head());
        frames.feed(&frame(HEADERS, 0, 30));
        assert!(frames.in_head());
        frames.feed(&frame(CONTINUATION, 0, 30));
        assert!(frames.in_head());
        frames.feed(&frame(CONTINUATION, END_HEADERS, 30));
        assert!(!frames.in_head());
        // A part of a body may come slowly, a part of another frame may not.
        frames.feed(&frame(DATA, 0, 30)[..12]);
        assert!(!frames.in_head());
        frames.feed(&[0; 27]);
        frames.feed(&frame(6, 0, 8)[..12]);
        assert!(frames.in_head());
    }
}
