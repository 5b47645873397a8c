//! Transfers between a file and host memory.

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::io::file::File;
use crate::io::source::Files;
use crate::job::Job;
use crate::job::crc;
use crate::job::plan::{Part, Piece, blocks};
use crate::memory::lane::Shape;
use crate::memory::pool::Loan;
use crate::memory::{PAGE_NBYTES, bytes, is_writable};

/// What is copied, digested and written at once.
const BLOCK_NBYTES: u64 = 256 << 10;

/// Reads pieces into the host memory of their extents until none is left.
///
/// # Safety
/// The memory of the plan's extents must be valid and left alone meanwhile.
pub unsafe fn read(job: &Job<'_>, files: &Files<'_>) -> Result<()> {
    let mut scratch = Vec::new();
    let mut bounce: Option<Loan> = None;
    while let Some(piece) = job.control.take() {
        let mut parts: Vec<Part> = job.plan.parts(piece.start, piece.end).collect();
        let file = files.at(piece.start);
        if file.is_cold(piece.start, piece.end) {
            let Some(to) = borrow(&mut bounce, job)? else {
                return Ok(());
            };
            let address = to + piece.start % PAGE_NBYTES;
            // SAFETY: a slot has room for a piece; the caller vouches for the extents.
            unsafe {
                file.read_direct(to, piece.start, piece.end)?;
                job.record_together(piece, address)?;
                scatter(&parts, piece, address)?;
            }
        } else {
            give_gaps_memory(&mut parts, &mut scratch);
            // SAFETY: the caller vouches for the extents; gaps have memory of their own.
            unsafe {
                file.read_parts(&parts)?;
                job.record_parts(piece, &parts)?;
            }
        }
        job.count(piece);
    }
    Ok(())
}

/// Writes pieces from the host memory of their extents until none is left.
///
/// Each is copied once, and digest and file are of that copy: the program may change its memory.
///
/// # Safety
/// The memory of the plan's extents must be valid.
pub unsafe fn write(job: &Job<'_>, file: &File<'_>) -> Result<()> {
    let mut bounce: Option<Loan> = None;
    while let Some(piece) = job.control.take() {
        let Some(address) = borrow(&mut bounce, job)? else {
            return Ok(());
        };
        let around = file.writes_around();
        for span in job.spans(piece) {
            let mut remainder = 0;
            let whole = Piece {
                start: span.start,
                end: span.end,
            };
            for block in blocks(whole, piece.start, BLOCK_NBYTES) {
                // Of what goes through the page cache no more is held than stays in the
                // processor's.
                let from = if around {
                    address + block.start - piece.start
                } else {
                    address
                };
                // SAFETY: the caller vouches for the extents; a slot has room for a piece.
                unsafe {
                    gather(job, block, from);
                    remainder = crc::extend(remainder, bytes(from, block.nbytes()));
                    if !around {
                        file.write_buffered(from, block.start, block.nbytes())?;
                    }
                }
            }
            job.record(span, remainder)?;
        }
        if around {
            // SAFETY: the slot holds the piece.
            unsafe { file.write(address, piece.start, piece.nbytes())? };
        } else {
            file.start_writeback(piece.start, piece.nbytes());
        }
        job.count(piece);
    }
    Ok(())
}

/// Returns bounce memory for a piece, which the worker keeps until it ends; none if the transfer
/// is stopped before there is any.
fn borrow(bounce: &mut Option<Loan>, job: &Job<'_>) -> Result<Option<u64>> {
    if bounce.is_none() {
        let shape = Shape {
            device: None,
            slots: 1,
            piece_nbytes: job.piece_nbytes,
            bounce: true,
        };
        *bounce = Loan::take(shape, None, || !job.control.is_stopped())?;
    }
    Ok(bounce.as_ref().map(|loan| loan.lane().slot(0).host))
}

/// Gives each part that no extent wants memory of its own.
fn give_gaps_memory(parts: &mut [Part], scratch: &mut Vec<u8>) {
    let gaps = || parts.iter().filter(|part| part.address.is_none());
    let nbytes = gaps().map(|part| part.nbytes as usize).sum();
    if scratch.len() < nbytes {
        scratch.resize(nbytes, 0);
    }
    let mut address = scratch.as_mut_ptr() as u64;
    for part in parts.iter_mut().filter(|part| part.address.is_none()) {
        part.address = Some(address);
        address += part.nbytes;
    }
}

/// # Safety
/// The bytes of the piece must be at `address`, and the memory of the parts valid.
unsafe fn scatter(parts: &[Part], piece: Piece, address: u64) -> Result<()> {
    for part in parts {
        if let Some(to) = part.address {
            // SAFETY: the byte is written to below.
            if !unsafe { is_writable(to) } {
                return Err(Error::io(
                    "writing to memory",
                    Errno::FAULT,
                    part.start,
                    part.nbytes,
                ));
            }
            let from = (address + part.start - piece.start) as *const u8;
            // SAFETY: the caller vouches for both ranges; bounce memory is apart from extents.
            unsafe { from.copy_to_nonoverlapping(to as *mut u8, part.nbytes as usize) };
        }
    }
    Ok(())
}

/// Copies what lies in the extents to its place in a block; the rest of it is zeros.
///
/// # Safety
/// There must be room for the block at `address`, and the memory of the extents be valid.
unsafe fn gather(job: &Job<'_>, block: Piece, address: u64) {
    for part in job.plan.parts(block.start, block.end) {
        let to = (address + part.start - block.start) as *mut u8;
        // SAFETY: the caller vouches for both ranges; bounce memory is apart from extents.
        unsafe {
            match part.address {
                Some(from) => to.copy_from_nonoverlapping(from as *const u8, part.nbytes as usize),
                None => to.write_bytes(0, part.nbytes as usize),
            }
        }
    }
}
