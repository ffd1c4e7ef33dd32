//! Streams, events, functions of the program, words.

use crate::child::{Context, clean, download, free, get, ok, upload};
use crate::graphs::Graph;
use crate::kernels::{Module, launch};
use crate::params;
use cudarc::driver::sys::{self as cu, CUresult};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[test]
fn streams_answer_what_they_are() {
    clean("", || unsafe {
        let context = Context::new();
        let a = get(|s| cu::cuStreamCreateWithPriority(s, 1, -3));
        let b = get(|s| cu::cuStreamCreate(s, 0));
        assert_eq!(get(|p| cu::cuStreamGetPriority(a, p)), -3);
        assert_eq!((get(|f| cu::cuStreamGetFlags(a, f)), get(|f| cu::cuStreamGetFlags(b, f))), (1, 0));
        assert!(get(|i| cu::cuStreamGetId(a, i)) != get(|i| cu::cuStreamGetId(b, i)));
        assert_eq!(get(|c| cu::cuStreamGetCtx(a, c)), context.0);
        assert_eq!(get(|c| cu::cuStreamGetCtx(null_mut(), c)), context.0);
        assert_eq!(get(|d| cu::cuStreamGetDevice(a, d)), 0);
        ok(cu::cuStreamQuery(a));
        ok(cu::cuStreamSynchronize(a));
        ok(cu::cuStreamDestroy_v2(a));
        ok(cu::cuStreamDestroy_v2(b));
        assert_eq!(cu::cuStreamDestroy_v2(null_mut()), CUresult::CUDA_ERROR_INVALID_HANDLE);
    });
}

#[test]
fn events_order_streams() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (add, twice) = (module.function("add"), module.function("twice"));
        let streams: [cu::CUstream; 2] = [get(|s| cu::cuStreamCreate(s, 1)), get(|s| cu::cuStreamCreate(s, 1))];
        let event = get(|e| cu::cuEventCreate(e, 2));
        let (a, b) = (upload(&[5_u32; 64]), get(|p| cu::cuMemAlloc_v2(p, 256)));
        let (n, one) = (64_u32, 1_u32);
        ok(launch(add, (2, 32), streams[0], params![a, n, one]));
        ok(cu::cuEventRecord(event, streams[0]));
        ok(cu::cuStreamWaitEvent(streams[1], event, 0));
        ok(launch(twice, (1, 64), streams[1], params![a, b]));
        ok(cu::cuStreamSynchronize(streams[1]));
        assert_eq!(download::<u32>(b, 64), [12; 64]);
        ok(cu::cuEventSynchronize(event));
        ok(cu::cuEventQuery(event));
        ok(cu::cuEventDestroy_v2(event));
        for stream in streams {
            ok(cu::cuStreamDestroy_v2(stream));
        }
        free(a);
        free(b);
    });
}

#[test]
fn the_default_stream_waits_for_blocking_streams() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let add = module.function("add");
        let stream = get(|s| cu::cuStreamCreate(s, 0));
        let a = upload(&[0_u32; 32]);
        let (n, one) = (32_u32, 1_u32);
        for _ in 0..5 {
            ok(launch(add, (1, 32), stream, params![a, n, one]));
            ok(launch(add, (1, 32), null_mut(), params![a, n, one]));
        }
        assert_eq!(download::<u32>(a, 32), [10; 32]);
        ok(cu::cuStreamDestroy_v2(stream));
        free(a);
    });
}

#[test]
fn events_have_times() {
    clean("", || unsafe {
        let _context = Context::new();
        let (start, end) = (get(|e| cu::cuEventCreate(e, 0)), get(|e| cu::cuEventCreate(e, 0)));
        let mut ms = 0.0;
        let never = cu::cuEventElapsedTime_v2(&mut ms, start, end);
        assert_eq!(never, CUresult::CUDA_ERROR_INVALID_HANDLE);
        unsafe extern "C" fn nap(_: *mut c_void) {
            std::thread::sleep(Duration::from_millis(20));
        }
        ok(cu::cuEventRecord(start, null_mut()));
        ok(cu::cuLaunchHostFunc(null_mut(), Some(nap), null_mut()));
        ok(cu::cuEventRecord(end, null_mut()));
        let early = cu::cuEventElapsedTime_v2(&mut ms, start, end);
        assert_eq!(early, CUresult::CUDA_ERROR_NOT_READY);
        ok(cu::cuEventSynchronize(end));
        ok(cu::cuEventElapsedTime_v2(&mut ms, start, end));
        assert!((15.0..5000.0).contains(&ms), "{ms}");
        ok(cu::cuEventElapsedTime_v2(&mut ms, end, start));
        assert!(ms < 0.0);
        ok(cu::cuEventDestroy_v2(start));
        ok(cu::cuEventDestroy_v2(end));
    });
}

static CALLS: AtomicU32 = AtomicU32::new(0);

#[test]
fn functions_of_the_program_run_in_order_and_may_not_call() {
    unsafe extern "C" fn first(data: *mut c_void) {
        CALLS.store(data as usize as u32, Ordering::SeqCst);
        let denied = unsafe { cu::cuCtxSynchronize() };
        assert_eq!(denied, CUresult::CUDA_ERROR_NOT_PERMITTED);
    }
    unsafe extern "C" fn second(_: cu::CUstream, status: CUresult, data: *mut c_void) {
        assert_eq!(status, CUresult::CUDA_SUCCESS);
        assert_eq!(CALLS.load(Ordering::SeqCst), 7);
        CALLS.fetch_add(data as usize as u32, Ordering::SeqCst);
    }
    clean("", || unsafe {
        let _context = Context::new();
        let stream = get(|s| cu::cuStreamCreate(s, 1));
        ok(cu::cuLaunchHostFunc(stream, Some(first), 7 as *mut c_void));
        ok(cu::cuStreamAddCallback(stream, Some(second), 3 as *mut c_void, 0));
        ok(cu::cuStreamSynchronize(stream));
        assert_eq!(CALLS.load(Ordering::SeqCst), 10);
        ok(cu::cuStreamDestroy_v2(stream));
    });
}

