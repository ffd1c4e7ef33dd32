//! Graphs of nodes: what they do, how they are asked and changed, and mistakes in them.

use crate::child::{Context, clean, download, found, free, get, ok, upload};
use crate::kernels::Module;
use crate::params;
use cudarc::driver::sys::{self as cu, CUgraphNodeType as T, CUresult};
use std::ffi::{CString, c_void};
use std::mem::zeroed;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};

/// A graph, destroyed at the end.
pub struct Graph(pub cu::CUgraph);

impl Graph {
    pub fn new() -> Graph {
        Graph(unsafe { get(|g| cu::cuGraphCreate(g, 0)) })
    }

    /// A launch of blocks of threads.
    pub fn kernel(
        &self,
        before: &[cu::CUgraphNode],
        f: cu::CUfunction,
        blocks: (u32, u32),
        params: &mut [*mut c_void],
    ) -> cu::CUgraphNode {
        let node = kernel(f, blocks, params);
        unsafe { get(|n| cu::cuGraphAddKernelNode_v2(n, self.0, before.as_ptr(), before.len(), &node)) }
    }

    /// A copy of bytes between addresses of the device, or of the host where they are 0.
    fn copy(&self, before: &[cu::CUgraphNode], copy: &cu::CUDA_MEMCPY3D) -> cu::CUgraphNode {
        unsafe { get(|n| cu::cuGraphAddMemcpyNode(n, self.0, before.as_ptr(), before.len(), copy, context())) }
    }

    fn fill(&self, before: &[cu::CUgraphNode], to: u64, value: u32, count: usize) -> cu::CUgraphNode {
        let fill = fill(to, value, count);
        unsafe { get(|n| cu::cuGraphAddMemsetNode(n, self.0, before.as_ptr(), before.len(), &fill, context())) }
    }

    fn empty(&self, before: &[cu::CUgraphNode]) -> cu::CUgraphNode {
        unsafe { get(|n| cu::cuGraphAddEmptyNode(n, self.0, before.as_ptr(), before.len())) }
    }

    pub fn nodes(&self) -> Vec<cu::CUgraphNode> {
        unsafe {
            let mut count = get(|n| cu::cuGraphGetNodes(self.0, null_mut(), n));
            // One more than there are is null.
            let mut nodes = vec![std::ptr::dangling_mut(); count + 1];
            count += 1;
            ok(cu::cuGraphGetNodes(self.0, nodes.as_mut_ptr(), &mut count));
            assert!(nodes.pop() == Some(null_mut()) && count == nodes.len());
            nodes
        }
    }

    pub fn edges(&self) -> Vec<(cu::CUgraphNode, cu::CUgraphNode, [u8; 3])> {
        unsafe {
            let mut count = get(|n| cu::cuGraphGetEdges_v2(self.0, null_mut(), null_mut(), null_mut(), n));
            let (mut from, mut to, mut data) =
                (vec![null_mut(); count], vec![null_mut(); count], vec![zeroed(); count]);
            ok(cu::cuGraphGetEdges_v2(self.0, from.as_mut_ptr(), to.as_mut_ptr(), data.as_mut_ptr(), &mut count));
            let data = data.iter().map(|d: &cu::CUgraphEdgeData| [d.from_port, d.to_port, d.type_]);
            from.into_iter().zip(to).zip(data).map(|((from, to), data)| (from, to, data)).collect()
        }
    }

    pub fn instantiate(&self) -> Exec {
        Exec(unsafe { get(|e| cu::cuGraphInstantiateWithFlags(e, self.0, 0)) })
    }

    /// Launches it some times in the default stream of the context, and waits.
    pub fn run(&self, times: u32) {
        let exec = self.instantiate();
        (0..times).for_each(|_| exec.launch(null_mut()));
        unsafe { ok(cu::cuCtxSynchronize()) };
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            unsafe { ok(cu::cuGraphDestroy(self.0)) };
        }
    }
}

/// An executable graph, destroyed at the end.
pub struct Exec(cu::CUgraphExec);

impl Exec {
    pub fn launch(&self, stream: cu::CUstream) {
        unsafe { ok(cu::cuGraphLaunch(self.0, stream)) };
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            unsafe { ok(cu::cuGraphExecDestroy(self.0)) };
        }
    }
}

fn context() -> cu::CUcontext {
    unsafe { get(|c| cu::cuCtxGetCurrent(c)) }
}

