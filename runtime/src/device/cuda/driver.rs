//! The functions of NVIDIA's driver that the device uses: found before the first is called, each failure an error that
//! names the call.
//!
//! `cudarc` loads the driver's library when a function of it is first called, and panics where the library or the function
//! is missing. So [`probe`] looks for all of them first. Invariant: nothing here is called before it has succeeded. Next
//! hop: the driver.

use crate::{Error, Result};
use cudarc::driver::sys;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

/// A call of the driver that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// The function.
    pub call: &'static str,
    /// What it answered.
    pub code: sys::CUresult,
}

/// What to do about an answer of the driver, where that is known.
const ADVICE: &[(sys::CUresult, &str)] = &[
    (sys::CUresult::CUDA_ERROR_NO_DEVICE, "no card is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES"),
    (sys::CUresult::CUDA_ERROR_STUB_LIBRARY, "the library found is a stub for linking: install NVIDIA's driver"),
    (
        sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
        "the library is not that of the loaded driver: restart the system",
    ),
    (sys::CUresult::CUDA_ERROR_SYSTEM_NOT_READY, "the driver is not ready: look at nvidia-smi"),
    (sys::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE, "another program has the card for itself: end it, or wait"),
    (sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, "the card's memory is full: end other programs that use it"),
    (sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the driver is too old for this code: install a newer one"),
    (sys::CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND, "install libnvidia-ptxjitcompiler, which comes with the driver"),
    (sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, "the code is for another card: compile the model for this one"),
    (sys::CUresult::CUDA_ERROR_UNKNOWN, "look at the system's log for messages of the driver"),
];

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { call, code } = *self;
        let text = |get: unsafe fn(sys::CUresult, *mut *const c_char) -> Result<(), Failure>| {
            // SAFETY: the driver was found, and writes a pointer to a text that it keeps, or null.
            let text = out(|text| unsafe { get(code, text) }).ok().filter(|text: &*const c_char| !text.is_null())?;
            // SAFETY: as above; the text ends with a zero.
            Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        let name = text(cuGetErrorName).unwrap_or_else(|| format!("error {}", code as u32));
        write!(f, "{call} failed with {name}")?;
        if let Some(text) = text(cuGetErrorString).filter(|text| !text.is_empty()) {
            write!(f, " ({text})")?;
        }
        let advice = ADVICE.iter().find(|(of, _)| *of == code);
        advice.map_or(Ok(()), |(_, advice)| write!(f, "; {advice}"))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::device(failure.to_string())
    }
}

/// Declares functions of the driver: wrappers that return failures, and the list of their names.
macro_rules! functions {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => {
        /// What the library must have.
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            /// The function of this name.
            ///
            /// # Errors
            /// What the driver answers.
            ///
            /// # Safety
            /// [`probe`] has succeeded, and the arguments are what the driver's manual demands.
            #[allow(non_snake_case, clippy::too_many_arguments, reason = "names and arguments are those of the driver")]
            pub(super) unsafe fn $name($($arg: $ty),*) -> Result<(), Failure> {
                // SAFETY: the caller's.
                match unsafe { sys::$name($($arg),*) } {
                    sys::CUresult::CUDA_SUCCESS => Ok(()),
                    code => Err(Failure { call: stringify!($name), code }),
                }
            }
        )*
    };
}

