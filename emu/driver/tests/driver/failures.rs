//! Calls that are made to fail, errors that stick, traces.

use crate::child::{Context, Ended, clean, get, ok, run, run_with, upload};
use crate::kernels::{Module, launch};
use crate::params;
use cudarc::driver::sys::{self as cu, CUresult};
use serde_json::Value;
use std::ptr::null_mut;

#[test]
fn the_settings_let_a_call_fail() {
    clean("fail=cuMemAlloc_v2@2:2,fail=cuMemFree_v2@1:999,fail=*@1:719", || unsafe {
        assert_eq!(cu::cuInit(0), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        let _context = Context::new();
        let a = get(|p| cu::cuMemAlloc_v2(p, 8));
        let mut b = 0;
        assert_eq!(cu::cuMemAlloc_v2(&mut b, 8), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let b = get(|p| cu::cuMemAlloc_v2(p, 8));
        assert_eq!(cu::cuMemFree_v2(a), CUresult::CUDA_ERROR_UNKNOWN);
        ok(cu::cuMemFree_v2(b));
        ok(cu::cuMemFree_v2(a));
    });
}

#[test]
fn a_fault_sticks_until_the_context_is_gone() {
    let ended = run(Some("leaks=1"), || unsafe {
        let context = Context::new();
        let module = Module::new();
        let a = upload(&[1_u32]);
        ok(launch(module.function("trap"), (1, 1), null_mut(), &mut []));
        let failed = CUresult::CUDA_ERROR_LAUNCH_FAILED;
        assert_eq!(cu::cuCtxSynchronize(), failed);
        assert_eq!(launch(module.function_or_null("trap"), (1, 1), null_mut(), &mut []), failed);
        let mut p = 0;
        assert_eq!(cu::cuMemAlloc_v2(&mut p, 8), failed);
        assert_eq!(cu::cuMemFree_v2(a), failed);
        assert_eq!(cu::cuModuleUnload(module.0), failed);
        std::mem::forget(module);
        drop(context);
        let _context = Context::new();
        let module = Module::new();
        let a = upload(&[1_u32; 4]);
        ok(launch(module.function("add"), (1, 4), null_mut(), params![a, 4_u32, 1_u32]));
        ok(cu::cuCtxSynchronize());
        ok(cu::cuMemFree_v2(a));
    });
    if let Some(ended) = ended {
        ended.clean();
        assert!(ended.stderr.contains("trap"), "{}", ended.stderr);
    }
}

#[test]
fn a_wild_store_is_an_error_of_the_driver() {
    let ended = run(Some(""), || unsafe {
        let _context = Context::new();
        let module = Module::new();
        ok(launch(module.function("stray"), (1, 1), null_mut(), params![16_u64]));
        assert_eq!(cu::cuCtxSynchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        std::mem::forget(module);
    });
    if let Some(ended) = ended {
        ended.clean();
        assert!(ended.stderr.contains("oob_global in stray"), "{}", ended.stderr);
    }
}

/// The lines of a trace.
fn trace(settings: &str, body: impl FnOnce()) -> Option<(Ended, Vec<Value>)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    let settings = format!("{settings},trace={}", file.display());
    let ended = run_with(Some(&settings), &[], body)?;
    let text = std::fs::read_to_string(file).unwrap();
    Some((ended, text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()))
}

#[test]
fn a_trace_has_every_call_and_what_is_held() {
    let traced = trace("", || unsafe {
        ok(cu::cuInit(0));
        ok(cu::cuCtxSetCurrent(get(|c| cu::cuDevicePrimaryCtxRetain(c, 0))));
        _ = get(|p| cu::cuMemAlloc_v2(p, 48));
        _ = get(|c| cu::cuCtxCreate_v4(c, std::ptr::null_mut(), 0, 0));
        let at = upload(&[1_u32; 5]);
        std::thread::spawn(|| ok(cu::cuInit(0))).join().unwrap();
        assert_eq!(cu::cuMemFree_v2(3), CUresult::CUDA_ERROR_INVALID_VALUE);
        _ = at;
    });
    let Some((ended, lines)) = traced else { return };
    ended.clean();
    let calls: Vec<_> = lines.iter().filter_map(|l| l["call"].as_str()).collect();
    let expected = [
        "cuInit",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuMemAlloc_v2",
        "cuCtxCreate_v4",
        "cuMemAlloc_v2",
        "cuMemcpyHtoD_v2",
        "cuInit",
        "cuMemFree_v2",
    ];
    assert_eq!(calls, expected);
    for (i, line) in lines[..calls.len()].iter().enumerate() {
        let keys: Vec<_> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["n", "call", "args", "result", "thread"]);
        assert_eq!(line["n"], i + 1);
    }
    assert_eq!(lines[3]["args"]["bytesize"], 48);
    assert!(lines[3]["args"]["dptr"].as_str().unwrap().starts_with("0x2000"));
    assert_eq!((&lines[7]["thread"], &lines[8]["thread"]), (&2.into(), &1.into()));
    assert_eq!(lines[8]["result"], 1);
    let [.., last] = &lines[..] else { panic!() };
    let held: Vec<_> = last["held"].as_array().unwrap().iter().map(|h| h["kind"].as_str().unwrap()).collect();
    assert_eq!(held, ["context", "memory"]);
}

#[test]
fn what_is_held_at_exit_is_a_finding_if_asked() {
    let body = || unsafe {
        let context = Context::new();
        _ = get(|p| cu::cuMemAlloc_v2(p, 48));
        _ = get(|s| cu::cuStreamCreate(s, 0));
        std::mem::forget(context);
    };
    if let Some(ended) = run(Some("leaks=1"), body) {
        ended.found(&["held at exit", "context", "memory (cuMemAlloc_v2 of 48 bytes)", "stream"]);
    }
}

#[test]
fn a_trace_ends_with_a_finding() {
    let traced = trace("", || unsafe {
        let _context = Context::new();
        let at = upload(&[1_u32; 5]);
        ok(cu::cuMemFree_v2(at));
        _ = cu::cuMemFree_v2(at);
    });
    let Some((ended, lines)) = traced else { return };
    ended.found(&["cuMemFree_v2", "freed twice"]);
    assert_eq!(lines.len(), 6);
    assert!(lines[5]["held"].is_array());
}