fn kernel(
    f: cu::CUfunction,
    (blocks, threads): (u32, u32),
    params: &mut [*mut c_void],
) -> cu::CUDA_KERNEL_NODE_PARAMS_v2 {
    let mut node: cu::CUDA_KERNEL_NODE_PARAMS_v2 = unsafe { zeroed() };
    (node.func, node.kernelParams) = (f, params.as_mut_ptr());
    (node.gridDimX, node.gridDimY, node.gridDimZ) = (blocks, 1, 1);
    (node.blockDimX, node.blockDimY, node.blockDimZ) = (threads, 1, 1);
    node
}

fn fill(to: u64, value: u32, count: usize) -> cu::CUDA_MEMSET_NODE_PARAMS {
    cu::CUDA_MEMSET_NODE_PARAMS { dst: to, pitch: 0, value, elementSize: 4, width: count, height: 1 }
}

/// A copy of bytes from the first side that is not null to such.
fn copy(
    (host, device): (*const c_void, u64),
    (to_host, to_device): (*mut c_void, u64),
    bytes: usize,
) -> cu::CUDA_MEMCPY3D {
    let kind = |host: bool| {
        if host { cu::CUmemorytype::CU_MEMORYTYPE_HOST } else { cu::CUmemorytype::CU_MEMORYTYPE_DEVICE }
    };
    // SAFETY: both kinds are set, and all else may be zero but for an enumeration without a zero, which is never read before.
    let mut copy = std::mem::MaybeUninit::<cu::CUDA_MEMCPY3D>::zeroed();
    unsafe {
        let c = copy.as_mut_ptr();
        (&raw mut (*c).srcMemoryType).write(kind(!host.is_null()));
        (&raw mut (*c).dstMemoryType).write(kind(!to_host.is_null()));
        let mut copy = copy.assume_init();
        (copy.srcHost, copy.srcDevice, copy.dstHost, copy.dstDevice) = (host, device, to_host, to_device);
        (copy.WidthInBytes, copy.Height, copy.Depth) = (bytes, 1, 1);
        copy
    }
}

const PROGRAMMATIC: cu::CUgraphEdgeData = cu::CUgraphEdgeData { from_port: 1, to_port: 0, type_: 1, reserved: [0; 5] };

#[test]
fn nodes_run_in_the_order_of_their_edges() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (add, n) = (module.function("add"), 64_u32);
        let (a, b) = (upload(&[0_u32; 64]), upload(&[0_u32; 64]));
        let (mut source, mut target) = (vec![0_u32; 64], vec![0_u32; 64]);
        let graph = Graph::new();
        let (at, back): (*const c_void, *mut c_void) = (source.as_ptr().cast(), target.as_mut_ptr().cast());
        let up = graph.copy(&[], &copy((at, 0), (null_mut(), a), 256));
        let clear = graph.fill(&[], b, 7, 64);
        // What a launch is given is copied when the node is made.
        let first = { graph.kernel(&[up], add, (2, 32), params![a, n, 1_u32]) };
        let second = graph.kernel(&[clear], add, (2, 32), params![b, n, 2_u32]);
        let join = graph.empty(&[first, second]);
        let over = graph.copy(&[join], &copy((null(), b), (null_mut(), a), 128));
        graph.copy(&[over], &copy((null(), a), (back, 0), 256));
        let exec = graph.instantiate();
        for round in 1..4_u32 {
            // The source is read when the graph runs.
            source.fill(10 * round);
            exec.launch(null_mut());
            ok(cu::cuCtxSynchronize());
            let want = [[9; 32], [10 * round + 1; 32]].concat();
            assert_eq!(target, want);
        }
        drop(exec);
        free(a);
        free(b);
    });
}

