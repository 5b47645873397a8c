//! What the workers of a transfer with a device share, beside the job.

use std::sync::{Arc, OnceLock};

use crate::cuda::kernels::Kernels;
use crate::cuda::{Device, DeviceMemory};
use crate::error::Result;
use crate::job::Job;
use crate::job::plan::Piece;
use crate::memory::lane::Shape;
use crate::memory::{PAGE_NBYTES, align_up};
use crate::settings::Settings;

/// A piece in more parts than this goes through staging memory on the device.
const MAX_COPIES: usize = 8;

pub struct DeviceJob<'a> {
    pub job: &'a Job<'a>,
    pub slots: usize,
    /// Whether digests are computed on the device, where the bytes are.
    pub digests_on_device: bool,
    pub device: Device,
    ptx: &'a [u8],
    kernels: OnceLock<Arc<Kernels>>,
    staging: Option<DeviceMemory>,
}

impl<'a> DeviceJob<'a> {
    /// Takes staging memory on the device for so many lanes, if any piece needs it.
    pub fn new(
        job: &'a Job<'a>,
        device: Device,
        ptx: &'a [u8],
        settings: &Settings,
        lanes: usize,
    ) -> Result<DeviceJob<'a>> {
        let mut new = DeviceJob {
            job,
            slots: settings.slots,
            digests_on_device: settings.digests_on_device && job.ledger().is_some(),
            device,
            ptx,
            kernels: OnceLock::new(),
            staging: None,
        };
        let pieces = job.control.pieces();
        if pieces.iter().any(|piece| new.is_staged(*piece)) {
            let nbytes = (lanes * new.slots) as u64 * new.staging_nbytes();
            new.staging = Some(DeviceMemory::new(device, nbytes)?);
        }
        Ok(new)
    }

    fn staging_nbytes(&self) -> u64 {
        align_up(self.job.piece_nbytes) + PAGE_NBYTES
    }

    /// Staging memory for a piece, aligned to 16 bytes as the piece is in the file.
    pub fn staging(&self, slot: usize, piece: Piece) -> u64 {
        let memory = self.staging.as_ref().expect("taken if any piece needs it");
        memory.address + slot as u64 * self.staging_nbytes() + piece.start % PAGE_NBYTES
    }

    /// Whether a piece has too many parts for a copy of each.
    pub fn is_staged(&self, piece: Piece) -> bool {
        let parts = self.job.plan.parts(piece.start, piece.end);
        parts
            .filter(|part| part.address.is_some())
            .nth(MAX_COPIES)
            .is_some()
    }

    pub fn kernels(&self) -> Result<&Kernels> {
        if let Some(kernels) = self.kernels.get() {
            return Ok(kernels);
        }
        let loaded = Kernels::load(self.device, self.ptx)?;
        Ok(self.kernels.get_or_init(|| loaded))
    }

    /// What a lane of the transfer is made for.
    pub fn shape(&self, slots: usize, bounce: bool) -> Shape {
        Shape {
            device: Some(self.device.ordinal),
            slots,
            piece_nbytes: self.job.piece_nbytes,
            bounce,
        }
    }
}
