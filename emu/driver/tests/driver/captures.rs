//! Streams that are captured: what becomes of what they are asked for, how they join, and what fails a capture.

use crate::child::{Context, clean, download, found, free, get, ok, upload};
use crate::graphs::Graph;
use crate::kernels::{Module, launch};
use crate::params;
use cudarc::driver::sys::{self as cu, CUresult, CUstreamCaptureMode as Mode, CUstreamCaptureStatus as Status};
use std::ffi::c_void;
use std::mem::zeroed;
use std::ptr::{null, null_mut};

fn stream(flags: u32) -> cu::CUstream {
    unsafe { get(|s| cu::cuStreamCreate(s, flags)) }
}

fn event() -> cu::CUevent {
    unsafe { get(|e| cu::cuEventCreate(e, 2)) }
}

fn begin(stream: cu::CUstream) {
    unsafe { ok(cu::cuStreamBeginCapture_v2(stream, Mode::CU_STREAM_CAPTURE_MODE_GLOBAL)) };
}

fn end(stream: cu::CUstream) -> Graph {
    Graph(unsafe { get(|g| cu::cuStreamEndCapture(stream, g)) })
}

fn status(stream: cu::CUstream) -> Status {
    unsafe {
        let mut status = Status::CU_STREAM_CAPTURE_STATUS_NONE;
        ok(cu::cuStreamIsCapturing(stream, &mut status));
        status
    }
}

/// A launch of one thread that may overlap the one before.
fn launch_early(f: cu::CUfunction, stream: cu::CUstream, params: &mut [*mut c_void]) {
    unsafe {
        let mut attribute: [cu::CUlaunchAttribute; 1] = zeroed();
        attribute[0].id = cu::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute[0].value.programmaticStreamSerializationAllowed = 1;
        let mut config: cu::CUlaunchConfig = zeroed();
        (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
        (config.blockDimX, config.blockDimY, config.blockDimZ) = (1, 1, 1);
        (config.hStream, config.attrs, config.numAttrs) = (stream, attribute.as_mut_ptr(), 1);
        ok(cu::cuLaunchKernelEx(&config, f, params.as_mut_ptr(), null_mut()));
    }
}

#[test]
fn a_stream_is_captured_and_its_graph_runs() {
    unsafe extern "C" fn double(data: *mut c_void) {
        let words = unsafe { std::slice::from_raw_parts_mut(data.cast::<u32>(), 32) };
        words.iter_mut().for_each(|w| *w *= 2);
    }
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (add, n, one) = (module.function("add"), 32_u32, 1_u32);
        let (a, s, e) = (upload(&[0_u32; 32]), stream(1), event());
        let mut words = [1_u32; 32];
        let at = words.as_mut_ptr().cast::<c_void>();
        begin(s);
        ok(cu::cuMemcpyHtoDAsync_v2(a, at, 128, s));
        ok(launch(add, (1, 32), s, params![a, n, one]));
        ok(cu::cuMemcpyDtoHAsync_v2(at, a, 128, s));
        ok(cu::cuLaunchHostFunc(s, Some(double), at));
        ok(cu::cuMemsetD32Async(a, 9, 16, s));
        ok(cu::cuEventRecordWithFlags(e, s, 1));
        ok(cu::cuStreamWaitEvent(s, e, 1));
        ok(cu::cuStreamWriteValue32_v2(s, a, 3, 0));
        let graph = end(s);
        let kinds: Vec<u32> = graph.nodes().iter().map(|&n| get(|t| cu::cuGraphNodeGetType(n, t)) as u32).collect();
        assert_eq!(kinds, [1, 0, 1, 3, 2, 7, 6, 12]);
        assert_eq!(graph.edges().len(), 7);
        assert_eq!(download::<u32>(a, 32), [0; 32]);
        let exec = graph.instantiate();
        exec.launch(s);
        ok(cu::cuEventSynchronize(e));
        ok(cu::cuStreamSynchronize(s));
        assert_eq!((words, download::<u32>(a, 2)), ([4; 32], vec![3, 9]));
        exec.launch(s);
        ok(cu::cuStreamSynchronize(s));
        assert_eq!(words, [10; 32]);
        drop((exec, graph));
        ok(cu::cuEventDestroy_v2(e));
        ok(cu::cuStreamDestroy_v2(s));
        free(a);
    });
}