#[test]
fn every_kind_of_node_is_made_by_one_call() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn count(data: *mut c_void) {
        CALLS.fetch_add(data as usize as u32, Ordering::SeqCst);
    }
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (add, n, one) = (module.function("add"), 32_u32, 1_u32);
        let (a, word) = (upload(&[0_u32; 32]), upload(&[0_u32; 2]));
        let event = get(|e| cu::cuEventCreate(e, 0));
        let (graph, inner) = (Graph::new(), Graph::new());
        inner.kernel(&[], add, (1, 32), params![a, n, one]);
        let mut last: Vec<cu::CUgraphNode> = Vec::new();
        let mut add_node = |kind: T, set: &mut dyn FnMut(&mut cu::CUgraphNodeParams)| {
            let mut params: cu::CUgraphNodeParams = zeroed();
            params.type_ = kind;
            set(&mut params);
            let node = get(|n| cu::cuGraphAddNode_v2(n, graph.0, last.as_ptr(), null(), last.len(), &mut params));
            assert_eq!(get(|t| cu::cuGraphNodeGetType(node, t)), kind);
            last = vec![node];
        };
        add_node(T::CU_GRAPH_NODE_TYPE_MEMSET, &mut |p| {
            p.__bindgen_anon_1.memset.dst = a;
            (p.__bindgen_anon_1.memset.value, p.__bindgen_anon_1.memset.elementSize) = (5, 4);
            (p.__bindgen_anon_1.memset.width, p.__bindgen_anon_1.memset.height) = (32, 1);
        });
        let values = params![a, n, one];
        add_node(T::CU_GRAPH_NODE_TYPE_KERNEL, &mut |p| {
            let k = kernel(add, (1, 32), values);
            p.__bindgen_anon_1.kernel.func = k.func;
            p.__bindgen_anon_1.kernel.kernelParams = k.kernelParams;
            (p.__bindgen_anon_1.kernel.gridDimX, p.__bindgen_anon_1.kernel.blockDimX) = (1, 32);
            (p.__bindgen_anon_1.kernel.gridDimY, p.__bindgen_anon_1.kernel.blockDimY) = (1, 1);
            (p.__bindgen_anon_1.kernel.gridDimZ, p.__bindgen_anon_1.kernel.blockDimZ) = (1, 1);
        });
        add_node(T::CU_GRAPH_NODE_TYPE_GRAPH, &mut |p| p.__bindgen_anon_1.graph.graph = inner.0);
        add_node(T::CU_GRAPH_NODE_TYPE_EMPTY, &mut |_| {});
        add_node(T::CU_GRAPH_NODE_TYPE_EVENT_RECORD, &mut |p| p.__bindgen_anon_1.eventRecord.event = event);
        add_node(T::CU_GRAPH_NODE_TYPE_WAIT_EVENT, &mut |p| p.__bindgen_anon_1.eventWait.event = event);
        let mut batch: [cu::CUstreamBatchMemOpParams; 2] = zeroed();
        batch[0].writeValue.operation = cu::CUstreamBatchMemOpType::CU_STREAM_MEM_OP_WRITE_VALUE_32;
        (batch[0].writeValue.address, batch[0].writeValue.__bindgen_anon_1.value) = (word, 3);
        batch[1].waitValue.operation = cu::CUstreamBatchMemOpType::CU_STREAM_MEM_OP_WAIT_VALUE_32;
        (batch[1].waitValue.address, batch[1].waitValue.__bindgen_anon_1.value) = (word, 2);
        add_node(T::CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, &mut |p| {
            (p.__bindgen_anon_1.memOp.count, p.__bindgen_anon_1.memOp.paramArray) = (2, batch.as_mut_ptr());
        });
        add_node(T::CU_GRAPH_NODE_TYPE_MEMCPY, &mut |p| {
            p.__bindgen_anon_1.memcpy.copyParams = copy((null(), a), (null_mut(), word + 4), 4);
        });
        add_node(T::CU_GRAPH_NODE_TYPE_HOST, &mut |p| {
            p.__bindgen_anon_1.host.fn_ = Some(count);
            p.__bindgen_anon_1.host.userData = 2 as *mut c_void;
        });
        graph.run(2);
        assert_eq!((download::<u32>(word, 2), CALLS.load(Ordering::SeqCst)), (vec![3, 7], 4));
        ok(cu::cuEventSynchronize(event));
        ok(cu::cuEventDestroy_v2(event));
        free(a);
        free(word);
    });
}

