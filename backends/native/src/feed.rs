//! Reading to a device: workers fill bounce memory, and one thread alone talks to the driver.
//!
//! The driver takes one call at a time: threads that all call it wait for each other while they
//! could read.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Release};

use crate::device::DeviceJob;
use crate::error::Result;
use crate::memory::PAGE_NBYTES;
use crate::plan::Piece;
use crate::pool::Lane;
use crate::queueing::Pause;
use crate::source::Source;

/// A piece in page-locked memory, ready for the device.
#[derive(Clone, Copy)]
pub struct Filled {
    pub piece: Piece,
    pub from: u64,
    /// Which slot to give back afterwards, if any.
    pub slot: Option<usize>,
}

/// Where workers put what they filled.
pub struct Feed {
    filled: Mutex<VecDeque<Filled>>,
    busy: Vec<AtomicBool>,
    workers: AtomicUsize,
    closed: AtomicBool,
}

/// Says, when dropped, that a worker fills no more.
pub struct Leaving<'a>(pub &'a Feed);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.workers.fetch_sub(1, Release);
    }
}

/// Says, when dropped, that nothing is taken any more and no copy from a slot is under way.
pub struct Closing<'a>(pub &'a Feed);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.closed.store(true, Release);
    }
}

impl Feed {
    pub fn new(workers: usize, slots: usize) -> Feed {
        Feed {
            filled: Mutex::new(VecDeque::new()),
            busy: (0..workers * slots)
                .map(|_| AtomicBool::new(false))
                .collect(),
            workers: AtomicUsize::new(workers),
            closed: AtomicBool::new(false),
        }
    }

    /// Takes the next piece that was filled.
    pub fn take(&self) -> Option<Filled> {
        self.filled.lock().unwrap().pop_front()
    }

    /// Whether workers may still fill something.
    pub fn is_open(&self) -> bool {
        self.workers.load(Acquire) > 0
    }

    /// Gives a slot back to its worker.
    pub fn release(&self, slot: usize) {
        self.busy[slot].store(false, Release);
    }

    /// Fills a lane's slots with pieces in turn, until none is left.
    ///
    /// # Safety
    /// The lane must not be used by others until all its slots were given back.
    pub unsafe fn fill(
        &self,
        shared: &DeviceJob<'_>,
        lane: &Lane,
        source: &Source,
        worker: usize,
    ) -> Result<()> {
        let (job, slots) = (shared.job, lane.shape.slots);
        let Source::File(file) = source else {
            return Ok(());
        };
        for index in (0..slots).cycle() {
            let slot = worker * slots + index;
            if !self.wait_for(slot) {
                break;
            }
            let Some(piece) = job.control.take() else {
                break;
            };
            let to = lane.slot(index).host;
            let from = to + piece.start % PAGE_NBYTES;
            // SAFETY: a slot has room for a piece and two pages, and nobody reads it now.
            unsafe {
                file.read(to, piece.start, piece.end)?;
                if !shared.digests_on_device {
                    job.record_together(piece, from)?;
                }
            }
            self.busy[slot].store(true, Release);
            let slot = Some(slot);
            self.filled
                .lock()
                .unwrap()
                .push_back(Filled { piece, from, slot });
        }
        Ok(())
    }

    /// Waits until nothing reads a worker's slots any more.
    pub fn drain(&self, worker: usize, slots: usize) {
        for slot in worker * slots..(worker + 1) * slots {
            self.wait_for(slot);
        }
    }

    /// Waits for a slot; false if nothing is taken any more.
    fn wait_for(&self, slot: usize) -> bool {
        let mut pause = Pause::new();
        while self.busy[slot].load(Acquire) {
            if self.closed.load(Acquire) {
                return false;
            }
            pause.once();
        }
        true
    }
}
