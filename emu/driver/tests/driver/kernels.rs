//! Kernels for tests.

use crate::child::{get, ok};
use cudarc::driver::sys::{self as cu, CUjit_option as J};
use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

/// Kernels of one `u32` a thread: `add` adds a number to each of `n`, `twice` doubles from one array to another, `poll` waits
/// for a word of the host and answers it, `scaled` multiplies by a variable, `stray` stores behind an array, `trap` traps.
pub const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 factor = 3;
.visible .entry add(.param .u64 p, .param .u32 n, .param .u32 value) {
  .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .pred %p;
  ld.param.u64 %rd0, [p];
  ld.param.u32 %r0, [n];
  ld.param.u32 %r1, [value];
  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
  mad.lo.u32 %r5, %r2, %r3, %r4;
  setp.ge.u32 %p, %r5, %r0;
  @%p ret;
  mul.wide.u32 %rd1, %r5, 4;
  add.u64 %rd2, %rd0, %rd1;
  ld.global.u32 %r6, [%rd2];
  add.u32 %r6, %r6, %r1;
  st.global.u32 [%rd2], %r6;
  ret;
}
.visible .entry twice(.param .u64 from, .param .u64 to) {
  .reg .b32 %r<4>; .reg .b64 %rd<6>;
  ld.param.u64 %rd0, [from];
  ld.param.u64 %rd1, [to];
  mov.u32 %r0, %tid.x;
  mul.wide.u32 %rd2, %r0, 4;
  add.u64 %rd3, %rd0, %rd2;
  add.u64 %rd4, %rd1, %rd2;
  ld.global.u32 %r1, [%rd3];
  shl.b32 %r1, %r1, 1;
  st.global.u32 [%rd4], %r1;
  ret;
}
.visible .entry poll(.param .u64 flag, .param .u64 reply) {
  .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p;
  ld.param.u64 %rd0, [flag];
  ld.param.u64 %rd1, [reply];
wait:
  ld.acquire.sys.global.u32 %r0, [%rd0];
  setp.eq.u32 %p, %r0, 0;
  @%p bra wait;
  add.u32 %r0, %r0, 1;
  st.release.sys.global.u32 [%rd1], %r0;
  ret;
}
.visible .entry scaled(.param .u64 p) {
  .reg .b32 %r<4>; .reg .b64 %rd<4>;
  ld.param.u64 %rd0, [p];
  ld.global.u32 %r0, [factor];
  ld.global.u32 %r1, [%rd0];
  mul.lo.u32 %r1, %r1, %r0;
  st.global.u32 [%rd0], %r1;
  ret;
}
.visible .entry stray(.param .u64 p) {
  .reg .b32 %r<4>; .reg .b64 %rd<4>;
  ld.param.u64 %rd0, [p];
  st.global.u32 [%rd0], 1;
  ret;
}
.visible .entry trap() {
  trap;
  ret;
}
.extern .shared .align 4 .b8 s[];
.visible .entry shared(.param .u64 p) {
  .reg .b32 %r<4>; .reg .b64 %rd<4>;
  ld.param.u64 %rd0, [p];
  mov.u32 %r0, %dynamic_smem_size;
  st.global.u32 [%rd0], %r0;
  ret;
}
.visible .entry early(.param .u64 p) {
  .reg .b32 %r<4>; .reg .b64 %rd<4>;
  griddepcontrol.wait;
  ld.param.u64 %rd0, [p];
  ld.global.u32 %r1, [%rd0];
  add.u32 %r1, %r1, 1;
  st.global.u32 [%rd0], %r1;
  griddepcontrol.launch_dependents;
  ret;
}
";

/// A module, unloaded at the end.
pub struct Module(pub cu::CUmodule);

impl Module {
    pub fn new() -> Module {
        Module::new_for("sm_90")
    }

    /// Without what the target lacks.
    pub fn new_for(target: &str) -> Module {
        let text = PTX.replace("sm_80", target);
        let end = if target == "sm_80" { text.find(".visible .entry early").unwrap() } else { text.len() };
        Module::of(&text[..end])
    }

    pub fn of(ptx: &str) -> Module {
        let (result, log, module) = load(ptx);
        assert!(result == cu::CUresult::CUDA_SUCCESS, "{result:?}: {log}");
        Module(module)
    }

    /// A function after something has failed, when there is none to be had.
    pub fn function_or_null(&self, name: &str) -> cu::CUfunction {
        let (name, mut f) = (CString::new(name).unwrap(), std::ptr::null_mut());
        unsafe { _ = cu::cuModuleGetFunction(&mut f, self.0, name.as_ptr()) };
        f
    }

    pub fn function(&self, name: &str) -> cu::CUfunction {
        let name = CString::new(name).unwrap();
        unsafe { get(|f| cu::cuModuleGetFunction(f, self.0, name.as_ptr())) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            unsafe { ok(cu::cuModuleUnload(self.0)) };
        }
    }
}

/// Loads a module and asks for the log of errors.
pub fn load(ptx: &str) -> (cu::CUresult, String, cu::CUmodule) {
    let text = CString::new(ptx).unwrap();
    let mut log = [0_u8; 600];
    let mut options = [J::CU_JIT_ERROR_LOG_BUFFER, J::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, J::CU_JIT_WALL_TIME];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void, null_mut()];
    let (image, mut module) = (text.as_ptr().cast(), null_mut());
    let result = unsafe { cu::cuModuleLoadDataEx(&mut module, image, 3, options.as_mut_ptr(), values.as_mut_ptr()) };
    let text = CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap().to_owned();
    assert_eq!(values[1] as usize, text.len());
    (result, text, module)
}

/// The parameters of a launch, each a value that lives as long.
#[macro_export]
macro_rules! params {
    ($($value:expr),*) => { &mut [$(std::ptr::from_ref(&$value).cast_mut().cast::<std::ffi::c_void>()),*] };
}

/// Launches blocks of threads in a stream.
pub fn launch(
    f: cu::CUfunction,
    (blocks, threads): (u32, u32),
    stream: cu::CUstream,
    params: &mut [*mut c_void],
) -> cu::CUresult {
    unsafe { cu::cuLaunchKernel(f, blocks, 1, 1, threads, 1, 1, 0, stream, params.as_mut_ptr(), std::ptr::null_mut()) }
}