#[test]
fn edges_are_asked_for_and_changed() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let a = upload(&[0_u32; 32]);
        let graph = Graph::new();
        let [x, y] = [(); 2].map(|()| graph.kernel(&[], module.function("early"), (1, 1), params![a]));
        let z = graph.empty(&[]);
        let connect = |from: cu::CUgraphNode, to: cu::CUgraphNode, data: *const cu::CUgraphEdgeData| {
            cu::cuGraphAddDependencies_v2(graph.0, &from, &to, data, 1)
        };
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        ok(connect(x, y, &PROGRAMMATIC));
        ok(connect(y, z, null()));
        assert_eq!(graph.edges(), [(x, y, [1, 0, 1]), (y, z, [0, 0, 0])]);
        // Twice, to itself, in a circle, programmatic to what is no kernel, an edge of another graph.
        assert_eq!(connect(x, y, null()), invalid);
        assert_eq!(connect(x, x, null()), invalid);
        assert_eq!(connect(z, x, null()), invalid);
        assert_eq!(connect(x, z, &PROGRAMMATIC), invalid);
        let other = Graph::new();
        assert_eq!(connect(x, other.empty(&[]), null()), invalid);
        assert_eq!(graph.edges().len(), 2);

        // Without a place for the data of edges, they have to be plain.
        let lossy = CUresult::CUDA_ERROR_LOSSY_QUERY;
        let (mut nodes, mut to, mut count) = ([null_mut(); 2], [null_mut(); 2], 2);
        assert_eq!(cu::cuGraphGetEdges_v2(graph.0, nodes.as_mut_ptr(), to.as_mut_ptr(), null_mut(), &mut count), lossy);
        assert_eq!(cu::cuGraphNodeGetDependencies_v2(y, nodes.as_mut_ptr(), null_mut(), &mut count), lossy);
        assert_eq!(cu::cuGraphNodeGetDependentNodes_v2(x, nodes.as_mut_ptr(), null_mut(), &mut count), lossy);
        ok(cu::cuGraphNodeGetDependencies_v2(z, nodes.as_mut_ptr(), null_mut(), &mut count));
        assert_eq!((nodes, count), ([y, null_mut()], 1));
        assert_eq!(get(|n| cu::cuGraphNodeGetDependencies_v2(y, null_mut(), null_mut(), n)), 1);
        let mut data = [zeroed::<cu::CUgraphEdgeData>(); 1];
        count = 1;
        ok(cu::cuGraphNodeGetDependentNodes_v2(x, nodes.as_mut_ptr(), data.as_mut_ptr(), &mut count));
        assert_eq!((nodes[0], data[0]), (y, PROGRAMMATIC));
        count = 2;
        ok(cu::cuGraphGetRootNodes(graph.0, nodes.as_mut_ptr(), &mut count));
        assert_eq!((nodes, count), ([x, null_mut()], 1));

        // An edge is removed with its data.
        assert_eq!(cu::cuGraphRemoveDependencies_v2(graph.0, &x, &y, null(), 1), invalid);
        ok(cu::cuGraphRemoveDependencies_v2(graph.0, &x, &y, &PROGRAMMATIC, 1));
        ok(cu::cuGraphDestroyNode(z));
        assert!(graph.edges().is_empty() && graph.nodes() == [x, y]);
        free(a);
    });
}

#[test]
fn a_kernel_that_waits_may_begin_early() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let a = upload(&[0_u32; 32]);
        let graph = Graph::new();
        let mut last = graph.kernel(&[], module.function("early"), (1, 1), params![a]);
        for _ in 0..3 {
            let next = graph.kernel(&[], module.function("early"), (1, 1), params![a]);
            ok(cu::cuGraphAddDependencies_v2(graph.0, &last, &next, &PROGRAMMATIC, 1));
            last = next;
        }
        graph.run(2);
        assert_eq!(download::<u32>(a, 1), [8]);
        free(a);
    });
}

#[test]
fn a_kernel_that_begins_early_and_does_not_wait() {
    found("", &["cuGraphLaunch", "kernel node"], || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (a, n, one) = (upload(&[0_u32; 32]), 32_u32, 1_u32);
        let graph = Graph::new();
        // It lets the next one begin before it has written.
        let text = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry hasty(.param .u64 p) {
            .reg .b64 %rd; griddepcontrol.launch_dependents; ld.param.u64 %rd, [p]; st.global.u32 [%rd], 9; ret; }";
        let hasty = Module::of(text);
        let first = graph.kernel(&[], hasty.function("hasty"), (1, 32), params![a]);
        let next = graph.kernel(&[], module.function("add"), (1, 32), params![a, n, one]);
        ok(cu::cuGraphAddDependencies_v2(graph.0, &first, &next, &PROGRAMMATIC, 1));
        graph.run(1);
    });
}

#[test]
fn a_missing_edge() {
    found("", &["cuGraphLaunch", "kernel node"], || {
        let _context = Context::new();
        let module = Module::new();
        let (a, n, one) = (upload(&[0_u32; 32]), 32_u32, 1_u32);
        let graph = Graph::new();
        graph.kernel(&[], module.function("add"), (1, 32), params![a, n, one]);
        graph.kernel(&[], module.function("add"), (1, 32), params![a, n, one]);
        graph.run(1);
    });
}

#[test]
fn a_copy_that_does_not_wait_for_a_kernel() {
    found("", &["cuGraphLaunch"], || {
        let _context = Context::new();
        let module = Module::new();
        let (a, n, one) = (upload(&[0_u32; 32]), 32_u32, 1_u32);
        let b = upload(&[0_u32; 32]);
        let graph = Graph::new();
        graph.kernel(&[], module.function("add"), (1, 32), params![a, n, one]);
        graph.copy(&[], &copy((null(), a), (null_mut(), b), 128));
        graph.run(1);
    });
}

