//! The device, contexts, and what is there without the variable.

use crate::child::{Context, clean, get, ok, run};
use cudarc::driver::sys::{self as cu, CUdevice_attribute as A, CUresult};
use std::ffi::CStr;
use std::ptr::{null, null_mut};

fn name() -> String {
    let mut text = [0; 100];
    unsafe {
        ok(cu::cuDeviceGetName(text.as_mut_ptr(), 100, 0));
        CStr::from_ptr(text.as_ptr()).to_str().unwrap().to_owned()
    }
}

#[test]
fn without_the_variable_there_is_no_device() {
    let ended = run(None, || unsafe {
        assert_eq!(cu::cuInit(0), CUresult::CUDA_ERROR_NO_DEVICE);
        let mut count = 7;
        assert_eq!(cu::cuDeviceGetCount(&mut count), CUresult::CUDA_ERROR_NOT_INITIALIZED);
        assert_eq!(get(|v| cu::cuDriverGetVersion(v)), 13000);
        let text = get(|t| cu::cuGetErrorName(CUresult::CUDA_ERROR_NO_DEVICE, t));
        assert_eq!(CStr::from_ptr(text), c"CUDA_ERROR_NO_DEVICE");
    });
    if let Some(ended) = ended {
        ended.clean();
    }
}

#[test]
fn settings_without_sense_end_the_process() {
    if let Some(ended) = run(Some("card=voodoo"), || unsafe { _ = cu::cuInit(0) }) {
        ended.found(&["'card=voodoo'", "rtx5090", "h200"]);
    }
}

