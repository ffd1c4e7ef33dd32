//! What the stand-in finds and no driver says, each once.

use crate::child::{Context, found, get, ok, run, upload};
use crate::graphs::Graph;
use crate::kernels::{Module, launch};
use crate::params;
use cudarc::driver::sys::{self as cu, CUresult};
use std::ffi::c_void;
use std::ptr::null_mut;

/// A context with a module and an array of `u32`.
fn setting() -> (Context, Module, u64) {
    let context = Context::new();
    let module = Module::new();
    (context, module, upload(&[1_u32; 64]))
}

#[test]
fn memory_that_is_freed_twice() {
    found("", &["cuMemFree_v2", "freed twice"], || unsafe {
        let (_c, _m, a) = setting();
        ok(cu::cuMemFree_v2(a));
        _ = cu::cuMemFree_v2(a);
    });
}

#[test]
fn memory_that_is_freed_from_the_middle() {
    found("", &["cuMemFree_v2", "not where it begins"], || unsafe {
        let (_c, _m, a) = setting();
        _ = cu::cuMemFree_v2(a + 4);
    });
}

#[test]
fn memory_that_is_freed_by_another_call() {
    found("", &["cuMemFreeHost", "was made by cuMemAlloc_v2"], || unsafe {
        let (_c, _m, a) = setting();
        _ = cu::cuMemFreeHost(a as *mut c_void);
    });
}

#[test]
fn copies_of_freed_memory() {
    found("", &["cuMemcpyDtoH_v2", "cuMemFree_v2 has freed"], || unsafe {
        let (_c, _m, a) = setting();
        ok(cu::cuMemFree_v2(a));
        let mut host = [0_u8; 4];
        _ = cu::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), a, 4);
    });
}

#[test]
fn copies_past_an_allocation() {
    found("", &["cuMemcpyHtoD_v2", "ends 8 bytes past the allocation of 256 bytes"], || unsafe {
        let (_c, _m, a) = setting();
        let host = [0_u8; 264];
        _ = cu::cuMemcpyHtoD_v2(a, host.as_ptr().cast(), 264);
    });
}

#[test]
fn fills_past_an_allocation() {
    found("", &["cuMemsetD32_v2", "ends 4 bytes past"], || unsafe {
        let (_c, _m, a) = setting();
        _ = cu::cuMemsetD32_v2(a, 0, 65);
    });
}

#[test]
fn copies_past_pinned_memory() {
    found("", &["cuMemcpyHtoD_v2", "the source", "past the allocation of 16 bytes"], || unsafe {
        let (_c, _m, a) = setting();
        let pinned: *mut c_void = get(|p| cu::cuMemHostAlloc(p, 16, 0));
        _ = cu::cuMemcpyHtoD_v2(a, pinned, 17);
    });
}

#[test]
fn kernels_that_use_freed_memory() {
    found("", &["stray", "freed"], || unsafe {
        let (_c, m, a) = setting();
        ok(cu::cuMemFree_v2(a));
        ok(launch(m.function("stray"), (1, 1), null_mut(), params![a]));
        _ = cu::cuCtxSynchronize();
    });
}

#[test]
fn kernels_that_store_behind_an_allocation() {
    found("", &["oob_global in stray", "line"], || unsafe {
        let (_c, m, a) = setting();
        ok(launch(m.function("stray"), (1, 1), null_mut(), params![a + 256]));
        _ = cu::cuCtxSynchronize();
    });
}

#[test]
fn downloads_of_what_nobody_wrote() {
    found("", &["uninit_global", "cuMemcpyDtoH_v2"], || unsafe {
        let _context = Context::new();
        let a = get(|p| cu::cuMemAlloc_v2(p, 16));
        let mut host = [0_u8; 16];
        _ = cu::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), a, 16);
    });
}

