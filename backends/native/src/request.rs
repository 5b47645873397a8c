//! What is asked of a transfer, checked when it is made.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::AtomicU64;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::io::file::File;
use crate::io::source::{Files, Source};
use crate::job::Digests;
use crate::job::ledger::Ledger;
use crate::job::plan::{Chunks, Extent, Plan};
use crate::memory::PAGE_NBYTES;
use crate::settings::Settings;

/// Extents, given as columns: buffers of their offsets, addresses and sizes.
#[derive(Default)]
pub struct Columns(Vec<Extent>);

impl<'py> FromPyObject<'_, 'py> for Columns {
    type Error = PyErr;

    fn extract(triple: Borrowed<'_, 'py, PyAny>) -> PyResult<Columns> {
        let (offsets, addresses, sizes): (Column, Column, Column) = triple.extract()?;
        if offsets.0.len() != sizes.0.len() || addresses.0.len() != sizes.0.len() {
            return wrong("columns are of one length");
        }
        let rows = offsets.0.into_iter().zip(addresses.0).zip(sizes.0);
        let extents = rows.map(|((offset, address), nbytes)| Extent {
            offset,
            address,
            nbytes,
        });
        Ok(Columns(extents.collect()))
    }
}

struct Column(Vec<u64>);

impl<'py> FromPyObject<'_, 'py> for Column {
    type Error = PyErr;

    fn extract(buffer: Borrowed<'_, 'py, PyAny>) -> PyResult<Column> {
        let untyped = PyUntypedBuffer::get(&buffer)?;
        // One without items may have an address that suits none.
        if untyped.item_count() == 0 {
            return Ok(Column(Vec::new()));
        }
        let values = untyped.as_typed::<i64>()?.to_vec(buffer.py())?;
        let values = values.into_iter().map(u64::try_from);
        match values.collect() {
            Ok(values) => Ok(Column(values)),
            Err(_) => wrong("offsets, addresses and sizes are not negative"),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Chunks {
    type Error = PyErr;

    fn extract(triple: Borrowed<'_, 'py, PyAny>) -> PyResult<Chunks> {
        let (offset, nbytes, chunk_nbytes): (u64, u64, u64) = triple.extract()?;
        if !chunk_nbytes.is_power_of_two() || chunk_nbytes < PAGE_NBYTES {
            return wrong("a chunk is a power of two of at least 4096 bytes");
        }
        Ok(Chunks {
            offset,
            nbytes,
            chunk_nbytes,
        })
    }
}

/// A CUDA device and the PTX of the kernels for it.
pub struct Target {
    pub ordinal: i32,
    pub ptx: PyBackedBytes,
}

impl<'py> FromPyObject<'_, 'py> for Target {
    type Error = PyErr;

    fn extract(pair: Borrowed<'_, 'py, PyAny>) -> PyResult<Target> {
        let (ordinal, ptx) = pair.extract()?;
        Ok(Target { ordinal, ptx })
    }
}

/// Extents to be read from open files, given as (descriptor, nbytes, extents), or from page-locked
/// memory where `pinned` is its address. Digests, and page-locked memory, are those of a single file.
#[pyclass(frozen)]
pub struct ReadRequest {
    files: Vec<(RawFd, u64, Columns)>,
    pinned: Option<u64>,
    /// What they cover, and one for each chunk.
    digests: Option<(Chunks, Vec<u32>)>,
    pub device: Option<Target>,
    pub settings: Settings,
}

#[pymethods]
impl ReadRequest {
    #[new]
    #[pyo3(signature = (*, files, settings, device=None, pinned=None, digests=None))]
    fn new(
        files: Vec<(RawFd, u64, Columns)>,
        settings: Settings,
        device: Option<Target>,
        pinned: Option<u64>,
        digests: Option<(Chunks, Vec<u32>)>,
    ) -> PyResult<ReadRequest> {
        let alone = pinned.is_some() || digests.is_some();
        if files.is_empty() || (alone && files.len() > 1) {
            return wrong("only a single file is read so");
        }
        if let Some((chunks, expected)) = &digests
            && chunks.count() != expected.len() as u64
        {
            return wrong("there is not one digest a chunk");
        }
        if pinned.is_some() && device.is_none() {
            return wrong("host memory is read from the file itself");
        }
        // No worker of the host sees what the device copies.
        if pinned.is_some() && digests.is_some() && !settings.digests_on_device {
            return wrong("what comes from page-locked memory is checked on the device");
        }
        Ok(ReadRequest {
            files,
            pinned,
            digests,
            device,
            settings,
        })
    }
}

impl ReadRequest {
    /// Opens the source, and says what is read from where in it.
    pub fn open(&self) -> PyResult<(Source<'_>, Plan)> {
        let files = self.files.iter();
        let files = files.map(|(fd, nbytes, extents)| {
            Ok((borrow(*fd, "reading")?, *nbytes, extents.0.as_slice()))
        });
        let files = files.collect::<Result<Vec<_>>>()?.into_iter();
        let (piece_nbytes, io) = (self.settings.piece_nbytes, self.settings.io);
        let Some((files, extents)) = Files::line_up(files, piece_nbytes, io) else {
            return wrong("offsets beyond 2^64");
        };
        let source = match self.pinned {
            Some(address) => Source::Pinned { address, files },
            None => Source::Files(files),
        };
        let chunks = self.digests.as_ref().map(|(chunks, _)| *chunks);
        Ok((source, Plan { extents, chunks }))
    }

    pub fn digests(&self) -> Digests<'_> {
        // What one remainder covers.
        let unit_nbytes = if self.device.is_some() && !self.settings.digests_on_device {
            self.settings.share_nbytes
        } else {
            self.settings.piece_nbytes
        };
        match &self.digests {
            None => Digests::None,
            Some((chunks, expected)) => Digests::Check {
                ledger: Ledger::new(*chunks, unit_nbytes),
                expected,
                checked: AtomicU64::new(0),
            },
        }
    }
}