#[test]
fn the_device_is_the_card_of_the_settings() {
    clean("card=h100,memory=2GiB,driver=12040", || unsafe {
        assert_eq!(cu::cuInit(1), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(cu::cuInit(0));
        assert_eq!(get(|n| cu::cuDeviceGetCount(n)), 1);
        assert_eq!(get(|d| cu::cuDeviceGet(d, 0)), 0);
        let mut device = 0;
        assert_eq!(cu::cuDeviceGet(&mut device, 1), CUresult::CUDA_ERROR_INVALID_DEVICE);
        assert_eq!(name(), "NVIDIA H100 80GB HBM3 (stand-in)");
        assert_eq!(get(|v| cu::cuDriverGetVersion(v)), 12040);
        assert_eq!(get(|b| cu::cuDeviceTotalMem_v2(b, 0)), 80 << 30);
        let ask = |a| get(|v| cu::cuDeviceGetAttribute(v, a, 0));
        assert_eq!(ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 9);
        assert_eq!(ask(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
        assert_eq!(ask(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 227 << 10);
        let one = get(|u| cu::cuDeviceGetUuid_v2(u, 0));
        assert!(one.bytes != [0; 16]);
        let _context = Context::new();
        let (mut free, mut total) = (0, 0);
        ok(cu::cuMemGetInfo_v2(&mut free, &mut total));
        assert_eq!((free, total), (2 << 30, 80 << 30));
        let mut p = 0;
        assert_eq!(cu::cuMemAlloc_v2(&mut p, 3 << 30), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let p = get(|p| cu::cuMemAlloc_v2(p, 1 << 30));
        ok(cu::cuMemGetInfo_v2(&mut free, &mut total));
        assert_eq!(free, 1 << 30);
        ok(cu::cuMemFree_v2(p));
    });
}

#[test]
fn contexts_are_a_stack_of_each_thread() {
    clean("", || unsafe {
        ok(cu::cuInit(0));
        let mut p = 0;
        assert_eq!(cu::cuMemAlloc_v2(&mut p, 4), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        let a = get(|c| cu::cuCtxCreate_v4(c, std::ptr::null_mut(), 0, 0));
        let b = get(|c| cu::cuCtxCreate_v4(c, null_mut(), 0, 0));
        let current = || get(|c| cu::cuCtxGetCurrent(c));
        assert_eq!(current(), b);
        assert_eq!(get(|c| cu::cuCtxPopCurrent_v2(c)), b);
        assert_eq!(current(), a);
        ok(cu::cuCtxPushCurrent_v2(b));
        assert_eq!(get(|d| cu::cuCtxGetDevice(d)), 0);
        let (a_there, b_there) = (a as usize, b as usize);
        std::thread::spawn(move || {
            let current = || get(|c| cu::cuCtxGetCurrent(c));
            assert!(current().is_null());
            ok(cu::cuCtxSetCurrent(a_there as cu::CUcontext));
            assert_eq!(current() as usize, a_there);
            ok(cu::cuCtxSetCurrent(null_mut()));
            assert!(current().is_null());
            _ = b_there;
        })
        .join()
        .unwrap();
        ok(cu::cuCtxDestroy_v2(b));
        assert_eq!(current(), a);
        ok(cu::cuCtxDestroy_v2(a));
        assert!(current().is_null());
    });
}

#[test]
fn the_primary_context_is_retained_and_released() {
    clean("", || unsafe {
        ok(cu::cuInit(0));
        let active = || {
            let (mut flags, mut active) = (0, 0);
            ok(cu::cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
            active
        };
        assert_eq!(active(), 0);
        let a = get(|c| cu::cuDevicePrimaryCtxRetain(c, 0));
        assert_eq!(get(|c| cu::cuDevicePrimaryCtxRetain(c, 0)), a);
        ok(cu::cuCtxSetCurrent(a));
        assert_eq!(active(), 1);
        // What a primary context owns is not held.
        _ = get(|p| cu::cuMemAlloc_v2(p, 100));
        ok(cu::cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(active(), 1);
        ok(cu::cuDevicePrimaryCtxRelease_v2(0));
        assert_eq!(active(), 0);
        assert_eq!(cu::cuDevicePrimaryCtxRelease_v2(0), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        let b = get(|c| cu::cuDevicePrimaryCtxRetain(c, 0));
        ok(cu::cuCtxSetCurrent(b));
        _ = get(|p| cu::cuMemAlloc_v2(p, 100));
    });
}

#[test]
fn functions_are_found_by_name_and_version() {
    clean("", || unsafe {
        let ask = |name: &CStr, version, flags| {
            let (mut f, mut status) = (null_mut(), cu::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS);
            ok(cu::cuGetProcAddress_v2(name.as_ptr(), &mut f, version, flags, &mut status));
            (f as usize, status as u32)
        };
        let exported = |name: &CStr| libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) as usize;
        // The symbols of a library that was opened locally are found through itself.
        let library = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW);
        let own = |name: &CStr| libc::dlsym(library, name.as_ptr()) as usize;
        _ = exported;
        assert_eq!(ask(c"cuMemAlloc", 13000, 0), (own(c"cuMemAlloc_v2"), 0));
        assert_eq!(ask(c"cuCtxCreate", 11000, 0), (own(c"cuCtxCreate_v2"), 0));
        assert_eq!(ask(c"cuCtxCreate", 11040, 0), (own(c"cuCtxCreate_v3"), 0));
        assert_eq!(ask(c"cuCtxCreate", 13000, 0), (own(c"cuCtxCreate_v4"), 0));
        assert_eq!(ask(c"cuStreamGetCtx", 9020, 0), (own(c"cuStreamGetCtx"), 0));
        assert_eq!(ask(c"cuStreamGetCtx", 12050, 0), (own(c"cuStreamGetCtx_v2"), 0));
        assert_eq!(ask(c"cuMemcpyHtoD", 13000, 2), (own(c"cuMemcpyHtoD_v2_ptds"), 0));
        assert_eq!(ask(c"cuLaunchKernel", 13000, 2), (own(c"cuLaunchKernel_ptsz"), 0));
        assert_eq!(ask(c"cuLaunchKernel", 13000, 1), (own(c"cuLaunchKernel"), 0));
        assert_eq!(ask(c"cuLaunchKernelEx", 11000, 0), (0, 2));
        assert_eq!(ask(c"cuMakeTea", 13000, 0), (0, 1));
        assert!(ask(c"cuTexObjectCreate", 13000, 0).0 != 0);
        let mut f = null_mut();
        let missing = cu::cuGetProcAddress_v2(c"cuMakeTea".as_ptr(), &mut f, 13000, 0, null_mut());
        assert_eq!(missing, CUresult::CUDA_ERROR_NOT_FOUND);
        let mut table = null();
        let id = cu::CUuuid { bytes: [1; 16] };
        assert_eq!(cu::cuGetExportTable(&mut table, &id), CUresult::CUDA_ERROR_NOT_FOUND);
    });
}

#[test]
fn an_older_driver_lacks_functions() {
    clean("driver=12020", || unsafe {
        let mut status = cu::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
        let mut f = null_mut();
        ok(cu::cuGetProcAddress_v2(c"cuStreamGetDevice".as_ptr(), &mut f, 12080, 0, &mut status));
        assert!(f.is_null() && status == cu::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    });
}

#[test]
fn what_is_not_supported_says_so_once() {
    let ended = run(Some(""), || unsafe {
        ok(cu::cuInit(0));
        for _ in 0..2 {
            let r = cu::cuTexObjectDestroy(1);
            assert_eq!(r, CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
    });
    if let Some(ended) = ended {
        ended.clean();
        assert_eq!(ended.stderr.matches("cuTexObjectDestroy").count(), 1, "{}", ended.stderr);
    }
}

#[test]
fn limits_and_preferences_are_kept() {
    clean("", || unsafe {
        let _context = Context::new();
        let stack = cu::CUlimit::CU_LIMIT_STACK_SIZE;
        ok(cu::cuCtxSetLimit(stack, 4096));
        assert_eq!(get(|v| cu::cuCtxGetLimit(v, stack)), 4096);
        ok(cu::cuCtxSetCacheConfig(cu::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1));
        assert_eq!(get(|v| cu::cuCtxGetCacheConfig(v)), cu::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1);
        let (mut least, mut greatest) = (9, 9);
        ok(cu::cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
        assert_eq!((least, greatest), (0, -5));
        assert_eq!(get(|v| cu::cuCtxGetFlags(v)), 0);
    });
}

#[test]
fn a_child_of_a_process_that_uses_the_driver_cannot() {
    clean("", || unsafe {
        let _context = Context::new();
        match libc::fork() {
            0 => {
                let r = cu::cuCtxSynchronize();
                libc::_exit(i32::from(r != CUresult::CUDA_ERROR_NOT_INITIALIZED));
            }
            child => {
                let mut status = 0;
                libc::waitpid(child, &mut status, 0);
                assert_eq!(status, 0);
            }
        }
    });
}
