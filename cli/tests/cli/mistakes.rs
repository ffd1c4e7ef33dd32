//! Mistakes in what the device asks of a driver: each has to be found by the stand-in, or refused by it.
//!
//! A mistake is a library in front of the stand-in's: it has the functions that it changes, and needs the stand-in's for all
//! others, so that who looks for a function finds the changed one first.

use crate::card::{SHORT, one_layer};
use crate::harness::{Outcome, command, wait};
use std::path::Path;
use std::process::Command;
use tests::standin;

/// What a mistake's source begins with: all arguments are integers or pointers.
const PRELUDE: &str = "
#define _GNU_SOURCE
#include <dlfcn.h>
#define ARGUMENTS long a, long b, long c, long d, long e, long f, long g, long h
typedef int function(ARGUMENTS);
#define REAL(name) ((function *)dlsym(RTLD_NEXT, #name))
/* Calls the real function, with the arguments as they are by now. */
#define CALL(name) REAL(name)(a, b, c, d, e, f, g, h)
/* The nth call from here is another one. */
#define CHANGED(name, body) int name(ARGUMENTS) { static int n; n++; body; return CALL(name); }
/* Figures of a node that launches a kernel. */
#define IS_KERNEL(node) (*(int *)(node) == 0)
#define GRID(node) (*(unsigned *)((node) + 24))
#define THREADS(node) (*(unsigned *)((node) + 36))
#define PARAMS(node) (*(void ***)((node) + 56))
";

/// A mistake, its source, and words of what is said about it.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("steps are not waited for", "CHANGED(cuStreamSynchronize, if (n > 1) return 0)", "still in use"),
    ("copies are not waited for", "CHANGED(cuEventSynchronize, return 0)", "libcuda stand-in:"),
    ("events are not recorded", "CHANGED(cuEventRecord, return 0)", "libcuda stand-in:"),
    ("events are of another stream", "CHANGED(cuEventRecord, b = 0)", "libcuda stand-in:"),
    ("copies are on another stream", "CHANGED(cuMemcpyHtoDAsync_v2, d = 0)", "libcuda stand-in:"),
    ("a copy is left out", "CHANGED(cuMemcpyHtoDAsync_v2, if (n == 4) return 0)", "libcuda stand-in:"),
    ("a copy is too long", "CHANGED(cuMemcpyHtoDAsync_v2, if (n == 2) c += 1 << 20)", "libcuda stand-in:"),
    ("an edge between kernels is missing", "CHANGED(cuGraphAddNode_v2, static int k; if (e && IS_KERNEL(f) && ++k == 3) { c = d = e = 0; })", "libcuda stand-in:"),
    (
        "the edge from the copy of inputs is missing",
        "CHANGED(cuGraphAddNode_v2, if (e == 1 && !IS_KERNEL(f)) { c = d = e = 0; })",
        "libcuda stand-in:",
    ),
    (
        "parameters are swapped",
        "CHANGED(cuGraphAddNode_v2, if (n == 5 && IS_KERNEL(f)) { void **p = PARAMS(f); void *t = p[0]; p[0] = p[1]; p[1] = t; })",
        "libcuda stand-in:",
    ),
    ("a grid is too small", "CHANGED(cuGraphAddNode_v2, if (n > 3 && IS_KERNEL(f) && GRID(f) > 1) GRID(f) /= 2)", "libcuda stand-in:"),
    ("a block is too small", "CHANGED(cuGraphAddNode_v2, if (n > 3 && IS_KERNEL(f)) THREADS(f) = 32)", "libcuda stand-in:"),
    (
        "memory is freed before it is used",
        "static long kept; int cuMemAlloc_v2(ARGUMENTS) { int r = CALL(cuMemAlloc_v2); if (!kept) kept = *(long *)a; return r; }
         CHANGED(cuGraphLaunch, if (n == 2) ((int (*)(long))dlsym(RTLD_NEXT, \"cuMemFree_v2\"))(kept))",
        "libcuda stand-in:",
    ),
    (
        "code is unloaded before it is used",
        "static long kept; int cuModuleLoadDataEx(ARGUMENTS) { int r = CALL(cuModuleLoadDataEx); kept = *(long *)a; return r; }
         CHANGED(cuGraphLaunch, if (n == 2) ((int (*)(long))dlsym(RTLD_NEXT, \"cuModuleUnload\"))(kept))",
        "libcuda stand-in:",
    ),
    ("memory is freed twice", "CHANGED(cuMemFree_v2, CALL(cuMemFree_v2))", "libcuda stand-in:"),
    ("a graph is destroyed twice", "CHANGED(cuGraphExecDestroy, CALL(cuGraphExecDestroy))", "libcuda stand-in:"),
    ("a stream is destroyed twice", "CHANGED(cuStreamDestroy_v2, CALL(cuStreamDestroy_v2))", "libcuda stand-in:"),
];

/// Runs the program with a library of this source in front of the stand-in.
fn run(dir: &Path, source: &str, seed: u32) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let (file, library) = (folder.path().join("mistake.c"), folder.path().join("libcuda.so"));
    std::fs::write(&file, format!("{PRELUDE}\n{source}\n")).unwrap();
    let standin = standin::library();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(&file);
    cc.arg("-Wl,--no-as-needed").arg(standin.join("libcuda.so.1")).arg("-ldl");
    assert!(cc.status().is_ok_and(|status| status.success()), "the C compiler fails for {source}");
    let mut command = command(dir, &SHORT);
    let path = std::env::join_paths([folder.path(), &standin]).unwrap();
    let settings = format!("leaks=1,seed={seed}");
    command.env("LD_LIBRARY_PATH", path).env("CUDA_STANDIN", settings).env("RIGC_CACHE", folder.path());
    wait(command.spawn().unwrap())
}

/// Each mistake is reported, under one of some seeds at the latest, and nothing is where there is none.
#[test]
fn mistakes_of_the_device_are_reported() {
    let dir = one_layer();
    for seed in 0..5 {
        let o = run(dir.path(), "CHANGED(cuGraphLaunch, )", seed);
        assert!(o.code == Some(0) && !o.err.contains("libcuda"), "{}", o.err);
    }
    for (name, source, words) in MISTAKES {
        let found = (0..4).any(|seed| {
            let o = run(dir.path(), source, seed);
            println!("{name}, seed {seed}: {:?}, {}", o.code, o.err.trim());
            o.err.contains(words) && o.code == Some(70)
        });
        assert!(found, "{name}");
    }
}