#[test]
fn kernels_that_race() {
    found("", &["race_global", "add"], || unsafe {
        let (_c, m, a) = setting();
        for _ in 0..2 {
            let stream = get(|s| cu::cuStreamCreate(s, 1));
            ok(launch(m.function("add"), (1, 32), stream, params![a, 32_u32, 1_u32]));
        }
        _ = cu::cuCtxSynchronize();
    });
}

#[test]
fn copies_that_race_with_a_kernel() {
    found("", &["race_global", "cuMemcpyHtoDAsync_v2 on stream"], || unsafe {
        let (_c, m, a) = setting();
        let pinned: *mut c_void = get(|p| cu::cuMemHostAlloc(p, 256, 0));
        let (s, t) = (get(|s| cu::cuStreamCreate(s, 1)), get(|s| cu::cuStreamCreate(s, 1)));
        ok(launch(m.function("add"), (1, 32), s, params![a, 32_u32, 1_u32]));
        ok(cu::cuMemcpyHtoDAsync_v2(a, pinned, 256, t));
        _ = cu::cuCtxSynchronize();
    });
}

#[test]
fn pinned_memory_that_is_freed_under_a_copy() {
    found("", &["cuMemFreeHost", "still in use by cuMemcpyHtoDAsync_v2"], || unsafe {
        let (_c, _m, a) = setting();
        let pinned: *mut c_void = get(|p| cu::cuMemHostAlloc(p, 256, 0));
        let s = get(|s| cu::cuStreamCreate(s, 1));
        ok(cu::cuMemcpyHtoDAsync_v2(a, pinned, 256, s));
        _ = cu::cuMemFreeHost(pinned);
    });
}

/// Frees pinned memory that something which has not ended uses.
fn freed_under(words: &[&str], ask: impl Fn(&Module, u64, cu::CUstream)) {
    found("", &[&["cuMemFreeHost"], words].concat(), || unsafe {
        let (_c, m, _) = setting();
        let pinned: *mut c_void = get(|p| cu::cuMemHostAlloc(p, 256, 0));
        ask(&m, pinned as u64, get(|s| cu::cuStreamCreate(s, 1)));
        _ = cu::cuMemFreeHost(pinned);
    });
}

#[test]
fn pinned_memory_that_is_freed_under_a_kernel() {
    freed_under(&["freed in stray", "which were freed, by cuMemFreeHost"], |m, at, s| {
        ok(launch(m.function("stray"), (1, 1), s, params![at]));
    });
}

#[test]
fn pinned_memory_that_is_freed_under_a_fill() {
    freed_under(&["still in use by cuMemsetD8Async on stream"], |_, at, s| unsafe {
        ok(cu::cuMemsetD8Async(at + 8, 1, 4, s));
    });
}

#[test]
fn pinned_memory_that_is_freed_under_a_word() {
    freed_under(&["still in use by cuStreamWriteValue32_v2"], |_, at, s| unsafe {
        ok(cu::cuStreamWriteValue32_v2(s, at, 1, 0));
    });
}

#[test]
fn registered_memory_that_is_taken_back_under_a_kernel() {
    found("", &["freed in stray", "by cuMemHostUnregister"], || unsafe {
        let (_c, m, _) = setting();
        let mut words = [0_u32; 16];
        ok(cu::cuMemHostRegister_v2(words.as_mut_ptr().cast(), 64, 0));
        ok(launch(m.function("stray"), (1, 1), null_mut(), params![words.as_ptr() as u64]));
        _ = cu::cuMemHostUnregister(words.as_mut_ptr().cast());
    });
}

#[test]
fn pool_memory_that_is_freed_under_a_kernel() {
    // Other memory is waited for; see `what_is_freed_or_destroyed_under_work_lets_it_end`.
    found("", &["freed in stray", "by cuMemFree_v2"], || unsafe {
        let (_c, m, _) = setting();
        let a = get(|p| cu::cuMemAllocAsync(p, 256, null_mut()));
        ok(launch(m.function("stray"), (1, 1), null_mut(), params![a]));
        _ = cu::cuMemFree_v2(a);
    });
}