#[test]
fn launches_of_one_graph_do_not_overlap_and_those_of_two_do() {
    let two = |same: bool| unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (a, n, one) = (upload(&[0_u32; 32]), 32_u32, 1_u32);
        let graph = Graph::new();
        graph.kernel(&[], module.function("add"), (1, 32), params![a, n, one]);
        let (x, y) = (graph.instantiate(), graph.instantiate());
        let streams = [(); 2].map(|()| get(|s| cu::cuStreamCreate(s, 1)));
        for _ in 0..2 {
            x.launch(streams[0]);
            (if same { &x } else { &y }).launch(streams[1]);
        }
        // An executable graph may be destroyed while it runs.
        drop((x, y));
        ok(cu::cuCtxSynchronize());
        assert_eq!(download::<u32>(a, 32), [4; 32]);
        streams.into_iter().for_each(|s| ok(cu::cuStreamDestroy_v2(s)));
        free(a);
    };
    clean("", || two(true));
}

#[test]
fn launches_of_two_graphs_that_write_the_same() {
    found("", &["cuGraphLaunch"], || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (a, n, one) = (upload(&[0_u32; 32]), 32_u32, 1_u32);
        let graph = Graph::new();
        graph.kernel(&[], module.function("add"), (1, 32), params![a, n, one]);
        let (x, y) = (graph.instantiate(), graph.instantiate());
        x.launch(get(|s| cu::cuStreamCreate(s, 1)));
        y.launch(get(|s| cu::cuStreamCreate(s, 1)));
        ok(cu::cuCtxSynchronize());
    });
}

#[test]
fn parameters_are_changed_in_the_graph_or_in_what_was_made_of_it() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (add, n) = (module.function("add"), 32_u32);
        let a = upload(&[0_u32; 32]);
        let graph = Graph::new();
        let node = graph.kernel(&[], add, (1, 32), params![a, n, 1_u32]);
        let exec = graph.instantiate();
        let total = |want: u32| {
            exec.launch(null_mut());
            assert_eq!(download::<u32>(a, 32), [want; 32]);
        };
        total(1);
        ok(cu::cuGraphKernelNodeSetParams_v2(node, &kernel(add, (1, 32), params![a, n, 10_u32])));
        total(2);
        ok(cu::cuGraphExecKernelNodeSetParams_v2(exec.0, node, &kernel(add, (1, 32), params![a, n, 100_u32])));
        total(102);
        let mut info: cu::CUgraphExecUpdateResultInfo = zeroed();
        ok(cu::cuGraphExecUpdate_v2(exec.0, graph.0, &mut info));
        assert_eq!(info.result as u32, 0);
        total(112);
        let got = get(|p| cu::cuGraphKernelNodeGetParams_v2(node, p));
        assert_eq!((got.func, got.gridDimX, got.blockDimX, got.extra), (add, 1, 32, null_mut()));
        let value = **got.kernelParams.add(2).cast::<*const u32>();
        assert_eq!((**got.kernelParams.cast::<*const u64>(), value), (a, 10));
        // Switched off, it does nothing.
        ok(cu::cuGraphNodeSetEnabled(exec.0, node, 0));
        assert_eq!(get(|e| cu::cuGraphNodeGetEnabled(exec.0, node, e)), 0);
        total(112);
        // Of another kind, of another function, or beyond the card.
        let wrong = cu::cuGraphExecMemsetNodeSetParams(exec.0, node, &fill(a, 0, 32), context());
        assert_eq!(wrong, CUresult::CUDA_ERROR_INVALID_VALUE);
        let mut large = kernel(add, (1, 32), params![a, n, 1_u32]);
        large.blockDimX = 2048;
        assert_eq!(cu::cuGraphKernelNodeSetParams_v2(node, &large), CUresult::CUDA_ERROR_INVALID_VALUE);
        free(a);
    });
}