/// Extents to be written, and zeros between them, to an open file; `on_host` are those that lie on
/// the host where the others lie on a device.
#[pyclass(frozen)]
pub struct WriteRequest {
    fd: RawFd,
    pub plan: Plan,
    pub overlay: Plan,
    pub chunks: Chunks,
    pub device: Option<Target>,
    pub settings: Settings,
}

#[pymethods]
impl WriteRequest {
    #[new]
    #[pyo3(signature = (*, fd, extents, chunks, settings, device=None, on_host=None))]
    fn new(
        fd: RawFd,
        extents: Columns,
        chunks: Chunks,
        settings: Settings,
        device: Option<Target>,
        on_host: Option<Columns>,
    ) -> WriteRequest {
        let plan = Plan {
            extents: extents.0,
            chunks: Some(chunks),
        };
        let overlay = Plan {
            extents: on_host.unwrap_or_default().0,
            chunks: None,
        };
        WriteRequest {
            fd,
            plan,
            overlay,
            chunks,
            device,
            settings,
        }
    }
}

impl WriteRequest {
    /// Opens the file, and asks for room in it.
    pub fn open(&self) -> Result<File<'_>> {
        let file = File::to_write(borrow(self.fd, "writing")?, self.settings.io);
        file.reserve(self.chunks.offset, self.chunks.nbytes);
        Ok(file)
    }
}

/// Takes a descriptor for as long as a request is there.
fn borrow<'a>(fd: RawFd, call: &'static str) -> Result<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(Error::io(call, Errno::BADF, 0, 0));
    }
    // SAFETY: the caller keeps it open during a transfer; a number that is none is an error then.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

fn wrong<T>(what: &'static str) -> PyResult<T> {
    Err(PyValueError::new_err(what))
}