functions! {
    cuInit(flags: c_uint);
    cuDriverGetVersion(version: *mut c_int);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut sys::CUdevice, ordinal: c_int);
    cuDeviceGetName(name: *mut c_char, len: c_int, device: sys::CUdevice);
    cuDeviceGetAttribute(value: *mut c_int, attribute: sys::CUdevice_attribute, device: sys::CUdevice);
    cuDeviceTotalMem_v2(bytes: *mut usize, device: sys::CUdevice);
    cuDeviceGetPCIBusId(text: *mut c_char, len: c_int, device: sys::CUdevice);
    cuDevicePrimaryCtxRetain(context: *mut sys::CUcontext, device: sys::CUdevice);
    cuDevicePrimaryCtxRelease_v2(device: sys::CUdevice);
    cuCtxSetCurrent(context: sys::CUcontext);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(address: *mut sys::CUdeviceptr, bytes: usize);
    cuMemFree_v2(address: sys::CUdeviceptr);
    cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, flags: c_uint);
    cuMemHostGetDevicePointer_v2(address: *mut sys::CUdeviceptr, host: *mut c_void, flags: c_uint);
    cuMemFreeHost(address: *mut c_void);
    cuMemcpyHtoDAsync_v2(to: sys::CUdeviceptr, from: *const c_void, bytes: usize, stream: sys::CUstream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: sys::CUdeviceptr, bytes: usize, stream: sys::CUstream);
    cuMemcpyDtoDAsync_v2(to: sys::CUdeviceptr, from: sys::CUdeviceptr, bytes: usize, stream: sys::CUstream);
    cuStreamCreate(stream: *mut sys::CUstream, flags: c_uint);
    cuStreamDestroy_v2(stream: sys::CUstream);
    cuStreamSynchronize(stream: sys::CUstream);
    cuEventCreate(event: *mut sys::CUevent, flags: c_uint);
    cuEventDestroy_v2(event: sys::CUevent);
    cuEventRecord(event: sys::CUevent, stream: sys::CUstream);
    cuEventQuery(event: sys::CUevent);
    cuEventSynchronize(event: sys::CUevent);
    cuModuleLoadDataEx(
        module: *mut sys::CUmodule, image: *const c_void, n: c_uint, options: *mut sys::CUjit_option,
        values: *mut *mut c_void
    );
    cuModuleUnload(module: sys::CUmodule);
    cuModuleGetFunction(function: *mut sys::CUfunction, module: sys::CUmodule, name: *const c_char);
    cuFuncSetAttribute(function: sys::CUfunction, attribute: sys::CUfunction_attribute, value: c_int);
    cuLinkCreate_v2(
        n: c_uint, options: *mut sys::CUjit_option, values: *mut *mut c_void, state: *mut sys::CUlinkState
    );
    cuLinkAddData_v2(
        state: sys::CUlinkState, kind: sys::CUjitInputType, data: *mut c_void, bytes: usize, name: *const c_char,
        n: c_uint, options: *mut sys::CUjit_option, values: *mut *mut c_void
    );
    cuLinkComplete(state: sys::CUlinkState, code: *mut *mut c_void, bytes: *mut usize);
    cuLinkDestroy(state: sys::CUlinkState);
    cuLaunchKernelEx(
        config: *const sys::CUlaunchConfig, function: sys::CUfunction, params: *mut *mut c_void,
        extra: *mut *mut c_void
    );
    cuGraphCreate(graph: *mut sys::CUgraph, flags: c_uint);
    cuGraphAddNode_v2(
        node: *mut sys::CUgraphNode, graph: sys::CUgraph, after: *const sys::CUgraphNode,
        edges: *const sys::CUgraphEdgeData, n: usize, params: *mut sys::CUgraphNodeParams
    );
    cuGraphDestroy(graph: sys::CUgraph);
    cuGraphInstantiateWithFlags(exec: *mut sys::CUgraphExec, graph: sys::CUgraph, flags: c_ulonglong);
    cuGraphUpload(exec: sys::CUgraphExec, stream: sys::CUstream);
    cuGraphLaunch(exec: sys::CUgraphExec, stream: sys::CUstream);
    cuGraphExecDestroy(exec: sys::CUgraphExec);
    cuGetErrorName(code: sys::CUresult, text: *mut *const c_char);
    cuGetErrorString(code: sys::CUresult, text: *mut *const c_char);
}

/// The driver's library, under the first name under which `cudarc` would find it.
pub(super) fn library() -> Option<libloading::Library> {
    let mut names = cudarc::get_lib_name_candidates("cuda").into_iter();
    // SAFETY: loading NVIDIA's library runs its initialisers, which is what it is for.
    names.find_map(|name| unsafe { libloading::Library::new(name) }.ok())
}

/// Finds the driver and initialises it.
///
/// # Errors
/// [`Error::Device`] where there is none, it lacks functions, or it has no card.
pub(super) fn probe() -> Result<()> {
    Ok(initialise()??)
}

/// Whether the driver, which is there, has cards.
///
/// # Errors
/// [`Error::Device`] if something else is wrong with it.
pub(super) fn sees_cards() -> Result<bool> {
    match initialise()? {
        Err(Failure { code: sys::CUresult::CUDA_ERROR_NO_DEVICE, .. }) => Ok(false),
        answer => Ok(answer.map(|()| true)?),
    }
}

/// What the driver answers to the first call, once all functions are found.
fn initialise() -> Result<Result<(), Failure>> {
    let Some(library) = library() else {
        return Err(Error::device(
            "there is no libcuda.so.1: install NVIDIA's driver, or run on the CPU (--device cpu)",
        ));
    };
    let missing = NAMES.iter().find(|name| {
        // SAFETY: the address is looked at only for being there.
        unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_err()
    });
    if let Some(name) = missing {
        return Err(Error::device(format!(
            "the driver's library lacks {name}: install a driver of version 550 or newer, or run on the CPU (--device cpu)"
        )));
    }
    // SAFETY: all functions are there.
    Ok(unsafe { cuInit(0) })
}

/// Turns an output parameter into a result.
pub(super) fn out<T>(get: impl FnOnce(*mut T) -> Result<(), Failure>) -> Result<T, Failure> {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    get(value.as_mut_ptr())?;
    // SAFETY: the driver has answered that it wrote the value; of plain integers and pointers zeros are values too.
    Ok(unsafe { value.assume_init() })
}
