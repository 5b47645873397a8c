//! What Python sees.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

use crate::cuda::{self, Device};
use crate::device;
use crate::device::feed::Feed;
use crate::device::job::DeviceJob;
use crate::device::submit;
use crate::error::{Error, Result};
use crate::host;
use crate::io::file::File;
use crate::io::source::{Files, Source};
use crate::job::control::Control;
use crate::job::ledger::{self, Ledger};
use crate::job::plan::{Chunks, Extent, Piece, Plan};
use crate::job::{Digests, Job};
use crate::memory::PAGE_NBYTES;
use crate::memory::pool;
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

/// Extents as (offset, address, nbytes).
type Triples = Vec<(u64, u64, u64)>;

fn extents(triples: Triples) -> Vec<Extent> {
    let triples = triples.into_iter();
    triples
        .map(|(offset, address, nbytes)| Extent {
            offset,
            address,
            nbytes,
        })
        .collect()
}

/// Chunks are given as (offset, nbytes, chunk_nbytes).
fn plan(extents: Vec<Extent>, chunks: Option<(u64, u64, u64)>) -> PyResult<Plan> {
    let chunks = chunks.map(|(offset, nbytes, chunk_nbytes)| Chunks {
        offset,
        nbytes,
        chunk_nbytes,
    });
    if let Some(chunks) = chunks
        && (!chunks.chunk_nbytes.is_power_of_two() || chunks.chunk_nbytes < PAGE_NBYTES)
    {
        return Err(PyValueError::new_err(
            "a chunk is a power of two of at least 4096 bytes",
        ));
    }
    Ok(Plan { extents, chunks })
}

fn job(
    plan: Plan,
    overlay: Plan,
    digests: Digests,
    pieces: Vec<Piece>,
    settings: &Settings,
) -> Job {
    Job {
        plan,
        overlay,
        digests,
        control: Control::new(pieces),
        piece_nbytes: settings.piece_nbytes,
    }
}

/// Reads extents from open files, given as (descriptor, nbytes, extents), or from page-locked memory
/// where `pinned` is its address. Digests, and page-locked memory, are those of a single file.
///
/// Returns the path that ran.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn read(
    py: Python<'_>,
    sources: Vec<(RawFd, u64, Triples)>,
    pinned: Option<u64>,
    chunks: Option<(u64, u64, u64)>,
    expected: Vec<u32>,
    device: Option<i32>,
    ptx: &[u8],
    settings: Settings,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let alone = pinned.is_some() || chunks.is_some();
    if sources.is_empty() || (alone && sources.len() > 1) {
        return Err(PyValueError::new_err("only a single file is read so"));
    }
    let sources = sources.into_iter();
    let sources = sources.map(|(fd, nbytes, triples)| (fd, nbytes, extents(triples)));
    let Some((files, extents)) = Files::line_up(sources, settings.piece_nbytes, settings.io) else {
        return Err(PyValueError::new_err("offsets beyond 2^64"));
    };
    let plan = plan(extents, chunks)?;
    // What one remainder covers.
    let unit_nbytes = if device.is_some() && !settings.digests_on_device {
        settings.share_nbytes
    } else {
        settings.piece_nbytes
    };
    let digests = match plan.chunks {
        None => Digests::None,
        Some(chunks) if chunks.count() == expected.len() as u64 => Digests::Check {
            ledger: Ledger::new(chunks, unit_nbytes),
            expected,
        },
        Some(_) => return Err(PyValueError::new_err("there is not one digest a chunk")),
    };
    let pieces = plan.pieces_to_read(settings.piece_nbytes);
    let job = job(plan, Plan::default(), digests, pieces, &settings);
    let source = match pinned {
        Some(address) => Source::Pinned { address, files },
        None => Source::Files(files),
    };
    let progress = progress.as_ref();
    let ended = match (device, &source) {
        (None, Source::Files(files)) => {
            let threads = settings.threads.min(job.control.pieces().len());
            // SAFETY: the caller keeps the memory of the extents alive and to itself.
            let work = |_| unsafe { host::read(&job, files) };
            job.control.run(py, threads, progress, work)?
        }
        (None, Source::Pinned { .. }) => {
            return Err(PyValueError::new_err(
                "host memory is read from the file itself",
            ));
        }
        // No worker of the host sees what the device copies.
        (Some(_), Source::Pinned { .. })
            if job.ledger().is_some() && !settings.digests_on_device =>
        {
            return Err(PyValueError::new_err(
                "what comes from page-locked memory is checked on the device",
            ));
        }
        (Some(ordinal), _) => {
            let (share_nbytes, readers) = (settings.share_nbytes, settings.threads - 1);
            let slots = submit::slots(&source, settings.slots);
            let settings = Settings { slots, ..settings };
            let shared = py.detach(|| on_device(&job, ordinal, ptx, &settings, 1))?;
            let (feed, workers) = match source {
                Source::Pinned { .. } => (Feed::new(&job, share_nbytes, 0), 0),
                Source::Files(_) => {
                    let feed = Feed::new(&job, share_nbytes, slots);
                    let useful = feed.shares().max(1);
                    (feed, readers.clamp(1, useful))
                }
            };
            // SAFETY: as above.
            let work = |worker| unsafe { device::read(&shared, &source, &feed, worker) };
            let ended = job.control.run(py, 1 + workers, progress, work);
            py.detach(|| drop(shared));
            ended?
        }
    };
    match ended {
        Ok(()) => Ok(source.path()),
        Err(error) => {
            let (file, base) = source.files().place(error.offset());
            Err(raised(&error, file, base))
        }
    }
}