#[test]
fn streams_join_a_capture_by_events() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (add, n, one) = (module.function("add"), 32_u32, 1_u32);
        let [a, b] = [(); 2].map(|()| upload(&[0_u32; 32]));
        let [x, y] = [(); 2].map(|()| stream(0));
        let [fork, join] = [(); 2].map(|()| event());
        begin(x);
        ok(launch(add, (1, 32), x, params![a, n, one]));
        ok(cu::cuEventRecord(fork, x));
        ok(cu::cuStreamWaitEvent(y, fork, 0));
        assert_eq!(status(y), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        ok(launch(add, (1, 32), y, params![b, n, one]));
        ok(cu::cuEventRecord(join, y));
        ok(launch(add, (1, 32), x, params![a, n, one]));
        ok(cu::cuStreamWaitEvent(x, join, 0));
        ok(launch(module.function("twice"), (1, 32), x, params![a, b]));
        let graph = end(x);
        let [p, q, r, t] = graph.nodes()[..] else { panic!() };
        let mut edges: Vec<_> = graph.edges().into_iter().map(|(from, to, _)| (from, to)).collect();
        edges.sort();
        assert_eq!(edges, [(p, q), (p, r), (q, t), (r, t)]);
        assert_eq!(status(y), Status::CU_STREAM_CAPTURE_STATUS_NONE);
        graph.run(1);
        assert_eq!(download::<u32>(b, 32), [4; 32]);
        // The host cannot ask for an event of a capture.
        let captured = CUresult::CUDA_ERROR_CAPTURED_EVENT;
        assert_eq!((cu::cuEventQuery(join), cu::cuEventSynchronize(join)), (captured, captured));
        assert_eq!(cu::cuStreamWaitEvent(y, join, 0), captured);
        ok(cu::cuEventRecord(join, y));
        ok(cu::cuEventSynchronize(join));
        drop(graph);
        [x, y].into_iter().for_each(|s| ok(cu::cuStreamDestroy_v2(s)));
        [fork, join].into_iter().for_each(|e| ok(cu::cuEventDestroy_v2(e)));
        [a, b].into_iter().for_each(free);
    });
}