#[test]
fn a_graph_that_has_changed_too_much_is_said_to_have() {
    clean("", || unsafe {
        let _context = Context::new();
        let (a, b) = (upload(&[0_u32; 32]), upload(&[0_u32; 32]));
        let base = || {
            let graph = Graph::new();
            let x = graph.fill(&[], a, 1, 32);
            let y = graph.copy(&[x], &copy((null(), a), (null_mut(), b), 128));
            (graph, x, y)
        };
        let (graph, x, y) = base();
        let exec = graph.instantiate();
        let update = |graph: &Graph| {
            let mut info: cu::CUgraphExecUpdateResultInfo = zeroed();
            let answer = cu::cuGraphExecUpdate_v2(exec.0, graph.0, &mut info);
            assert_eq!(answer == CUresult::CUDA_SUCCESS, info.result as u32 == 0, "{answer:?}");
            (info.result as u32, info.errorNode)
        };
        assert_eq!(update(&base().0), (0, null_mut()));
        let (more, ..) = base();
        let extra = more.empty(&[]);
        assert_eq!(update(&more), (2, extra));
        let (fewer, _, last) = base();
        ok(cu::cuGraphDestroyNode(last));
        assert_eq!(update(&fewer).0, 2);
        let (loose, from, to) = base();
        ok(cu::cuGraphRemoveDependencies_v2(loose.0, &from, &to, null(), 1));
        assert_eq!(update(&loose), (2, to));
        let other = Graph::new();
        let first = other.empty(&[]);
        other.copy(&[first], &copy((null(), a), (null_mut(), b), 128));
        assert_eq!(update(&other), (3, first));
        // A copy may move elsewhere, but not become one from the host, or of rows.
        let words = [1_u32; 32];
        let host = copy((words.as_ptr().cast(), 0), (null_mut(), b), 128);
        let refused = |c: &cu::CUDA_MEMCPY3D| cu::cuGraphExecMemcpyNodeSetParams(exec.0, y, c, context());
        assert_eq!(refused(&host), CUresult::CUDA_ERROR_INVALID_VALUE);
        let mut rows = copy((null(), a), (null_mut(), b), 8);
        (rows.Height, rows.srcPitch, rows.dstPitch) = (2, 8, 8);
        assert_eq!(refused(&rows), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(refused(&copy((null(), b), (null_mut(), a), 4)));
        ok(cu::cuGraphExecMemsetNodeSetParams(exec.0, x, &fill(b, 8, 32), context()));
        exec.launch(null_mut());
        assert_eq!(download::<u32>(a, 2), [8, 0]);
        free(a);
        free(b);
    });
}

#[test]
fn what_nodes_were_made_of_is_given_back() {
    clean("", || unsafe {
        let _context = Context::new();
        let at = upload(&[0_u32; 64]);
        let graph = Graph::new();
        let mut copied = copy((null(), at), (null_mut(), at + 128), 8);
        (copied.Height, copied.srcPitch, copied.dstPitch, copied.srcXInBytes) = (3, 16, 32, 4);
        let node = graph.copy(&[], &copied);
        let got = get(|c| cu::cuGraphMemcpyNodeGetParams(node, c));
        assert_eq!((got.WidthInBytes, got.Height, got.Depth, got.srcPitch, got.dstPitch), (8, 3, 1, 16, 32));
        assert_eq!(got.srcDevice + got.srcXInBytes as u64, at + 4);
        let filled = get(|f| cu::cuGraphMemsetNodeGetParams(graph.fill(&[], at, 6, 10), f));
        assert_eq!((filled.dst, filled.value, filled.elementSize, filled.width, filled.height), (at, 6, 4, 10, 1));
        let mut batch: [cu::CUstreamBatchMemOpParams; 1] = zeroed();
        batch[0].waitValue.operation = cu::CUstreamBatchMemOpType::CU_STREAM_MEM_OP_WAIT_VALUE_64;
        (batch[0].waitValue.address, batch[0].waitValue.__bindgen_anon_1.value64) = (at, 1 << 40);
        batch[0].waitValue.flags = 2;
        let mut params: cu::CUDA_BATCH_MEM_OP_NODE_PARAMS = zeroed();
        (params.count, params.paramArray) = (1, batch.as_mut_ptr());
        let node = get(|n| cu::cuGraphAddBatchMemOpNode(n, graph.0, null(), 0, &params));
        let got = get(|p| cu::cuGraphBatchMemOpNodeGetParams(node, p));
        let wait = (*got.paramArray).waitValue;
        assert_eq!((got.count, wait.address, wait.flags, wait.__bindgen_anon_1.value64), (1, at, 2, 1 << 40));
        assert_eq!(wait.operation, cu::CUstreamBatchMemOpType::CU_STREAM_MEM_OP_WAIT_VALUE_64);
        free(at);
    });
}

#[test]
fn attributes_of_kernels_are_kept() {
    use cu::CUlaunchAttributeID as A;
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let a = upload(&[0_u32; 32]);
        let graph = Graph::new();
        let [x, y] = [(); 2].map(|()| graph.kernel(&[], module.function("scaled"), (1, 32), params![a]));
        let get_attribute = |node, id| get(|v| cu::cuGraphKernelNodeGetAttribute(node, id, v));
        let mut value: cu::CUlaunchAttributeValue = zeroed();
        value.priority = -2;
        ok(cu::cuGraphKernelNodeSetAttribute(x, A::CU_LAUNCH_ATTRIBUTE_PRIORITY, &value));
        value.cooperative = 1;
        ok(cu::cuGraphKernelNodeSetAttribute(x, A::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &value));
        ok(cu::cuGraphKernelNodeCopyAttributes(y, x));
        for node in [x, y] {
            assert_eq!(get_attribute(node, A::CU_LAUNCH_ATTRIBUTE_PRIORITY).priority, -2);
            assert_eq!(get_attribute(node, A::CU_LAUNCH_ATTRIBUTE_COOPERATIVE).cooperative, 1);
            assert_eq!(get_attribute(node, A::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN).pad, [0; 64]);
        }
        let event = cu::cuGraphKernelNodeSetAttribute(x, A::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT, &value);
        assert_eq!(event, CUresult::CUDA_ERROR_INVALID_VALUE);
        value.clusterDim = cu::CUlaunchAttributeValue_union__bindgen_ty_1 { x: 2, y: 1, z: 1 };
        let cluster = cu::cuGraphKernelNodeSetAttribute(x, A::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, &value);
        assert_eq!(cluster, CUresult::CUDA_ERROR_NOT_SUPPORTED);
        free(a);
    });
}

