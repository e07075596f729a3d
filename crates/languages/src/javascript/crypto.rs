//! Hashes for the kit.

use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha384, Sha512};

/// The hash of some bytes; `None`: no such algorithm.
pub(super) fn digest(algorithm: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    Some(match algorithm {
        "SHA-1" => Sha1::digest(bytes).to_vec(),
        "SHA-256" => Sha256::digest(bytes).to_vec(),
        "SHA-384" => Sha384::digest(bytes).to_vec(),
        "SHA-512" => Sha512::digest(bytes).to_vec(),
        _ => return None,
    })
}

/// HMAC, RFC 2104.
pub(super) fn hmac(algorithm: &str, key: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let block = match algorithm {
        "SHA-1" | "SHA-256" => 64,
        "SHA-384" | "SHA-512" => 128,
        _ => return None,
    };
    let mut padded = vec![0; block];
    if key.len() > block {
        let short = digest(algorithm, key)?;
        padded[..short.len()].copy_from_slice(&short);
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let with = |pad: u8, rest: &[u8]| {
        let mut all: Vec<u8> = padded.iter().map(|byte| byte ^ pad).collect();
        all.extend_from_slice(rest);
        digest(algorithm, &all)
    };
    with(0x5c, &with(0x36, bytes)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// RFC 4231, test cases 2 and 6.
    #[test]
    fn hmac_is_as_its_rfc_says() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac("SHA-256", b"Jefe", b"what do ya want for nothing?").unwrap()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert!(
            hex(hmac("SHA-512", &[0xaa; 131], text).unwrap())
                .starts_with("80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352")
        );
    }
}
