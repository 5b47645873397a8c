//! The few things of CUDA that a transfer needs, each released when it is dropped.

pub mod driver;
pub mod kernels;

use std::ffi::c_void;
use std::sync::Mutex;

use crate::error::Result;
use driver::{Driver, Handle, driver};

const NON_BLOCKING_STREAM: u32 = 1;
const REGISTER_PORTABLE: u32 = 1;
const REGISTER_MAPPED: u32 = 2;
const MEMORY_POOLS: i32 = 115;
const NOT_READY: i32 = 600;

/// Why transfers with a device cannot work here, or `None` if they can.
pub fn obstacle(ordinal: i32) -> Option<String> {
    let driver = match driver() {
        Ok(driver) => driver,
        Err(reason) => return Some(reason.to_string()),
    };
    let mut count = 0;
    // SAFETY: the driver is initialized and `count` is a valid place.
    let status = unsafe { (driver.device_count)(&mut count) };
    if status != 0 {
        return Some(driver.describe(status));
    }
    if ordinal >= count {
        return Some(format!("the CUDA driver sees {count} devices"));
    }
    let mut has_pools = 0;
    // SAFETY: ordinals below the count are devices, and `has_pools` is a valid place.
    let status = unsafe { (driver.device_attribute)(&mut has_pools, MEMORY_POOLS, ordinal) };
    if status != 0 {
        return Some(driver.describe(status));
    }
    (has_pools == 0).then(|| "the device has no memory pools, as virtual GPUs have none".into())
}

/// A device whose primary context, the one that torch uses, is kept for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    pub ordinal: i32,
    context: Handle,
}

// SAFETY: a context may be used from any thread that makes it current.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

static DEVICES: Mutex<Vec<Device>> = Mutex::new(Vec::new());

impl Device {
    pub fn open(ordinal: i32) -> Result<Device> {
        let mut devices = DEVICES.lock().unwrap();
        if let Some(device) = devices.iter().find(|device| device.ordinal == ordinal) {
            return Ok(*device);
        }
        let driver = api();
        let (mut id, mut context) = (0, std::ptr::null_mut());
        // SAFETY: the driver is initialized; both places are valid.
        unsafe {
            driver.check("cuDeviceGet", (driver.device_get)(&mut id, ordinal))?;
            let status = (driver.primary_context_retain)(&mut context, id);
            driver.check("cuDevicePrimaryCtxRetain", status)?;
        }
        let device = Device { ordinal, context };
        devices.push(device);
        Ok(device)
    }

    /// Makes the context current for this thread until the guard is dropped.
    pub fn visit(&self) -> Result<Visit> {
        let mut before = std::ptr::null_mut();
        // SAFETY: `before` is a valid place.
        let status = unsafe { (api().context_get_current)(&mut before) };
        api().check("cuCtxGetCurrent", status)?;
        self.enter()?;
        Ok(Visit { before })
    }

    /// Makes the context current for this thread, which must be one of this crate's own.
    pub fn enter(&self) -> Result<()> {
        let driver = api();
        // SAFETY: the context is retained for the life of the process.
        driver.check("cuCtxSetCurrent", unsafe {
            (driver.context_set_current)(self.context)
        })
    }
}

/// Gives a thread of others its context back.
pub struct Visit {
    before: Handle,
}

impl Drop for Visit {
    fn drop(&mut self) {
        // SAFETY: the context was current before, or is null, which means none.
        unsafe { (api().context_set_current)(self.before) };
    }
}

/// The driver; devices are only opened after `obstacle` found none.
pub fn api() -> &'static Driver {
    driver().expect("a device is only opened where there is a driver")
}

pub struct Stream(pub Handle);