fn two_streams() -> [cu::CUstream; 2] {
    [(); 2].map(|()| unsafe { get(|s| cu::cuStreamCreate(s, 1)) })
}

#[test]
fn pool_memory_that_another_stream_uses_before_it_is_there() {
    found("", &["race_global", "cuMemAllocAsync on stream"], || unsafe {
        let (_c, m, _) = setting();
        let [s, other] = two_streams();
        let a = get(|p| cu::cuMemAllocAsync(p, 256, s));
        ok(launch(m.function("stray"), (1, 1), other, params![a]));
        _ = cu::cuCtxSynchronize();
    });
}

#[test]
fn pool_memory_that_another_stream_uses_when_it_is_freed() {
    for seed in 0..3 {
        let ended = run(Some(&format!("seed={seed}")), || unsafe {
            let (_c, m, _) = setting();
            let [s, other] = two_streams();
            let a = get(|p| cu::cuMemAllocAsync(p, 256, s));
            ok(cu::cuStreamSynchronize(s));
            ok(launch(m.function("stray"), (1, 1), other, params![a]));
            ok(cu::cuMemFreeAsync(a, s));
            _ = cu::cuCtxSynchronize();
        });
        let Some(ended) = ended else { return };
        // As race or, where it comes late, as what is gone.
        let found = ended.findings();
        let named =
            |f: &str| f.contains("cuMemFreeAsync") && (f.contains("race_global") || f.contains("freed in stray"));
        assert!(found.len() == 1 && named(found[0]), "seed {seed}: {}", ended.stderr);
    }
}

#[test]
fn modules_that_are_unloaded_under_a_kernel() {
    found("", &["cuModuleUnload", "still in use by cuLaunchKernel"], || unsafe {
        let (_c, m, a) = setting();
        ok(launch(m.function("stray"), (1, 1), null_mut(), params![a]));
        _ = cu::cuModuleUnload(m.0);
    });
}

#[test]
fn modules_that_are_unloaded_under_a_graph() {
    found("", &["cuModuleUnload", "still in use by cuGraphLaunch"], || unsafe {
        let (_c, m, a) = setting();
        let graph = Graph::new();
        graph.kernel(&[], m.function("stray"), (1, 1), params![a]);
        graph.instantiate().launch(null_mut());
        _ = cu::cuModuleUnload(m.0);
    });
}

/// Copies three blocks of numbers through one pinned buffer, waiting for each copy but those left out.
fn staged(waits: [bool; 3]) {
    let (_c, _m, a) = setting();
    unsafe {
        let pinned: *mut c_void = get(|p| cu::cuMemHostAlloc(p, 64, 0));
        let (s, done) = (get(|s| cu::cuStreamCreate(s, 1)), get(|e| cu::cuEventCreate(e, 2)));
        for (i, wait) in waits.into_iter().enumerate() {
            std::slice::from_raw_parts_mut(pinned.cast::<u32>(), 16).fill(i as u32 + 1);
            ok(cu::cuMemcpyHtoDAsync_v2(a + 64 * i as u64, pinned, 64, s));
            ok(cu::cuEventRecord(done, s));
            if wait {
                ok(cu::cuEventSynchronize(done));
            }
        }
        _ = cu::cuStreamSynchronize(s);
        assert_eq!(crate::child::download::<u32>(a, 48)[..17], [[1; 16].as_slice(), &[2]].concat());
        ok(cu::cuMemFreeHost(pinned));
    }
}

#[test]
fn a_staging_buffer_that_is_used_too_early() {
    let words = ["race_global", "cuMemcpyHtoDAsync_v2 on stream", "the process has changed the source"];
    found("", &words, || staged([true, false, true]));
}

