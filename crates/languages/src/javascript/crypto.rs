//! Hashes for the kit, fed in pieces.

use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha384, Sha512};

/// A hash that is being computed.
pub(super) enum Hash {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hash {
    /// `None` for an unknown algorithm.
    pub(super) fn new(algorithm: &str) -> Option<Self> {
        Some(match algorithm {
            "SHA-1" => Self::Sha1(Sha1::new()),
            "SHA-256" => Self::Sha256(Sha256::new()),
            "SHA-384" => Self::Sha384(Sha384::new()),
            "SHA-512" => Self::Sha512(Sha512::new()),
            _ => return None,
        })
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(hash) => hash.finalize().to_vec(),
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Sha384(hash) => hash.finalize().to_vec(),
            Self::Sha512(hash) => hash.finalize().to_vec(),
        }
    }

    /// Bytes of a block (FIPS 180-4).
    fn block(&self) -> usize {
        match self {
            Self::Sha1(_) | Self::Sha256(_) => 64,
            Self::Sha384(_) | Self::Sha512(_) => 128,
        }
    }
}

/// HMAC, RFC 2104.
pub(super) struct Hmac {
    inner: Hash,
    outer: Hash,
}

impl Hmac {
    /// `key`: the key, or its hash if it is longer than [`Self::block`]. `None` for an unknown
    /// algorithm.
    pub(super) fn new(algorithm: &str, key: &[u8]) -> Option<Self> {
        let (mut inner, mut outer) = (Hash::new(algorithm)?, Hash::new(algorithm)?);
        let mut padded = key.to_vec();
        padded.resize(inner.block().max(key.len()), 0);
        let with = |pad: u8| padded.iter().map(|byte| byte ^ pad).collect::<Vec<u8>>();
        inner.update(&with(0x36));
        outer.update(&with(0x5c));
        Some(Self { inner, outer })
    }

    /// The longest key that is not hashed first, in bytes.
    pub(super) fn block(algorithm: &str) -> usize {
        Hash::new(algorithm).map_or(0, |hash| hash.block())
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.outer.update(&self.inner.finish());
        self.outer.finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// RFC 4231, test cases 2 and 6.
    #[test]
    fn hmac_is_as_its_rfc_says() {
        let hex = |bytes: Vec<u8>| wws_project::hex::encode(&bytes);
        let mut hmac = Hmac::new("SHA-256", b"Jefe").unwrap();
        hmac.update(b"what do ya want ");
        hmac.update(b"for nothing?");
        assert_eq!(
            hex(hmac.finish()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(Hmac::block("SHA-512") < 131);
        let mut key = Hash::new("SHA-512").unwrap();
        key.update(&[0xaa; 131]);
        let mut hmac = Hmac::new("SHA-512", &key.finish()).unwrap();
        hmac.update(b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert!(
            hex(hmac.finish())
                .starts_with("80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352")
        );
    }
}
