//! Where bytes are read from.

use crate::crc;
use crate::error::Result;
use crate::file::File;
use crate::memory::bytes;
use crate::plan::Part;

pub enum Source {
    File(File),
    /// A file that is mapped and page-locked; the address of its first byte. Only devices touch
    /// the mapping: where the file is truncated, that would end a process.
    Pinned {
        address: u64,
        file: File,
    },
}

impl Source {
    /// The remainder of bytes that no extent wanted, which lie at `bounce` if there is any.
    pub fn remainder(&self, part: Part, bounce: u64) -> Result<u32> {
        match self {
            // SAFETY: the part was read to there, and the slot is not in use.
            Source::File(_) => Ok(crc::extend(0, unsafe { bytes(bounce, part.nbytes) })),
            Source::Pinned { file, .. } => {
                let mut gap = vec![0u8; part.nbytes as usize];
                let address = Some(gap.as_mut_ptr() as u64);
                // SAFETY: the vector has room for the part.
                unsafe { file.read_parts(&[Part { address, ..part }])? };
                Ok(crc::extend(0, &gap))
            }
        }
    }

    /// The way that was really taken.
    pub fn path(&self) -> String {
        match self {
            Source::File(file) => file.moved.path(),
            Source::Pinned { .. } => "pinned".to_string(),
        }
    }
}