// SAFETY: a stream may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above, and by several at once.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new() -> Result<Stream> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a context is current and `handle` is a valid place.
        let status = unsafe { (api().stream_create)(&mut handle, NON_BLOCKING_STREAM) };
        api().check("cuStreamCreate", status)?;
        Ok(Stream(handle))
    }

    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        api().check("cuStreamSynchronize", unsafe {
            (api().stream_synchronize)(self.0)
        })
    }

    /// Fails if anything that the stream was given has failed.
    pub fn check(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        match unsafe { (api().stream_query)(self.0) } {
            NOT_READY => Ok(()),
            status => api().check("cuStreamQuery", status),
        }
    }

    /// Writes a word of host memory once everything before it is done.
    ///
    /// # Safety
    /// `to` must be the device's address of four aligned bytes of registered memory.
    pub unsafe fn write_value(&self, to: u64, value: u32) -> Result<()> {
        // SAFETY: the caller vouches for the address; the stream is alive.
        let status = unsafe { (api().stream_write_value)(self.0, to, value, 0) };
        api().check("cuStreamWriteValue32", status)
    }

    /// # Safety
    /// Both ranges must be valid, the host's page-locked and left alone until the copy is done.
    pub unsafe fn copy_to_device(&self, to: u64, from: u64, nbytes: u64) -> Result<()> {
        // SAFETY: the caller vouches for the ranges; the stream is alive.
        let status =
            unsafe { (api().copy_to_device)(to, from as *const c_void, nbytes as usize, self.0) };
        api().check("cuMemcpyHtoDAsync", status)
    }

    /// # Safety
    /// As `copy_to_device`.
    pub unsafe fn copy_to_host(&self, to: u64, from: u64, nbytes: u64) -> Result<()> {
        // SAFETY: the caller vouches for the ranges; the stream is alive.
        let status =
            unsafe { (api().copy_to_host)(to as *mut c_void, from, nbytes as usize, self.0) };
        api().check("cuMemcpyDtoHAsync", status)
    }

    /// # Safety
    /// The range of device memory must be valid.
    pub unsafe fn set_zero(&self, to: u64, nbytes: u64) -> Result<()> {
        // SAFETY: the caller vouches for the range; the stream is alive.
        let status = unsafe { (api().set_bytes)(to, 0, nbytes as usize, self.0) };
        api().check("cuMemsetD8Async", status)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is alive until here.
        unsafe { (api().stream_destroy)(self.0) };
    }
}

/// Host memory that is page-locked for every context; it must outlive this.
pub struct Registration {
    address: u64,
    /// The same memory as kernels see it.
    pub device_address: u64,
}

impl Registration {
    /// Locks memory that devices and kernels read and write.
    ///
    /// # Safety
    /// The range must stay mapped until the registration is dropped.
    pub unsafe fn new(address: u64, nbytes: u64) -> Result<Registration> {
        let flags = REGISTER_PORTABLE | REGISTER_MAPPED;
        // SAFETY: the caller vouches for the range.
        let status =
            unsafe { (api().host_register)(address as *mut c_void, nbytes as usize, flags) };
        api().check("cuMemHostRegister", status)?;
        let mut registration = Registration {
            address,
            device_address: 0,
        };
        let place = &mut registration.device_address;
        // SAFETY: the range is registered and `place` is a valid place.
        let status = unsafe { (api().host_device_address)(place, address as *mut c_void, 0) };
        api().check("cuMemHostGetDevicePointer", status)?;
        Ok(registration)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: the range is registered until here.
        unsafe { (api().host_unregister)(self.address as *mut c_void) };
    }
}

/// Device memory of this crate's own, from the device's pool: taking and giving it back waits for
/// its own stream, where cuMemFree would wait for all of the device.
pub struct DeviceMemory {
    pub address: u64,
    device: Device,
    stream: Stream,
}

impl DeviceMemory {
    pub fn new(device: Device, nbytes: u64) -> Result<DeviceMemory> {
        let _visit = device.visit()?;
        let (stream, mut address) = (Stream::new()?, 0);
        // SAFETY: a context is current, `address` is a valid place and the stream is alive.
        let status = unsafe { (api().alloc)(&mut address, nbytes as usize, stream.0) };
        api().check("cuMemAllocAsync", status)?;
        let memory = DeviceMemory {
            address,
            device,
            stream,
        };
        // Other streams may use it from here on.
        memory.stream.synchronize()?;
        Ok(memory)
    }
}

impl Drop for DeviceMemory {
    /// Whatever uses the memory must be done.
    fn drop(&mut self) {
        let _visit = self.device.visit();
        // SAFETY: the memory is allocated until here and the stream is alive.
        unsafe { (api().free)(self.address, self.stream.0) };
        let _ = self.stream.synchronize();
    }
}
