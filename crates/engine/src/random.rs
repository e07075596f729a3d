//! Random bytes for guests. Most ask for 16 of them when they begin, and a system call for so few costs more than all else that they
//! ask of WASI: a thread takes a small stock at once.

use std::cell::RefCell;

/// Bytes that a thread takes at once. No more: where a machine is copied while it runs, both copies have what is left.
const STOCK: usize = 512;

thread_local! {
    static LEFT: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; STOCK], left: 0 }) };
}

/// The first `left` bytes have not been given to anybody.
struct Stock {
    bytes: [u8; STOCK],
    left: usize,
}

/// Fills `to` with bytes of the system's generator, each of which is given out once.
///
/// # Errors
/// The system has none.
pub(crate) fn fill(to: &mut [u8]) -> Result<(), getrandom::Error> {
    if to.len() > STOCK / 8 {
        return getrandom::fill(to);
    }
    LEFT.with_borrow_mut(|stock| {
        if stock.left < to.len() {
            // What fails may have written some of them.
            stock.left = 0;
            getrandom::fill(&mut stock.bytes)?;
            stock.left = STOCK;
        }
        let from = stock.left - to.len();
        let given = &mut stock.bytes[from..stock.left];
        to.copy_from_slice(given);
        // Nothing remembers what a guest was given.
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
    fn no_bytes_are_given_twice() {
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
        // Nor in part: a stock's halves are no two guests' bytes.
        let halves: HashSet<&[u8]> = all.iter().flat_map(|bytes| bytes.chunks(8)).collect();
        assert_eq!(halves.len(), 8000);
    }

    #[test]
    fn every_length_is_filled() {
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
    fn what_was_given_is_not_kept() {
        let mut bytes = [0; 16];
        fill(&mut bytes).unwrap();
        LEFT.with_borrow(|stock| {
            assert!(stock.bytes[stock.left..].iter().all(|byte| *byte == 0));
            assert!(!stock.bytes.windows(16).any(|window| window == bytes));
        });
    }
}
