//! The CUDA driver, found at run time: the crate builds and imports where there is none.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

use crate::error::{Error, Result};

pub type Handle = *mut c_void;
pub type Status = c_int;

macro_rules! driver {
    ($($name:ident: $symbol:literal ($($argument:ty),*);)*) => {
        pub struct Driver {
            _library: Library,
            $(pub $name: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Driver {
            fn open() -> std::result::Result<Driver, libloading::Error> {
                // SAFETY: the driver's initializers are meant to be run by any process.
                let library = unsafe { Library::new("libcuda.so.1")? };
                // SAFETY: each symbol has the signature of CUDA's driver API of that name.
                unsafe {
                    $(let $name = *library.get(concat!($symbol, "\0").as_bytes())?;)*
                    Ok(Driver { _library: library, $($name,)* })
                }
            }
        }
    };
}

driver! {
    init: "cuInit" (c_uint);
    device_count: "cuDeviceGetCount" (*mut c_int);
    device_get: "cuDeviceGet" (*mut c_int, c_int);
    device_attribute: "cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    primary_context_retain: "cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
    context_get_current: "cuCtxGetCurrent" (*mut Handle);
    context_set_current: "cuCtxSetCurrent" (Handle);
    stream_create: "cuStreamCreate" (*mut Handle, c_uint);
    stream_destroy: "cuStreamDestroy_v2" (Handle);
    stream_synchronize: "cuStreamSynchronize" (Handle);
    stream_query: "cuStreamQuery" (Handle);
    stream_write_value: "cuStreamWriteValue32_v2" (Handle, u64, u32, c_uint);
    host_register: "cuMemHostRegister_v2" (*mut c_void, usize, c_uint);
    host_unregister: "cuMemHostUnregister" (*mut c_void);
    host_device_address: "cuMemHostGetDevicePointer_v2" (*mut u64, *mut c_void, c_uint);
    alloc: "cuMemAllocAsync" (*mut u64, usize, Handle);
    free: "cuMemFreeAsync" (u64, Handle);
    copy_to_device: "cuMemcpyHtoDAsync_v2" (u64, *const c_void, usize, Handle);
    copy_to_host: "cuMemcpyDtoHAsync_v2" (*mut c_void, u64, usize, Handle);
    set_bytes: "cuMemsetD8Async" (u64, u8, usize, Handle);
    module_load: "cuModuleLoadData" (*mut Handle, *const c_void);
    module_function: "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    launch: "cuLaunchKernel" (
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle,
        *mut *mut c_void, *mut *mut c_void
    );
    error_name: "cuGetErrorName" (Status, *mut *const c_char);
    error_string: "cuGetErrorString" (Status, *mut *const c_char);
}

static DRIVER: OnceLock<std::result::Result<Driver, String>> = OnceLock::new();

/// The driver, initialized; or why there is none.
pub fn driver() -> std::result::Result<&'static Driver, &'static str> {
    let opened = DRIVER.get_or_init(|| {
        let driver = Driver::open().map_err(|error| format!("no CUDA driver: {error}"))?;
        // SAFETY: cuInit may be called any number of times.
        let status = unsafe { (driver.init)(0) };
        if status != 0 {
            return Err(format!(
                "the CUDA driver does not start: {}",
                driver.describe(status)
            ));
        }
        Ok(driver)
    });
    opened.as_ref().map_err(String::as_str)
}

impl Driver {
    pub fn check(&self, call: &'static str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        Err(Error::Cuda {
            call,
            reason: self.describe(status),
            offset: 0,
            nbytes: 0,
        })
    }

    pub fn describe(&self, status: Status) -> String {
        let text = |lookup: unsafe extern "C" fn(Status, *mut *const c_char) -> Status| {
            let mut found: *const c_char = std::ptr::null();
            // SAFETY: the driver stores a pointer to a string of its own, or null.
            unsafe {
                lookup(status, &mut found);
                if found.is_null() {
                    return None;
                }
                Some(CStr::from_ptr(found).to_string_lossy().into_owned())
            }
        };
        match (text(self.error_name), text(self.error_string)) {
            (Some(name), Some(string)) => format!("{name}: {string}"),
            _ => format!("status {status}"),
        }
    }
}