#[test]
fn a_staging_buffer_that_is_waited_for_is_no_finding() {
    for seed in 0..3 {
        let Some(ended) = run(Some(&format!("seed={seed}")), || staged([true; 3])) else { return };
        ended.clean();
    }
}

#[test]
fn pool_memory_that_is_freed_twice_or_used_afterwards() {
    found("", &["cuMemFreeAsync", "freed twice"], || unsafe {
        let (_c, _m, _) = setting();
        let a = get(|p| cu::cuMemAllocAsync(p, 256, null_mut()));
        ok(cu::cuMemFreeAsync(a, null_mut()));
        _ = cu::cuMemFreeAsync(a, null_mut());
    });
}

#[test]
fn pool_memory_that_is_used_after_it_was_freed() {
    found("", &["cuMemsetD8Async", "cuMemFreeAsync has freed"], || unsafe {
        let (_c, _m, _) = setting();
        let a = get(|p| cu::cuMemAllocAsync(p, 256, null_mut()));
        ok(cu::cuMemFreeAsync(a, null_mut()));
        _ = cu::cuMemsetD8Async(a, 0, 4, null_mut());
    });
}

#[test]
fn streams_that_are_gone() {
    found("", &["cuStreamSynchronize", "stream", "is gone"], || unsafe {
        let (_c, _m, _) = setting();
        let s = get(|s| cu::cuStreamCreate(s, 0));
        ok(cu::cuStreamDestroy_v2(s));
        _ = cu::cuStreamSynchronize(s);
    });
}

#[test]
fn events_that_are_gone() {
    found("", &["cuEventQuery", "event", "is gone"], || unsafe {
        let (_c, _m, _) = setting();
        let e = get(|e| cu::cuEventCreate(e, 0));
        ok(cu::cuEventDestroy_v2(e));
        _ = cu::cuEventQuery(e);
    });
}

#[test]
fn functions_of_a_module_that_is_gone() {
    found("", &["cuLaunchKernel", "function", "is gone"], || {
        let (_c, m, a) = setting();
        let f = m.function("stray");
        drop(m);
        _ = launch(f, (1, 1), null_mut(), params![a]);
    });
}

#[test]
fn handles_of_another_kind() {
    found("", &["cuStreamSynchronize", "is not the handle of a stream"], || unsafe {
        let (_c, m, _) = setting();
        _ = cu::cuStreamSynchronize(m.0.cast());
    });
}

#[test]
fn a_context_that_is_gone() {
    found("", &["cuCtxSetCurrent", "context", "is gone"], || unsafe {
        let c = Context::new();
        let there = c.0;
        drop(c);
        _ = cu::cuCtxSetCurrent(there);
    });
}

#[test]
fn a_wait_for_what_nobody_writes() {
    // It takes ten seconds to be sure.
    let ended = run(Some(""), || unsafe {
        let (_c, _m, a) = setting();
        ok(cu::cuStreamWaitValue32_v2(null_mut(), a, 2, 1));
        _ = cu::cuCtxSynchronize();
    });
    if let Some(ended) = ended {
        ended.found(&["deadlock", "cuStreamWaitValue32_v2"]);
    }
}

#[test]
fn findings_that_are_warnings_go_on() {
    let ended = run(Some("strict=0"), || unsafe {
        let (_c, _m, a) = setting();
        ok(cu::cuMemFree_v2(a));
        assert_eq!(cu::cuMemFree_v2(a), CUresult::CUDA_ERROR_INVALID_VALUE);
        let s = get(|s| cu::cuStreamCreate(s, 0));
        ok(cu::cuStreamDestroy_v2(s));
        assert_eq!(cu::cuStreamDestroy_v2(s), CUresult::CUDA_ERROR_INVALID_HANDLE);
    });
    if let Some(ended) = ended {
        assert_eq!((ended.status, ended.findings().len()), (Some(0), 2), "{}", ended.stderr);
    }
}
