//! What the workers of one transfer share.

pub mod control;
pub mod crc;
pub mod ledger;
pub mod plan;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Result};
use crate::job::control::Control;
use crate::job::ledger::{Ledger, Span};
use crate::job::plan::{Part, Piece, Plan};
use crate::memory::bytes;

/// What becomes of the digest of a chunk.
pub enum Digests<'a> {
    /// A format without any.
    None,
    /// A read: each has to be the one expected; how many were is counted.
    Check {
        ledger: Ledger,
        expected: &'a [u32],
        checked: AtomicU64,
    },
    /// A write: each is kept.
    Keep {
        ledger: Ledger,
        crcs: Vec<AtomicU32>,
    },
}

pub struct Job<'a> {
    pub plan: &'a Plan,
    /// What lies on the host in a write from a device, within gaps of the plan.
    pub overlay: &'a Plan,
    digests: Digests<'a>,
    pub control: Control,
    pub piece_nbytes: u64,
}

impl<'a> Job<'a> {
    pub fn new(
        plan: &'a Plan,
        overlay: &'a Plan,
        digests: Digests<'a>,
        pieces: Vec<Piece>,
        piece_nbytes: u64,
    ) -> Job<'a> {
        Job {
            plan,
            overlay,
            digests,
            control: Control::new(pieces),
            piece_nbytes,
        }
    }

    pub fn ledger(&self) -> Option<&Ledger> {
        match &self.digests {
            Digests::None => None,
            Digests::Check { ledger, .. } | Digests::Keep { ledger, .. } => Some(ledger),
        }
    }

    /// The CRC32C of each chunk, where they are kept.
    pub fn crcs(&self) -> &[AtomicU32] {
        match &self.digests {
            Digests::Keep { crcs, .. } => crcs,
            _ => &[],
        }
    }

    /// How many chunks were as expected.
    pub fn checked(&self) -> u64 {
        match &self.digests {
            Digests::Check { checked, .. } => checked.load(Relaxed),
            _ => 0,
        }
    }

    pub fn spans(&self, piece: Piece) -> impl Iterator<Item = Span> {
        self.ledger()
            .into_iter()
            .flat_map(move |ledger| ledger.spans(piece))
    }

    /// Takes a span's remainder, and does what is to be done once its chunk is whole.
    pub fn record(&self, span: Span, remainder: u32) -> Result<()> {
        let Some(ledger) = self.ledger() else {
            return Ok(());
        };
        let Some(found) = ledger.record(span, remainder) else {
            return Ok(());
        };
        match &self.digests {
            Digests::Check { expected, .. } if expected[span.chunk as usize] != found => {
                Err(Error::Checksum {
                    offset: ledger.chunks.span(span.chunk).0,
                    found,
                    expected: expected[span.chunk as usize],
                })
            }
            Digests::Check { checked, .. } => {
                checked.fetch_add(1, Relaxed);
                Ok(())
            }
            Digests::Keep { crcs, .. } => {
                crcs[span.chunk as usize].store(found, Relaxed);
                Ok(())
            }
            Digests::None => Ok(()),
        }
    }

    /// Takes the digests of a piece whose bytes lie together in host memory.
    ///
    /// # Safety
    /// The bytes of the piece must be at `address`.
    pub unsafe fn record_together(&self, piece: Piece, address: u64) -> Result<()> {
        let part = Part {
            start: piece.start,
            nbytes: piece.nbytes(),
            address: Some(address),
        };
        // SAFETY: the caller vouches for the bytes.
        unsafe { self.record_parts(piece, &[part]) }
    }

    /// Takes the digests of a piece whose bytes lie in the memory of its parts.
    ///
    /// # Safety
    /// Every part must have memory, which must be valid.
    pub unsafe fn record_parts(&self, piece: Piece, parts: &[Part]) -> Result<()> {
        let mut parts = parts.iter();
        let mut part: Option<Part> = None;
        for span in self.spans(piece) {
            let (mut remainder, mut at) = (0, span.start);
            while at < span.end {
                let mut here = part
                    .take()
                    .or_else(|| parts.next().copied())
                    .expect("no holes");
                let nbytes = here.nbytes.min(span.end - at);
                let address = here.address.expect("every part has memory");
                // SAFETY: the caller vouches for the memory.
                remainder = crc::extend(remainder, unsafe { bytes(address, nbytes) });
                at += nbytes;
                here.nbytes -= nbytes;
                here.address = Some(address + nbytes);
                part = (here.nbytes > 0).then_some(here);
            }
            self.record(span, remainder)?;
        }
        Ok(())
    }

    /// Copies what lies on the host to its place in a piece.
    ///
    /// # Safety
    /// There must be room for the piece at `address`; the memory of the overlay must be valid.
    pub unsafe fn lay_over(&self, piece: Piece, address: u64) {
        for part in self.overlay.parts(piece.start, piece.end) {
            if let Some(from) = part.address {
                let to = (address + part.start - piece.start) as *mut u8;
                // SAFETY: the caller vouches for both ranges.
                unsafe { to.copy_from_nonoverlapping(from as *const u8, part.nbytes as usize) };
            }
        }
    }

    /// Counts the bytes of a piece that belong to extents.
    pub fn count(&self, piece: Piece) {
        for plan in [self.plan, self.overlay] {
            let parts = plan.parts(piece.start, piece.end);
            self.control.count(
                parts
                    .filter(|p| p.address.is_some())
                    .map(|p| p.nbytes)
                    .sum(),
            );
        }
    }
}