#[test]
fn a_program_may_wait_for_a_word_without_calling() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let pinned: *mut c_void = get(|p| cu::cuMemHostAlloc(p, 8, 2));
        let words = [AtomicU32::from_ptr(pinned.cast()), AtomicU32::from_ptr(pinned.cast::<u32>().add(1))];
        let (flag, reply) = (pinned as u64, pinned as u64 + 4);
        let stream = get(|s| cu::cuStreamCreate(s, 1));
        ok(launch(module.function("poll"), (1, 1), stream, params![flag, reply]));
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(cu::cuStreamQuery(stream), CUresult::CUDA_ERROR_NOT_READY);
        words[0].store(41, Ordering::Release);
        let start = Instant::now();
        while words[1].load(Ordering::Acquire) == 0 {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::hint::spin_loop();
        }
        assert_eq!(words[1].load(Ordering::Acquire), 42);
        ok(cu::cuStreamSynchronize(stream));
        ok(cu::cuStreamDestroy_v2(stream));
        ok(cu::cuMemFreeHost(pinned));
    });
}

#[test]
fn streams_write_and_wait_for_words() {
    clean("", || unsafe {
        let _context = Context::new();
        let at = upload(&[0_u64; 4]);
        let (a, b) = (get(|s| cu::cuStreamCreate(s, 1)), get(|s| cu::cuStreamCreate(s, 1)));
        ok(cu::cuStreamWaitValue64_v2(a, at, 3, 0));
        ok(cu::cuStreamWriteValue32_v2(a, at + 8, 9, 0));
        ok(cu::cuStreamWriteValue64_v2(b, at, 4, 0));
        ok(cu::cuStreamSynchronize(a));
        assert_eq!(download::<u32>(at, 3), [4, 0, 9]);
        let mut batch: [cu::CUstreamBatchMemOpParams; 2] = std::mem::zeroed();
        batch[0].waitValue.operation = cu::CUstreamBatchMemOpType::CU_STREAM_MEM_OP_WAIT_VALUE_32;
        batch[0].waitValue.address = at + 8;
        batch[0].waitValue.__bindgen_anon_1.value = 9;
        batch[0].waitValue.flags = 1;
        batch[1].writeValue.operation = cu::CUstreamBatchMemOpType::CU_STREAM_MEM_OP_WRITE_VALUE_64;
        batch[1].writeValue.address = at + 16;
        batch[1].writeValue.__bindgen_anon_1.value64 = 1 << 40;
        ok(cu::cuStreamBatchMemOp_v2(b, 2, batch.as_mut_ptr(), 0));
        ok(cu::cuStreamSynchronize(b));
        assert_eq!(download::<u64>(at + 16, 1), [1 << 40]);
        assert_eq!(cu::cuStreamWriteValue32_v2(b, at + 1, 1, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(cu::cuStreamDestroy_v2(a));
        ok(cu::cuStreamDestroy_v2(b));
        free(at);
    });
}

#[test]
fn threads_call_beside_each_other() {
    clean("", || unsafe {
        let context = Context::new();
        let module = Module::new();
        let (add, there) = (module.function("add") as usize, context.0 as usize);
        let threads: Vec<_> = (0..4_u32)
            .map(|i| {
                std::thread::spawn(move || {
                    ok(cu::cuCtxSetCurrent(there as cu::CUcontext));
                    let stream = get(|s| cu::cuStreamCreate(s, 1));
                    let a = upload(&[i; 64]);
                    let (n, one) = (64_u32, 1_u32);
                    for _ in 0..10 {
                        ok(launch(add as cu::CUfunction, (2, 32), stream, params![a, n, one]));
                    }
                    ok(cu::cuStreamSynchronize(stream));
                    assert_eq!(download::<u32>(a, 64), [i + 10; 64]);
                    ok(cu::cuStreamDestroy_v2(stream));
                    free(a);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// What is documented as possible under work that has not ended.
#[test]
fn what_is_freed_or_destroyed_under_work_lets_it_end() {
    for seed in ["", "seed=1", "seed=2"] {
        clean(seed, || unsafe {
            let _context = Context::new();
            let module = Module::new();
            let (a, b) = (upload(&[1_u32; 32]), upload(&[0_u32; 32]));
            let stream = get(|s| cu::cuStreamCreate(s, 1));
            let graph = Graph::new();
            graph.kernel(&[], module.function("twice"), (1, 32), params![a, b]);
            let exec = graph.instantiate();
            exec.launch(stream);
            // It runs, and its graph goes, then its stream, then what it reads, which waits.
            drop((exec, graph));
            ok(cu::cuStreamDestroy_v2(stream));
            free(a);
            assert_eq!(download::<u32>(b, 32), [2; 32]);
            free(b);
        });
    }
}

#[test]
fn a_stream_that_is_destroyed_still_does_its_work() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let a = upload(&[0_u32; 32]);
        let (n, one) = (32_u32, 1_u32);
        let stream = get(|s| cu::cuStreamCreate(s, 0));
        let event = get(|e| cu::cuEventCreate(e, 0));
        ok(launch(module.function("add"), (1, 32), stream, params![a, n, one]));
        ok(cu::cuEventRecord(event, stream));
        ok(cu::cuEventDestroy_v2(event));
        ok(cu::cuStreamDestroy_v2(stream));
        assert_eq!(download::<u32>(a, 32), [1; 32]);
        free(a);
    });
}
