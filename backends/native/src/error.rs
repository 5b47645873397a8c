//! What can go wrong; `thaw_native/backend.py` maps each kind to one of thaw's errors.

use std::io;

use rustix::io::Errno;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// thaw_format.ChecksumError
    #[error("a chunk's CRC32C is {found:08x}, expected {expected:08x}")]
    Checksum {
        offset: u64,
        found: u32,
        expected: u32,
    },
    /// thaw_format.TruncatedError
    #[error("the file ended while it was read")]
    Truncated { offset: u64 },
    /// thaw.errors.TransferError when reading, OSError when writing
    #[error("{call} failed: {error}")]
    Io {
        call: &'static str,
        error: io::Error,
        offset: u64,
        nbytes: u64,
    },
    /// thaw.errors.TransferError
    #[error("{call} failed: {reason}")]
    Cuda {
        call: &'static str,
        reason: String,
        offset: u64,
        nbytes: u64,
    },
}

impl Error {
    /// Where in the file the trouble begins.
    pub fn offset(&self) -> u64 {
        match self {
            Error::Checksum { offset, .. }
            | Error::Truncated { offset }
            | Error::Io { offset, .. }
            | Error::Cuda { offset, .. } => *offset,
        }
    }

    /// The same error, with the bytes of the file that were being moved.
    pub fn at(self, start: u64, end: u64) -> Error {
        match self {
            Error::Cuda { call, reason, .. } => Error::Cuda {
                call,
                reason,
                offset: start,
                nbytes: end - start,
            },
            other => other,
        }
    }

    /// What the system refuses that has no place in the file.
    pub fn system(call: &'static str, error: io::Error) -> Error {
        Error::Io {
            call,
            error,
            offset: 0,
            nbytes: 0,
        }
    }

    pub fn io(call: &'static str, error: Errno, offset: u64, nbytes: u64) -> Error {
        Error::Io {
            call,
            error: error.into(),
            offset,
            nbytes,
        }
    }
}
