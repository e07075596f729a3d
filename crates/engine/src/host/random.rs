//! Random bytes for guests. Most guests ask for 16 of them at start, and a system call for so few
//! costs more than everything else that they ask of WASI, so each thread keeps a small stock.

use std::cell::RefCell;

/// Bytes that a thread takes at once. If a running machine is copied, both copies have what is
/// left, so the stock is small.
const STOCK: usize = 512;

thread_local! {
    static LEFT: RefCell<RandomStock> =
        const { RefCell::new(RandomStock { bytes: [0; STOCK], left: 0 }) };
}

/// Random bytes, of which the first `left` were not given out yet.
struct RandomStock {
    bytes: [u8; STOCK],
    left: usize,
}

/// Fills `to` with bytes of the system's generator. Each byte is given out once.
///
/// # Errors
/// Returns the system's error.
pub(crate) fn fill(to: &mut [u8]) -> Result<(), getrandom::Error> {
    if to.len() > STOCK / 8 {
        return getrandom::fill(to);
    }
    LEFT.with_borrow_mut(|stock| {
        if stock.left < to.len() {
            // A failed call may have written some bytes.
            stock.left = 0;
            getrandom::fill(&mut stock.bytes)?;
            stock.left = STOCK;
        }
        let from = stock.left - to.len();
        let given = &mut stock.bytes[from..stock.left];
        to.copy_from_slice(given);
        // Nothing keeps what a guest was given.
        given.fill(0);
        stock.left = from;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn random_bytes_never_repeat() {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    (0..1000)
                        .map(|_| {
                            let mut bytes = [0; 16];
                            fill(&mut bytes).unwrap();
                            bytes
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let all: Vec<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 4000);
        // Nor do two results share a part.
        let halves: HashSet<&[u8]> = all.iter().flat_map(|bytes| bytes.chunks(8)).collect();
        assert_eq!(halves.len(), 8000);
    }

    #[test]
    fn fills_every_length() {
        for length in [0, 1, 63, 64, 65, 511, 512, 513, 10_000] {
            let mut bytes = vec![0; length];
            for _ in 0..20 {
                fill(&mut bytes).unwrap();
                let zeros = bytes.iter().filter(|byte| **byte == 0).count();
                assert!(zeros <= 3 + length / 32, "{zeros} of {length}");
            }
        }
    }

    #[test]
    fn random_stock_forgets_given_bytes() {
        let mut bytes = [0; 16];
        fill(&mut bytes).unwrap();
        LEFT.with_borrow(|stock| {
            assert!(stock.bytes[stock.left..].iter().all(|byte| *byte == 0));
            assert!(!stock.bytes.windows(16).any(|window| window == bytes));
        });
    }
}