#[test]
fn cooperative_kernels_have_to_fit_when_a_graph_is_instantiated() {
    clean("card=a100", || unsafe {
        let _context = Context::new();
        let module = Module::new_for("sm_80");
        let a = upload(&[0_u32]);
        for (blocks, expected) in
            [(2 * 108 + 1, CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE), (2 * 108, CUresult::CUDA_SUCCESS)]
        {
            let graph = Graph::new();
            let node = graph.kernel(&[], module.function("shared"), (blocks, 1024), params![a]);
            let mut value: cu::CUlaunchAttributeValue = zeroed();
            value.cooperative = 1;
            let cooperative = cu::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
            ok(cu::cuGraphKernelNodeSetAttribute(node, cooperative, &value));
            let mut exec = null_mut();
            assert_eq!(cu::cuGraphInstantiateWithFlags(&mut exec, graph.0, 0), expected);
            if expected == CUresult::CUDA_SUCCESS {
                ok(cu::cuGraphExecDestroy(exec));
            }
        }
        free(a);
    });
}

#[test]
fn graphs_within_graphs_are_copies() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let (add, n) = (module.function("add"), 32_u32);
        let a = upload(&[0_u32; 32]);
        let (outer, inner) = (Graph::new(), Graph::new());
        let node = inner.kernel(&[], add, (1, 32), params![a, n, 1_u32]);
        let clone = Graph(get(|g| cu::cuGraphClone(g, inner.0)));
        let twin = get(|n| cu::cuGraphNodeFindInClone(n, node, clone.0));
        assert!(twin != node && clone.nodes() == [twin]);
        let first = get(|n| cu::cuGraphAddChildGraphNode(n, outer.0, null(), 0, inner.0));
        get(|n| cu::cuGraphAddChildGraphNode(n, outer.0, &first, 1, clone.0));
        // The copies do not change.
        ok(cu::cuGraphKernelNodeSetParams_v2(node, &kernel(add, (1, 32), params![a, n, 50_u32])));
        let exec = outer.instantiate();
        exec.launch(null_mut());
        assert_eq!(download::<u32>(a, 32), [2; 32]);
        let within = get(|g| cu::cuGraphChildGraphNodeGetGraph(first, g));
        assert_eq!(cu::cuGraphDestroy(within), CUresult::CUDA_ERROR_INVALID_VALUE);
        let mut count = 1;
        let mut only = null_mut();
        ok(cu::cuGraphGetNodes(within, &mut only, &mut count));
        // By the node within, or all at once.
        ok(cu::cuGraphExecKernelNodeSetParams_v2(exec.0, only, &kernel(add, (1, 32), params![a, n, 10_u32])));
        exec.launch(null_mut());
        assert_eq!(download::<u32>(a, 32), [13; 32]);
        ok(cu::cuGraphExecChildGraphNodeSetParams(exec.0, first, inner.0));
        exec.launch(null_mut());
        assert_eq!(download::<u32>(a, 32), [64; 32]);
        free(a);
    });
}

