//! The kernels of thaw/cuda/kernels.cu, loaded once a device from their PTX.

use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};

use super::driver::Handle;
use super::{Device, Stream, api};
use crate::error::Result;

const THREADS: u32 = 256;

/// The most bytes of one segment.
pub const SEGMENT_NBYTES: u64 = 65_536;

/// A byte range of device memory of which one remainder is wanted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Segment {
    pub address: u64,
    pub nbytes: u64,
}

/// Bytes to copy within device memory, between addresses of any alignment.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CopyRange {
    pub from: u64,
    pub to: u64,
    pub nbytes: u64,
}

pub struct Kernels {
    remainders: Handle,
    copy: Handle,
}

// SAFETY: functions of a module may be launched from any thread.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

static LOADED: Mutex<Vec<(i32, Arc<Kernels>)>> = Mutex::new(Vec::new());

impl Kernels {
    /// Loads the kernels for the device, whose context must be current.
    pub fn load(device: Device, ptx: &[u8]) -> Result<Arc<Kernels>> {
        let mut loaded = LOADED.lock().unwrap();
        if let Some((_, kernels)) = loaded
            .iter()
            .find(|(ordinal, _)| *ordinal == device.ordinal)
        {
            return Ok(kernels.clone());
        }
        let text = CString::new(ptx).expect("PTX holds no zero byte");
        let mut module = std::ptr::null_mut();
        // SAFETY: a context is current; the driver reads the text up to its zero byte.
        let status = unsafe { (api().module_load)(&mut module, text.as_ptr().cast()) };
        api().check("cuModuleLoadData", status)?;
        let function = |name: &std::ffi::CStr| {
            let mut handle = std::ptr::null_mut();
            // SAFETY: the module is loaded and stays so for the life of the process.
            let status = unsafe { (api().module_function)(&mut handle, module, name.as_ptr()) };
            api().check("cuModuleGetFunction", status).map(|()| handle)
        };
        let kernels = Arc::new(Kernels {
            remainders: function(c"thaw_remainders")?,
            copy: function(c"thaw_copy")?,
        });
        loaded.push((device.ordinal, kernels.clone()));
        Ok(kernels)
    }

    /// Starts computing the remainders of `count` segments.
    ///
    /// # Safety
    /// Both addresses must be visible to the device, hold `count` values, and stay until done.
    pub unsafe fn remainders(
        &self,
        stream: &Stream,
        segments: u64,
        remainders: u64,
        count: u32,
    ) -> Result<()> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { launch(self.remainders, count, &mut [segments, remainders], stream) }
    }

    /// Starts copying `count` parts.
    ///
    /// # Safety
    /// As `remainders`; the ranges of the parts must be valid and must not overlap.
    pub unsafe fn copy(&self, stream: &Stream, parts: u64, count: u32) -> Result<()> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { launch(self.copy, count, &mut [parts], stream) }
    }
}

/// # Safety
/// The arguments must be what the kernel takes.
unsafe fn launch(
    kernel: Handle,
    blocks: u32,
    arguments: &mut [u64],
    stream: &Stream,
) -> Result<()> {
    if blocks == 0 {
        return Ok(());
    }
    let mut places: Vec<*mut c_void> = arguments
        .iter_mut()
        .map(|argument| (argument as *mut u64).cast())
        .collect();
    let extra = std::ptr::null_mut();
    // SAFETY: the caller vouches for the arguments; the driver copies them before it returns.
    let status = unsafe {
        let places = places.as_mut_ptr();
        (api().launch)(
            kernel, blocks, 1, 1, THREADS, 1, 1, 0, stream.0, places, extra,
        )
    };
    api().check("cuLaunchKernel", status)
}