/// Writes extents, and zeros between them, to an open file; `on_host` are those that lie on the host
/// where the others lie on a device.
///
/// Returns the path that ran and the CRC32C of each chunk.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn write(
    py: Python<'_>,
    fd: RawFd,
    extents: Triples,
    on_host: Triples,
    chunks: (u64, u64, u64),
    device: Option<i32>,
    ptx: &[u8],
    settings: Settings,
    progress: Option<Py<PyAny>>,
) -> PyResult<(String, Vec<u32>)> {
    let plan = plan(self::extents(extents), Some(chunks))?;
    let pieces = plan.pieces_to_write(settings.piece_nbytes);
    let chunks = plan.chunks.expect("given above");
    let ledger = Ledger::new(chunks, settings.piece_nbytes);
    let crcs = ledger::zeros(chunks.count());
    let overlay = self::plan(self::extents(on_host), None)?;
    let job = job(
        plan,
        overlay,
        Digests::Keep { ledger, crcs },
        pieces,
        &settings,
    );
    let file = File::to_write(fd, settings.io);
    py.detach(|| file.reserve(chunks.offset, chunks.nbytes));
    let progress = progress.as_ref();
    let threads = settings.threads.min(job.control.pieces().len());
    let ended = match device {
        // SAFETY: the caller keeps the memory of the extents alive and leaves it alone.
        None => job.control.run(py, threads, progress, |_| unsafe {
            host::write(&job, &file)
        })?,
        Some(ordinal) => {
            let shared = py.detach(|| on_device(&job, ordinal, ptx, &settings, threads))?;
            // SAFETY: as above.
            let work = |worker| unsafe { device::write(&shared, &file, worker) };
            let ended = job.control.run(py, threads, progress, work);
            py.detach(|| drop(shared));
            ended?
        }
    };
    ended?;
    let Digests::Keep { crcs, .. } = job.digests else {
        unreachable!("made above");
    };
    Ok((
        file.moved.path(),
        crcs.iter().map(|crc| crc.load(Relaxed)).collect(),
    ))
}

fn on_device<'a>(
    job: &'a Job,
    ordinal: i32,
    ptx: &'a [u8],
    settings: &Settings,
    lanes: usize,
) -> Result<DeviceJob<'a>> {
    let device = Device::open(ordinal)?;
    DeviceJob::new(job, device, ptx, settings, lanes)
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
    use crate::settings::Settings;

    /// The most bounce memory that all transfers of the process share.
    #[pymodule_export]
    const MAX_POOL_NBYTES: u64 = super::pool::MAX_NBYTES;
}
