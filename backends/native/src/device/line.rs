//! Writing from a device: one worker's slots, used in turn. While the device fills some, the worker
//! writes out another.

use crate::cuda::Stream;
use crate::device::job::DeviceJob;
use crate::device::queueing::{mark, reset, scatter, wait};
use crate::error::Result;
use crate::io::file::File;
use crate::job::plan::Piece;
use crate::memory::lane::{Lane, LaneCuda};

/// What it has in flight is waited for before it is dropped.
pub struct Line<'a> {
    shared: &'a DeviceJob<'a>,
    lane: &'a Lane,
    cuda: &'a LaneCuda,
    worker: usize,
    turn: usize,
    /// What each slot holds.
    pieces: Vec<Option<Piece>>,
}

impl<'a> Line<'a> {
    pub fn new(shared: &'a DeviceJob<'a>, lane: &'a Lane, worker: usize) -> Line<'a> {
        Line {
            shared,
            lane,
            cuda: lane.cuda(),
            worker,
            turn: 0,
            pieces: vec![None; shared.slots],
        }
    }

    fn stream(&self) -> &'a Stream {
        &self.cuda.copies[0]
    }

    /// The slot that was used longest ago.
    fn next_slot(&mut self) -> usize {
        self.turn = (self.turn + 1) % self.pieces.len();
        self.turn
    }

    /// Says that a slot is in use until the device has done what the stream holds now.
    fn begin(&mut self, index: usize, piece: Piece) -> Result<()> {
        self.pieces[index] = Some(piece);
        let done = self.lane.slot(index).done;
        reset(done);
        mark(self.stream(), done, 1)
    }

    /// Starts fetching a piece to the next slot, after writing out what that holds.
    ///
    /// # Safety
    /// The memory of the extents must be valid device memory.
    pub unsafe fn start_write(&mut self, piece: Piece, file: &File<'_>) -> Result<()> {
        let index = self.next_slot();
        self.finish_write(index, file)?;
        // SAFETY: the caller vouches for the extents.
        unsafe { self.fetch(index, piece) }
            .and_then(|()| self.begin(index, piece))
            .map_err(|error| error.at(piece.start, piece.end))
    }

    /// # Safety
    /// As `start_write`.
    unsafe fn fetch(&self, index: usize, piece: Piece) -> Result<()> {
        let (slot, stream) = (self.lane.slot(index), self.stream());
        let parts = self.shared.job.plan.parts(piece.start, piece.end);
        if self.shared.is_staged(piece) {
            let staging = self
                .shared
                .staging(self.worker * self.pieces.len() + index, piece);
            let ranges = parts.filter_map(|part| {
                Some((
                    part.address?,
                    staging + part.start - piece.start,
                    part.nbytes,
                ))
            });
            // SAFETY: staging and slot have room for a piece.
            return unsafe {
                stream.set_zero(staging, piece.nbytes())?;
                scatter(self.shared.kernels()?, stream, slot.parts, ranges)?;
                stream.copy_to_host(slot.host, staging, piece.nbytes())
            };
        }
        for part in parts {
            let to = slot.host + part.start - piece.start;
            // SAFETY: a slot has room for a piece; the extents are the caller's word.
            unsafe {
                match part.address {
                    Some(from) => stream.copy_to_host(to, from, part.nbytes)?,
                    None => (to as *mut u8).write_bytes(0, part.nbytes as usize),
                }
            }
        }
        Ok(())
    }

    /// Waits for the bytes that a slot fetches, if any, and writes them to the file.
    fn finish_write(&mut self, index: usize, file: &File<'_>) -> Result<()> {
        let Some(piece) = self.pieces[index].take() else {
            return Ok(());
        };
        let (job, slot) = (self.shared.job, self.lane.slot(index));
        let waited = wait(self.stream(), slot.done, 1);
        waited.map_err(|error| error.at(piece.start, piece.end))?;
        // SAFETY: the piece has arrived in the slot.
        unsafe {
            job.lay_over(piece, slot.host);
            // Of the bytes that are written: the program may have changed its memory meanwhile.
            job.record_together(piece, slot.host)?;
            file.write(slot.host, piece.start, piece.nbytes())?;
        }
        job.count(piece);
        Ok(())
    }

    pub fn finish_writes(&mut self, file: &File<'_>) -> Result<()> {
        for _ in 0..self.pieces.len() {
            let index = self.next_slot();
            self.finish_write(index, file)?;
        }
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        // After an error copies may be in flight: neither lane nor extents may be freed under them.
        let _ = self.stream().synchronize();
    }
}
