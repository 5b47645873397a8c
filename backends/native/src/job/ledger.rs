//! The digests of chunks, put together from the pieces that were moved in any order.

use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};

use crate::job::crc;
use crate::job::plan::{Chunks, Piece};

/// A chunk, or the part of one that lies in a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub chunk: u64,
    pub start: u64,
    pub end: u64,
}

impl Span {
    pub fn nbytes(&self) -> u64 {
        self.end - self.start
    }
}

pub struct Ledger {
    pub chunks: Chunks,
    piece_nbytes: u64,
    /// Where chunks are made of several pieces: the remainder of each piece, and how many miss.
    remainders: Vec<AtomicU32>,
    missing: Vec<AtomicU32>,
}

impl Ledger {
    pub fn new(chunks: Chunks, piece_nbytes: u64) -> Ledger {
        let mut ledger = Ledger {
            chunks,
            piece_nbytes,
            remainders: Vec::new(),
            missing: Vec::new(),
        };
        if chunks.chunk_nbytes > piece_nbytes {
            ledger.remainders = zeros(chunks.nbytes.div_ceil(piece_nbytes));
            ledger.missing = (0..chunks.count())
                .map(|index| {
                    let (start, end) = chunks.span(index);
                    AtomicU32::new((end - start).div_ceil(piece_nbytes) as u32)
                })
                .collect();
        }
        ledger
    }

    /// The chunks of a piece, or the part of one.
    pub fn spans(&self, piece: Piece) -> impl Iterator<Item = Span> + '_ {
        let first = self.chunks.index_at(piece.start);
        let last = self.chunks.index_at(piece.end - 1);
        (first..=last).map(move |chunk| {
            let (start, end) = self.chunks.span(chunk);
            Span {
                chunk,
                start: start.max(piece.start),
                end: end.min(piece.end),
            }
        })
    }

    /// Takes the remainder of a span, begun with zero; returns the chunk's CRC32C once it is whole.
    pub fn record(&self, span: Span, remainder: u32) -> Option<u32> {
        if self.missing.is_empty() {
            return Some(crc::finish(crc::join(crc::START, remainder, span.nbytes())));
        }
        let block = (span.start - self.chunks.offset) / self.piece_nbytes;
        self.remainders[block as usize].store(remainder, Release);
        let left = self.missing[span.chunk as usize].fetch_sub(1, AcqRel);
        (left == 1).then(|| self.join_blocks(span.chunk))
    }

    fn join_blocks(&self, chunk: u64) -> u32 {
        let (mut start, end) = self.chunks.span(chunk);
        let mut remainder = crc::START;
        while start < end {
            let block = (start - self.chunks.offset) / self.piece_nbytes;
            let nbytes = self.piece_nbytes.min(end - start);
            let after = self.remainders[block as usize].load(Acquire);
            remainder = crc::join(remainder, after, nbytes);
            start += nbytes;
        }
        crc::finish(remainder)
    }
}

/// Room for a value of each chunk or piece.
pub fn zeros(count: u64) -> Vec<AtomicU32> {
    (0..count).map(|_| AtomicU32::new(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_make_the_chunks_digests() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * i) as u8).collect();
        for (chunk_nbytes, piece_nbytes) in [(256, 64), (64, 256), (128, 128), (1024, 16)] {
            let chunks = Chunks {
                offset: 4096,
                nbytes: 1000,
                chunk_nbytes,
            };
            let ledger = Ledger::new(chunks, piece_nbytes);
            let mut crcs = vec![None; chunks.count() as usize];
            let blocks = 1000u64.div_ceil(piece_nbytes);
            for block in (0..blocks).rev() {
                let start = 4096 + block * piece_nbytes;
                let end = (start + piece_nbytes).min(chunks.end());
                for span in ledger.spans(Piece { start, end }) {
                    let part = &bytes[(span.start - 4096) as usize..(span.end - 4096) as usize];
                    if let Some(crc) = ledger.record(span, crc::extend(0, part)) {
                        assert_eq!(crcs[span.chunk as usize].replace(crc), None);
                    }
                }
            }
            let expected: Vec<_> = bytes
                .chunks(chunk_nbytes as usize)
                .map(|chunk| Some(crc::finish(crc::extend(crc::START, chunk))))
                .collect();
            assert_eq!(crcs, expected);
        }
    }
}
