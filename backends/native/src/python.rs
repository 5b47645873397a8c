//! What Python sees.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use crate::cuda::{self, Device};
use crate::device;
use crate::device::feed::Feed;
use crate::device::job::DeviceJob;
use crate::device::submit;
use crate::error::{Error, Result};
use crate::host;
use crate::io::source::Source;
use crate::job::ledger::{self, Ledger};
use crate::job::plan::Plan;
use crate::job::{Digests, Job};
use crate::memory::pool;
use crate::request::{ReadRequest, Target, WriteRequest};
use crate::settings::Settings;

create_exception!(
    _native,
    NativeError,
    PyException,
    "A transfer failed: (kind, message, file, offset, nbytes, errno)."
);

impl From<Error> for PyErr {
    fn from(error: Error) -> PyErr {
        raised(&error, 0, 0)
    }
}

/// What Python sees of an error in one of several files, whose offsets begin at `base`.
fn raised(error: &Error, file: usize, base: u64) -> PyErr {
    let (kind, nbytes, errno) = match error {
        Error::Checksum { .. } => ("checksum", 0, 0),
        Error::Truncated { .. } => ("truncated", 0, 0),
        Error::Io { error, nbytes, .. } => ("io", *nbytes, error.raw_os_error().unwrap_or(0)),
        Error::Cuda { nbytes, .. } => ("cuda", *nbytes, 0),
    };
    let offset = error.offset() - base;
    NativeError::new_err((kind, error.to_string(), file, offset, nbytes, errno))
}

type Progress<'a> = Option<&'a Py<PyAny>>;

/// Moves what a request asks for; returns the route, and how many chunks were checked.
#[pyfunction]
#[pyo3(signature = (request, progress=None))]
fn read(
    py: Python<'_>,
    request: &Bound<'_, ReadRequest>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(String, u64)> {
    let (request, progress) = (request.get(), progress.as_ref());
    let settings = request.settings;
    let (source, plan) = py.detach(|| request.open())?;
    let pieces = plan.pieces_to_read(settings.piece_nbytes);
    let none = Plan::default();
    let job = Job::new(
        &plan,
        &none,
        request.digests(),
        pieces,
        settings.piece_nbytes,
    );
    let ended = match &request.device {
        None => {
            let threads = settings.threads.min(job.control.pieces().len());
            // SAFETY: the caller keeps the memory of the extents alive and to itself.
            let work = |_| unsafe { host::read(&job, source.files()) };
            job.control.run(py, threads, progress, work)?
        }
        Some(target) => read_to_device(py, &job, &source, target, settings, progress)?,
    };
    match ended {
        Ok(()) => Ok((source.route(), job.checked())),
        Err(error) => {
            let (file, base) = source.files().place(error.offset());
            Err(raised(&error, file, base))
        }
    }
}

fn read_to_device(
    py: Python<'_>,
    job: &Job<'_>,
    source: &Source<'_>,
    target: &Target,
    settings: Settings,
    progress: Progress<'_>,
) -> PyResult<Result<()>> {
    let slots = submit::slots(source, settings.slots);
    let (feed, workers) = match source {
        Source::Pinned { .. } => (Feed::new(job, settings.share_nbytes, 0), 0),
        Source::Files(_) => {
            let feed = Feed::new(job, settings.share_nbytes, slots);
            let useful = feed.shares().max(1);
            (feed, (settings.threads - 1).clamp(1, useful))
        }
    };
    let settings = Settings { slots, ..settings };
    on_device(py, job, target, settings, 1, |shared| {
        // SAFETY: the caller keeps the memory of the extents alive and to itself.
        let work = |worker| unsafe { device::read(shared, source, &feed, worker) };
        job.control.run(py, 1 + workers, progress, work)
    })
}

/// Moves what a request asks for; returns the route and the CRC32C of each chunk.
#[pyfunction]
#[pyo3(signature = (request, progress=None))]
fn write(
    py: Python<'_>,
    request: &Bound<'_, WriteRequest>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(String, Vec<u32>)> {
    let (request, progress) = (request.get(), progress.as_ref());
    let (settings, chunks) = (request.settings, request.chunks);
    let digests = Digests::Keep {
        ledger: Ledger::new(chunks, settings.piece_nbytes),
        crcs: ledger::zeros(chunks.count()),
    };
    let (plan, overlay) = (&request.plan, &request.overlay);
    let pieces = plan.pieces_to_write(settings.piece_nbytes);
    let job = Job::new(plan, overlay, digests, pieces, settings.piece_nbytes);
    let file = py.detach(|| request.open())?;
    let threads = settings.threads.min(job.control.pieces().len());
    match &request.device {
        // SAFETY: the caller keeps the memory of the extents alive and leaves it alone.
        None => job.control.run(py, threads, progress, |_| unsafe {
            host::write(&job, &file)
        })?,
        Some(target) => on_device(py, &job, target, settings, threads, |shared| {
            // SAFETY: as above.
            let work = |worker| unsafe { device::write(shared, &file, worker) };
            job.control.run(py, threads, progress, work)
        })?,
    }?;
    let crcs = job.crcs().iter().map(|crc| crc.load(Relaxed)).collect();
    Ok((file.moved.route(), crcs))
}

/// Opens a device for a transfer, and lets go of it; the driver may take its time for both.
fn on_device(
    py: Python<'_>,
    job: &Job<'_>,
    target: &Target,
    settings: Settings,
    lanes: usize,
    transfer: impl FnOnce(&DeviceJob<'_>) -> PyResult<Result<()>>,
) -> PyResult<Result<()>> {
    let shared = py.detach(|| {
        let device = Device::open(target.ordinal)?;
        DeviceJob::new(job, device, &target.ptx, &settings, lanes)
    })?;
    let ended = transfer(&shared);
    py.detach(|| drop(shared));
    ended
}

/// Says why transfers with a CUDA device cannot work here, or returns None.
#[pyfunction]
fn obstacle(ordinal: i32) -> Option<String> {
    cuda::obstacle(ordinal)
}

/// Moves bytes between files and memory.
#[pymodule]
pub mod _native {
    #[pymodule_export]
    use super::{NativeError, obstacle, read, write};
    #[pymodule_export]
    use crate::request::{ReadRequest, WriteRequest};
    #[pymodule_export]
    use crate::settings::Settings;

    /// The most bounce memory that all transfers of the process share.
    #[pymodule_export]
    const MAX_POOL_NBYTES: u64 = super::pool::MAX_NBYTES;
}
