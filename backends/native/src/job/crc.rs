//! CRC32C taken apart and joined: remainders of pieces, with a start value of zero.
//!
//! Polynomials are bit-reflected: bit 31 is the coefficient of x^0.

use crc_fast::{CrcAlgorithm, Digest};

const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 0x8000_0000;
const X_TO_8: u32 = 0x0080_0000;

/// What a CRC32C starts with, as a remainder.
pub const START: u32 = u32::MAX;

/// Continues a remainder over more bytes, by the best instructions that the processor has.
pub fn extend(remainder: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, remainder.into());
    digest.update(bytes);
    !(digest.finalize() as u32)
}

/// Continues a remainder over zeros.
pub fn extend_zeros(remainder: u32, nbytes: u64) -> u32 {
    times(remainder, shift_by(nbytes))
}

/// Joins the remainder of what came before with that of the `nbytes` after it.
pub fn join(before: u32, after: u32, nbytes: u64) -> u32 {
    extend_zeros(before, nbytes) ^ after
}

/// Turns the remainder of a whole message, begun with `START`, into its CRC32C.
pub fn finish(remainder: u32) -> u32 {
    !remainder
}

const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ (POLYNOMIAL & (a & 1).wrapping_neg())
}

/// The product of two polynomials.
const fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & ((a >> bit) & 1).wrapping_neg();
        b = times_x(b);
    }
    product
}

const fn squares() -> [u32; 64] {
    let mut table = [0; 64];
    table[0] = X_TO_8;
    let mut i = 1;
    while i < 64 {
        table[i] = times(table[i - 1], table[i - 1]);
        i += 1;
    }
    table
}

static SQUARES: [u32; 64] = squares();

/// x to the number of bits in `nbytes` bytes.
fn shift_by(nbytes: u64) -> u32 {
    let mut power = ONE;
    let mut left = nbytes;
    while left != 0 {
        let square = SQUARES[left.trailing_zeros() as usize];
        power = if power == ONE {
            square
        } else {
            times(power, square)
        };
        left &= left - 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_check_value() {
        assert_eq!(finish(extend(START, b"123456789")), 0xe306_9283);
    }

    #[test]
    fn joins_what_was_taken_apart() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let whole = extend(START, &bytes);
        for cut in [0, 1, 2, 63, 4096, 65_536, 99_999, 100_000] {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(join(extend(START, a), extend(0, b), b.len() as u64), whole);
        }
    }

    #[test]
    fn zeros_are_like_any_bytes() {
        for nbytes in [0u64, 1, 5, 4096, 70_000] {
            let zeros = vec![0; nbytes as usize];
            assert_eq!(
                extend_zeros(0x1234_5678, nbytes),
                extend(0x1234_5678, &zeros)
            );
        }
    }
}
