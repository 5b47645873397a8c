//! Which bytes of a file belong where, and the pieces in which they are moved.

/// A byte range of the file and the memory that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub offset: u64,
    pub address: u64,
    pub nbytes: u64,
}

impl Extent {
    fn end(&self) -> u64 {
        self.offset + self.nbytes
    }
}

/// A byte range of the file that is cut into chunks; the last may be short.
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    pub offset: u64,
    pub nbytes: u64,
    pub chunk_nbytes: u64,
}

impl Chunks {
    pub fn count(&self) -> u64 {
        self.nbytes.div_ceil(self.chunk_nbytes)
    }

    pub fn end(&self) -> u64 {
        self.offset + self.nbytes
    }

    pub fn index_at(&self, offset: u64) -> u64 {
        (offset - self.offset) / self.chunk_nbytes
    }

    pub fn span(&self, index: u64) -> (u64, u64) {
        let start = self.offset + index * self.chunk_nbytes;
        (start, (start + self.chunk_nbytes).min(self.end()))
    }
}

/// A run of the file that is moved at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub start: u64,
    pub end: u64,
}

impl Piece {
    pub fn nbytes(&self) -> u64 {
        self.end - self.start
    }
}

/// A run of a piece and its memory; `None` where no extent wants the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub start: u64,
    pub nbytes: u64,
    pub address: Option<u64>,
}

/// Gaps up to this size are read rather than skipped.
pub const MAX_GAP_NBYTES: u64 = 4096;

#[derive(Default)]
pub struct Plan {
    /// In file order, disjoint, none empty.
    pub extents: Vec<Extent>,
    /// What the digests cover, if there are any.
    pub chunks: Option<Chunks>,
}

impl Plan {
    /// The pieces of a read, in file order: whole chunks where there are digests.
    ///
    /// Pieces end at multiples of `piece_nbytes`, a power of two, so that a chunk is either made of
    /// whole pieces or lies in one.
    pub fn pieces_to_read(&self, piece_nbytes: u64) -> Vec<Piece> {
        let runs = self.runs().into_iter();
        runs.flat_map(|run| blocks(run, self.origin(), piece_nbytes))
            .collect()
    }

    /// The pieces of a write: the whole payload.
    pub fn pieces_to_write(&self, piece_nbytes: u64) -> Vec<Piece> {
        let Some(chunks) = self.chunks else {
            return Vec::new();
        };
        let whole = Piece {
            start: chunks.offset,
            end: chunks.end(),
        };
        blocks(whole, chunks.offset, piece_nbytes).collect()
    }

    /// The parts of a piece, in order, without holes.
    pub fn parts(&self, start: u64, end: u64) -> Parts<'_> {
        let next = self.extents.partition_point(|extent| extent.end() <= start);
        Parts {
            extents: &self.extents[next..],
            at: start,
            end,
        }
    }

    /// Where blocks of the file are counted from.
    pub fn origin(&self) -> u64 {
        self.chunks.map_or(0, |chunks| chunks.offset)
    }

    fn runs(&self) -> Vec<Piece> {
        let mut runs: Vec<Piece> = Vec::new();
        for extent in &self.extents {
            let (start, end, gap) = match self.chunks {
                Some(chunks) => (
                    chunks.span(chunks.index_at(extent.offset)).0,
                    chunks.span(chunks.index_at(extent.end() - 1)).1,
                    0,
                ),
                None => (extent.offset, extent.end(), MAX_GAP_NBYTES),
            };
            match runs.last_mut() {
                Some(last) if start <= last.end + gap => last.end = last.end.max(end),
                _ => runs.push(Piece { start, end }),
            }
        }
        runs
    }
}

/// Cuts a run where blocks of so many bytes, counted from `origin`, end.
pub fn blocks(run: Piece, origin: u64, nbytes: u64) -> impl Iterator<Item = Piece> {
    let mut start = run.start;
    std::iter::from_fn(move || {
        let left = nbytes - (start - origin) % nbytes;
        let piece = Piece {
            start,
            end: start.saturating_add(left).min(run.end),
        };
        start = piece.end;
        (piece.nbytes() > 0).then_some(piece)
    })
}

pub struct Parts<'a> {
    extents: &'a [Extent],
    at: u64,
    end: u64,
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        if self.at >= self.end {
            return None;
        }
        let start = self.at;
        let (stop, address) = match self.extents.first() {
            Some(extent) if extent.offset <= start => {
                let stop = extent.end().min(self.end);
                if extent.end() <= self.end {
                    self.extents = &self.extents[1..];
                }
                (stop, Some(extent.address + (start - extent.offset)))
            }
            Some(extent) => (extent.offset.min(self.end), None),
            None => (self.end, None),
        };
        self.at = stop;
        Some(Part {
            start,
            nbytes: stop - start,
            address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(extents: &[(u64, u64)], chunks: Option<Chunks>) -> Plan {
        let extents = extents
            .iter()
            .map(|&(offset, nbytes)| Extent {
                offset,
                address: 1_000_000 + offset,
                nbytes,
            })
            .collect();
        Plan { extents, chunks }
    }

    #[test]
    fn pieces_hold_whole_chunks_and_no_others() {
        let chunks = Chunks {
            offset: 10,
            nbytes: 95,
            chunk_nbytes: 8,
        };
        let pieces = plan(&[(12, 1), (30, 10), (104, 1)], Some(chunks)).pieces_to_read(16);
        let spans: Vec<_> = pieces.iter().map(|p| (p.start, p.end)).collect();
        assert_eq!(spans, [(10, 18), (26, 42), (98, 105)]);
    }

    #[test]
    fn a_large_chunk_is_made_of_whole_pieces() {
        let chunks = Chunks {
            offset: 4096,
            nbytes: 40,
            chunk_nbytes: 32,
        };
        let pieces = plan(&[(4100, 1)], Some(chunks)).pieces_to_read(8);
        assert_eq!(pieces.len(), 4);
        assert!(pieces.iter().all(|piece| piece.nbytes() == 8));
    }

    #[test]
    fn without_digests_small_gaps_are_read_and_large_ones_are_not() {
        let pieces = plan(&[(3, 5), (9, 2), (9000, 1)], None).pieces_to_read(1 << 20);
        let spans: Vec<_> = pieces.iter().map(|p| (p.start, p.end)).collect();
        assert_eq!(spans, [(3, 11), (9000, 9001)]);
    }

    #[test]
    fn parts_cover_a_piece_in_order() {
        let plan = plan(&[(5, 5), (10, 10), (30, 4)], None);
        let parts: Vec<_> = plan
            .parts(2, 32)
            .map(|p| (p.start, p.nbytes, p.address))
            .collect();
        assert_eq!(
            parts,
            [
                (2, 3, None),
                (5, 5, Some(1_000_005)),
                (10, 10, Some(1_000_010)),
                (20, 10, None),
                (30, 2, Some(1_000_030)),
            ]
        );
        let inside: Vec<_> = plan.parts(12, 14).map(|p| (p.start, p.address)).collect();
        assert_eq!(inside, [(12, Some(1_000_012))]);
    }

    #[test]
    fn a_write_covers_the_payload() {
        let chunks = Chunks {
            offset: 4096,
            nbytes: 100,
            chunk_nbytes: 4096,
        };
        let pieces = plan(&[], Some(chunks)).pieces_to_write(64);
        let spans: Vec<_> = pieces.iter().map(|p| (p.start, p.end)).collect();
        assert_eq!(spans, [(4096, 4160), (4160, 4196)]);
    }
}