#[test]
fn what_fails_a_capture_and_how() {
    use CUresult as R;
    clean("", || unsafe {
        let _context = Context::new();
        let (x, y, blocking) = (stream(1), stream(1), stream(0));
        let (outside, inside) = (event(), event());
        let a = upload(&[0_u32; 32]);
        ok(cu::cuEventRecord(outside, y));
        ok(cu::cuStreamSynchronize(y));
        let end = |s: cu::CUstream| {
            let mut graph = std::ptr::dangling_mut();
            let answer = cu::cuStreamEndCapture(s, &mut graph);
            assert_eq!((graph, status(s)), (null_mut(), Status::CU_STREAM_CAPTURE_STATUS_NONE));
            answer
        };
        let invalid = R::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        let mut made = 0;
        let cases: [(cu::CUstream, &mut dyn FnMut() -> R, R); 10] = [
            (x, &mut || cu::cuStreamSynchronize(x), R::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
            (x, &mut || cu::cuStreamQuery(x), R::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
            (x, &mut || cu::cuCtxSynchronize(), R::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
            (x, &mut || cu::cuEventQuery(outside), R::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
            (x, &mut || cu::cuMemAlloc_v2(&mut made, 8), R::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
            (x, &mut || cu::cuMemcpyDtoD_v2(a, a + 64, 64), R::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
            (x, &mut || cu::cuStreamWaitEvent(x, outside, 0), R::CUDA_ERROR_STREAM_CAPTURE_ISOLATION),
            (blocking, &mut || cu::cuMemsetD8Async(a, 1, 4, null_mut()), R::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT),
            (blocking, &mut || cu::cuMemcpyDtoD_v2(a, a + 64, 64), R::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT),
            (
                x,
                &mut || cu::cuStreamAddCallback(x, Some(never), null_mut(), 0),
                R::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            ),
        ];
        unsafe extern "C" fn never(_: cu::CUstream, _: R, _: *mut c_void) {}
        for (s, call, error) in cases {
            begin(s);
            assert_eq!(call(), error);
            assert_eq!(status(s), Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
            // What was failed before says so.
            assert_eq!(cu::cuMemsetD8Async(a, 1, 4, s), invalid);
            assert_eq!(end(s), invalid);
        }
        // A stream that joined and did not come back.
        begin(x);
        ok(cu::cuEventRecord(inside, x));
        ok(cu::cuStreamWaitEvent(y, inside, 0));
        ok(cu::cuMemsetD8Async(a, 1, 4, y));
        assert_eq!(end(x), R::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        // One that did not begin it.
        begin(x);
        ok(cu::cuEventRecord(inside, x));
        ok(cu::cuStreamWaitEvent(y, inside, 0));
        let mut graph = null_mut();
        assert_eq!(cu::cuStreamEndCapture(y, &mut graph), R::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        assert_eq!(end(x), invalid);
        // Two captures that meet.
        begin(x);
        begin(y);
        ok(cu::cuEventRecord(inside, x));
        assert_eq!(cu::cuStreamWaitEvent(y, inside, 0), R::CUDA_ERROR_STREAM_CAPTURE_MERGE);
        assert_eq!((end(x), end(y)), (invalid, invalid));
        // Twice, never, and where it cannot be.
        begin(x);
        let twice = cu::cuStreamBeginCapture_v2(x, Mode::CU_STREAM_CAPTURE_MODE_RELAXED);
        assert_eq!(twice, R::CUDA_ERROR_ILLEGAL_STATE);
        drop(self::end(x));
        assert_eq!(end(x), R::CUDA_ERROR_ILLEGAL_STATE);
        let legacy = cu::cuStreamBeginCapture_v2(null_mut(), Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
        assert_eq!(legacy, R::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        begin(blocking);
        let mut asked = Status::CU_STREAM_CAPTURE_STATUS_NONE;
        assert_eq!(cu::cuStreamIsCapturing(null_mut(), &mut asked), R::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        drop(self::end(blocking));
        // A stream that is destroyed takes its capture with it.
        begin(y);
        ok(cu::cuStreamDestroy_v2(y));
        [x, blocking].into_iter().for_each(|s| ok(cu::cuStreamDestroy_v2(s)));
        [inside, outside].into_iter().for_each(|e| ok(cu::cuEventDestroy_v2(e)));
        free(a);
    });
}

#[test]
fn threads_say_what_captures_of_others_mean_to_them() {
    clean("", || unsafe {
        let context = Context::new();
        let there = context.0 as usize;
        let s = stream(1);
        let elsewhere = |mode: Option<Mode>| {
            std::thread::spawn(move || {
                ok(cu::cuCtxSetCurrent(there as cu::CUcontext));
                if let Some(mut mode) = mode {
                    ok(cu::cuThreadExchangeStreamCaptureMode(&mut mode));
                    assert_eq!(mode, Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
                }
                let mut at = 0;
                let answer = cu::cuMemAlloc_v2(&mut at, 8);
                if answer == CUresult::CUDA_SUCCESS {
                    free(at);
                }
                answer
            })
            .join()
            .unwrap()
        };
        begin(s);
        assert_eq!(elsewhere(Some(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)), CUresult::CUDA_SUCCESS);
        assert_eq!(status(s), Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        assert_eq!(elsewhere(None), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(status(s), Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
        let mut none = null_mut();
        assert_eq!(cu::cuStreamEndCapture(s, &mut none), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        for mode in [Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, Mode::CU_STREAM_CAPTURE_MODE_RELAXED] {
            ok(cu::cuStreamBeginCapture_v2(s, mode));
            assert_eq!(elsewhere(None), CUresult::CUDA_SUCCESS);
            let number = s as usize;
            let other = std::thread::spawn(move || {
                let mut graph = null_mut();
                ok(cu::cuCtxSetCurrent(there as cu::CUcontext));
                (cu::cuStreamEndCapture(number as cu::CUstream, &mut graph), graph as usize)
            });
            match other.join().unwrap() {
                (CUresult::CUDA_SUCCESS, graph) => {
                    assert_eq!(mode, Mode::CU_STREAM_CAPTURE_MODE_RELAXED);
                    drop(Graph(graph as cu::CUgraph));
                }
                (answer, _) => {
                    assert_eq!(answer, CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
                    drop(end(s));
                }
            }
        }
        ok(cu::cuStreamDestroy_v2(s));
    });
}

#[test]
fn launches_that_overlap_have_programmatic_edges() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let early = module.function("early");
        let (a, s) = (upload(&[0_u32; 32]), stream(1));
        begin(s);
        // After what is no launch there is nothing to overlap.
        ok(cu::cuMemsetD32Async(a, 5, 32, s));
        launch_early(early, s, params![a]);
        launch_early(early, s, params![a]);
        ok(launch(early, (1, 1), s, params![a]));
        let graph = end(s);
        let data: Vec<_> = graph.edges().into_iter().map(|e| e.2).collect();
        assert_eq!(data, [[0, 0, 0], [1, 0, 1], [0, 0, 0]]);
        graph.run(2);
        assert_eq!(download::<u32>(a, 2), [8, 5]);
        drop(graph);
        ok(cu::cuStreamDestroy_v2(s));
        free(a);
    });
}

#[test]
fn captures_go_on_from_nodes_and_into_graphs() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (add, n, one) = (module.function("add"), 32_u32, 1_u32);
        let (a, s) = (upload(&[0_u32; 32]), stream(1));
        let inner = {
            begin(s);
            ok(launch(add, (1, 32), s, params![a, n, one]));
            end(s)
        };
        let exec = inner.instantiate();
        let graph = get(|g| cu::cuGraphCreate(g, 0));
        let first = get(|n| cu::cuGraphAddEmptyNode(n, graph, null(), 0));
        let mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        ok(cu::cuStreamBeginCaptureToGraph(s, graph, &first, null(), 1, mode));
        // A graph that is launched in a capture is part of it.
        exec.launch(s);
        let mut status = Status::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut id, mut into, mut nodes, mut count) = (0, null_mut(), null(), 0);
        ok(cu::cuStreamGetCaptureInfo_v3(s, &mut status, &mut id, &mut into, &mut nodes, null_mut(), &mut count));
        assert_eq!((status, into, count), (Status::CU_STREAM_CAPTURE_STATUS_ACTIVE, graph, 1));
        let kind = get(|t| cu::cuGraphNodeGetType(*nodes, t));
        assert_eq!(kind, cu::CUgraphNodeType::CU_GRAPH_NODE_TYPE_GRAPH);
        // A node of one's own beside it, and both before what comes.
        let mut own = get(|n| cu::cuGraphAddEmptyNode(n, graph, &first, 1));
        ok(cu::cuStreamUpdateCaptureDependencies_v2(s, &mut own, null(), 1, 0));
        ok(cu::cuStreamGetCaptureInfo_v3(s, &mut status, null_mut(), null_mut(), null_mut(), null_mut(), &mut count));
        assert_eq!(count, 2);
        assert_eq!(cu::cuGraphDestroy(graph), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(launch(add, (1, 32), s, params![a, n, one]));
        let last = end(s);
        assert_eq!((last.0, last.nodes().len(), last.edges().len()), (graph, 4, 4));
        let mut id_of_next = 0;
        begin(s);
        ok(cu::cuStreamGetCaptureInfo_v3(
            s,
            &mut status,
            &mut id_of_next,
            null_mut(),
            null_mut(),
            null_mut(),
            null_mut(),
        ));
        drop(end(s));
        assert!(id != id_of_next);
        last.run(2);
        assert_eq!(download::<u32>(a, 32), [4; 32]);
        drop((exec, inner, last));
        ok(cu::cuStreamDestroy_v2(s));
        free(a);
    });
}

#[test]
fn a_captured_copy_reads_its_source_when_the_graph_runs() {
    found("", &["cuGraphLaunch"], || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (n, one) = (32_u32, 1_u32);
        let (a, b) = (upload(&[0_u32; 32]), upload(&[0_u32; 32]));
        let (x, y) = (stream(1), stream(1));
        begin(x);
        ok(cu::cuMemcpyDtoDAsync_v2(b, a, 128, x));
        let graph = end(x);
        // The kernel in another stream writes what the graph reads.
        ok(launch(module.function("add"), (1, 32), y, params![a, n, one]));
        graph.instantiate().launch(x);
        ok(cu::cuCtxSynchronize());
    });
}

#[test]
fn memory_of_the_pool_is_not_allocated_in_a_capture() {
    clean("", || unsafe {
        let _context = Context::new();
        let s = stream(1);
        begin(s);
        let mut at = 0;
        assert_eq!(cu::cuMemAllocAsync(&mut at, 64, s), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        let mut none = null_mut();
        assert_eq!(cu::cuStreamEndCapture(s, &mut none), CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        ok(cu::cuStreamDestroy_v2(s));
    });
}