#[test]
fn objects_live_as_long_as_graphs_refer_to_them() {
    static GONE: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn gone(data: *mut c_void) {
        GONE.fetch_add(data as usize as u32, Ordering::SeqCst);
    }
    clean("", || unsafe {
        let _context = Context::new();
        let graph = Graph::new();
        graph.empty(&[]);
        let mut object = null_mut();
        ok(cu::cuUserObjectCreate(&mut object, 5 as *mut c_void, Some(gone), 2, 1));
        // One of the two references becomes the graph's.
        ok(cu::cuGraphRetainUserObject(graph.0, object, 1, 1));
        ok(cu::cuUserObjectRelease(object, 1));
        let exec = graph.instantiate();
        exec.launch(null_mut());
        drop(graph);
        ok(cu::cuCtxSynchronize());
        assert_eq!(GONE.load(Ordering::SeqCst), 0);
        drop(exec);
        ok(cu::cuCtxSynchronize());
        assert_eq!(GONE.load(Ordering::SeqCst), 5);
    });
}

#[test]
fn a_graph_is_drawn() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let a = upload(&[0_u32; 32]);
        let graph = Graph::new();
        let x = graph.kernel(&[], module.function("scaled"), (1, 32), params![a]);
        graph.empty(&[x]);
        let path = tempfile::tempdir().unwrap().path().with_extension("dot");
        let name = CString::new(path.to_str().unwrap()).unwrap();
        ok(cu::cuGraphDebugDotPrint(graph.0, name.as_ptr(), 0));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("digraph") && text.contains("scaled") && text.matches("->").count() == 1, "{text}");
        free(a);
    });
}

#[test]
fn memory_that_was_freed_before_the_launch() {
    found("", &["cuGraphLaunch", "node", "cuMemFree_v2 has freed"], || unsafe {
        let _context = Context::new();
        let a = upload(&[0_u32; 32]);
        let graph = Graph::new();
        graph.fill(&[], a, 1, 32);
        let exec = graph.instantiate();
        free(a);
        _ = cu::cuGraphLaunch(exec.0, null_mut());
    });
}

#[test]
fn a_kernel_whose_module_was_unloaded() {
    found("", &["cuGraphLaunch", "function", "gone"], || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let a = upload(&[0_u32; 32]);
        let graph = Graph::new();
        graph.kernel(&[], module.function("scaled"), (1, 32), params![a]);
        let exec = graph.instantiate();
        drop(module);
        _ = cu::cuGraphLaunch(exec.0, null_mut());
    });
}

#[test]
fn an_event_that_was_destroyed_before_the_launch() {
    found("", &["cuGraphLaunch", "event", "gone"], || unsafe {
        let _context = Context::new();
        let event = get(|e| cu::cuEventCreate(e, 0));
        let graph = Graph::new();
        get(|n| cu::cuGraphAddEventRecordNode(n, graph.0, null(), 0, event));
        let exec = graph.instantiate();
        ok(cu::cuEventDestroy_v2(event));
        _ = cu::cuGraphLaunch(exec.0, null_mut());
    });
}

#[test]
fn handles_of_what_is_gone() {
    found("", &["cuGraphLaunch", "executable graph", "gone"], || unsafe {
        let _context = Context::new();
        let graph = Graph::new();
        let exec = graph.instantiate();
        let handle = exec.0;
        drop(exec);
        _ = cu::cuGraphLaunch(handle, null_mut());
    });
}

#[test]
fn a_graph_that_is_destroyed_twice() {
    found("", &["cuGraphDestroy", "gone"], || unsafe {
        let _context = Context::new();
        let graph = get(|g| cu::cuGraphCreate(g, 0));
        ok(cu::cuGraphDestroy(graph));
        _ = cu::cuGraphDestroy(graph);
    });
}

#[test]
fn graphs_that_are_held_at_exit() {
    found("leaks=1", &["held at exit", "graph (cuGraphCreate)", "executable graph"], || {
        let _context = Context::new();
        let graph = Graph::new();
        std::mem::forget(graph.instantiate());
        std::mem::forget(graph);
    });
}

#[test]
fn what_a_graph_cannot_have_is_said() {
    clean("", || unsafe {
        let _context = Context::new();
        let graph = Graph::new();
        let mut params: cu::CUgraphNodeParams = zeroed();
        let mut node = null_mut();
        params.type_ = T::CU_GRAPH_NODE_TYPE_CONDITIONAL;
        let answer = cu::cuGraphAddNode_v2(&mut node, graph.0, null(), null(), 0, &mut params);
        assert_eq!(answer, CUresult::CUDA_ERROR_NOT_SUPPORTED);
        assert!(graph.nodes().is_empty());
    });
}
