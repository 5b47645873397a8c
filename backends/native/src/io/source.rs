//! Where bytes are read from.

use std::os::fd::BorrowedFd;

use crate::error::Result;
use crate::io::file::{File, Io};
use crate::io::moved::Moved;
use crate::job::crc;
use crate::job::plan::{Extent, MAX_GAP_NBYTES, Part};
use crate::memory::bytes;

/// Files that are read as if they were one: each has a base, from which its offsets are counted.
pub struct Files<'a>(Vec<File<'a>>);

impl<'a> Files<'a> {
    /// Gives each file, of a descriptor and a size, a base, from which its extents are counted then.
    ///
    /// Pieces end where they would in the file alone, and none lies in two files. `None` if offsets
    /// overflow.
    pub fn line_up<'e>(
        sources: impl Iterator<Item = (BorrowedFd<'a>, u64, &'e [Extent])>,
        piece_nbytes: u64,
        io: Io,
    ) -> Option<(Files<'a>, Vec<Extent>)> {
        let (mut files, mut all, mut base) = (Vec::new(), Vec::new(), 0);
        for (fd, nbytes, extents) in sources {
            let mut end = nbytes.checked_add(base)?;
            for extent in extents {
                let offset = extent.offset.checked_add(base)?;
                end = end.max(offset.checked_add(extent.nbytes)?);
                all.push(Extent { offset, ..*extent });
            }
            files.push(File::to_read(fd, base, nbytes, io));
            base = end.checked_add(MAX_GAP_NBYTES + 1)?;
            base = base.checked_next_multiple_of(piece_nbytes)?;
        }
        Some((Files(files), all))
    }

    /// The file of the byte at an offset.
    pub fn at(&self, offset: u64) -> &File<'a> {
        &self.0[self.index_at(offset)]
    }

    /// Which file that is, and its base.
    pub fn place(&self, offset: u64) -> (usize, u64) {
        let index = self.index_at(offset);
        (index, self.0[index].base())
    }

    fn index_at(&self, offset: u64) -> usize {
        self.0.partition_point(|file| file.base() <= offset) - 1
    }

    fn route(&self) -> String {
        let moved: Vec<_> = self.0.iter().map(|file| &file.moved).collect();
        Moved::joint_route(&moved)
    }
}

pub enum Source<'a> {
    Files(Files<'a>),
    /// A file that is mapped and page-locked; the address of its first byte. Only devices touch
    /// the mapping: where the file is truncated, that would end a process.
    Pinned {
        address: u64,
        files: Files<'a>,
    },
}

impl<'a> Source<'a> {
    /// The remainder of bytes that no extent wanted, which lie at `bounce` if there is any.
    pub fn remainder(&self, part: Part, bounce: u64) -> Result<u32> {
        match self {
            // SAFETY: the part was read to there, and the slot is not in use.
            Source::Files(_) => Ok(crc::extend(0, unsafe { bytes(bounce, part.nbytes) })),
            Source::Pinned { files, .. } => {
                let mut gap = vec![0u8; part.nbytes as usize];
                let address = Some(gap.as_mut_ptr() as u64);
                // SAFETY: the vector has room for the part.
                unsafe {
                    files
                        .at(part.start)
                        .read_parts(&[Part { address, ..part }])?
                };
                Ok(crc::extend(0, &gap))
            }
        }
    }

    pub fn files(&self) -> &Files<'a> {
        match self {
            Source::Files(files) | Source::Pinned { files, .. } => files,
        }
    }

    /// The way that was really taken.
    pub fn route(&self) -> String {
        match self {
            Source::Files(files) => files.route(),
            Source::Pinned { .. } => "pinned".to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::plan::Plan;
    use rustix::fs::CWD;

    fn extent(offset: u64, nbytes: u64) -> Extent {
        Extent {
            offset,
            address: 1_000_000,
            nbytes,
        }
    }

    fn line_up(sources: Vec<(u64, Vec<Extent>)>) -> Option<(Files<'static>, Vec<Extent>)> {
        let sources = sources.iter();
        let opened = sources.map(|(nbytes, extents)| (CWD, *nbytes, extents.as_slice()));
        Files::line_up(opened, 1 << 20, Io::Buffered)
    }

    #[test]
    fn no_piece_lies_in_two_files() {
        let sources = vec![
            (100, vec![extent(8, 92)]),
            ((1 << 20) - 10, vec![extent(0, (1 << 20) - 10)]),
            (50, vec![]),
            // One that has become shorter than it was.
            (10, vec![extent(0, 3 << 20)]),
            (10, vec![extent(2, 8)]),
        ];
        let (files, extents) = line_up(sources).unwrap();
        let plan = Plan {
            extents,
            chunks: None,
        };
        let pieces = plan.pieces_to_read(1 << 20);
        let places = pieces.iter().map(|piece| {
            let (index, base) = files.place(piece.start);
            assert_eq!(files.place(piece.end - 1), (index, base));
            (index, piece.start - base, piece.end - base)
        });
        let places: Vec<_> = places.collect();
        assert_eq!(
            places,
            [
                (0, 8, 100),
                (1, 0, (1 << 20) - 10),
                (3, 0, 1 << 20),
                (3, 1 << 20, 2 << 20),
                (3, 2 << 20, 3 << 20),
                (4, 2, 10),
            ]
        );
    }

    #[test]
    fn offsets_that_overflow_are_refused() {
        assert!(line_up(vec![(1 << 63, vec![]), (1 << 62, vec![])]).is_some());
        assert!(line_up(vec![(1 << 63, vec![]), (1 << 63, vec![])]).is_none());
        assert!(line_up(vec![(0, vec![extent(u64::MAX, 1)])]).is_none());
    }
}
