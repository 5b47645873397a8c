//! Transfers between a file, or page-locked host memory, and the memory of a CUDA device.

pub mod feed;
pub mod job;
mod line;
mod queueing;
pub mod submit;
mod tally;

use crate::device::feed::{Closing, Feed};
use crate::device::job::DeviceJob;
use crate::device::line::Line;
use crate::device::submit::Submitter;
use crate::error::Result;
use crate::io::file::File;
use crate::io::source::Source;
use crate::memory::pool::Loan;

/// Reads pieces until none is left: worker 0 talks to the driver, the others to the file.
///
/// # Safety
/// The memory of the plan's extents must be valid device memory and left alone meanwhile.
pub unsafe fn read(
    shared: &DeviceJob<'_>,
    source: &Source<'_>,
    feed: &Feed<'_>,
    worker: usize,
) -> Result<()> {
    if worker == 0 {
        // SAFETY: the caller vouches for the extents.
        return unsafe { submit(shared, source, feed) };
    }
    match source {
        Source::Files(files) => feed.fill(files, !shared.digests_on_device),
        Source::Pinned { .. } => Ok(()),
    }
}

/// # Safety
/// As `read`.
unsafe fn submit(shared: &DeviceJob<'_>, source: &Source<'_>, feed: &Feed<'_>) -> Result<()> {
    let loan;
    // Dropped before the loan, and after the submitter, which has nothing in flight then. That is a
    // temporary of the last expression, which only edition 2024 drops before what has a name:
    // earlier ones would give the lane back while copies are in flight.
    let _closing = Closing(feed);
    shared.device.enter()?;
    let shape = shared.shape(shared.slots, matches!(source, Source::Files(_)));
    loan = Loan::take(shape, Some(shared.device), || {
        !shared.job.control.is_stopped()
    })?;
    let Some(loan) = &loan else {
        return Ok(());
    };
    feed.open(loan.lane());
    // SAFETY: the caller vouches for the extents.
    unsafe { Submitter::new(shared, loan.lane(), source, feed).run() }
}

/// Writes pieces until none is left.
///
/// # Safety
/// As `read`.
pub unsafe fn write(shared: &DeviceJob<'_>, file: &File<'_>, worker: usize) -> Result<()> {
    shared.device.enter()?;
    let shape = shared.shape(shared.slots, true);
    // One worker is enough to get to the end; the others take what memory there is.
    let wait = || worker == 0 && !shared.job.control.is_stopped();
    let Some(loan) = Loan::take(shape, Some(shared.device), wait)? else {
        return Ok(());
    };
    let mut line = Line::new(shared, loan.lane(), worker);
    while let Some(piece) = shared.job.control.take() {
        // SAFETY: the caller vouches for the extents.
        unsafe { line.start_write(piece, file)? };
    }
    line.finish_writes(file)
}
