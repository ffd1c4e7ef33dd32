//! Recorded commands: bound to addresses, as calls of a stream or as a graph of explicit nodes.
//!
//! The nodes of a graph form a chain. An edge between two launches, of which the second may begin early, is programmatic:
//! it begins once every CTA of the first has let it, and waits for the first at its `griddepcontrol.wait`. Explicit nodes,
//! as capturing a stream loses such edges on some drivers. Invariant: what nodes and calls point to stays where it is as
//! long as the recording lives. Next hop: the driver.

use super::driver::{self, Failure, out};
use cudarc::driver::sys;
use std::ffi::{c_uint, c_void};

/// The end of a copy.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Memory of the card.
    Card(sys::CUdeviceptr),
    /// Pinned memory.
    Host(*mut c_void),
}

/// A command, bound to addresses.
pub(super) enum Bound {
    Copy {
        from: End,
        to: End,
        bytes: usize,
    },
    Launch {
        function: sys::CUfunction,
        ctas: c_uint,
        threads: c_uint,
        shared: c_uint,
        early: bool,
        /// The kernel's parameters, of 8 bytes each.
        _params: Box<[u64]>,
        /// Where each is.
        pointers: Box<[*mut c_void]>,
    },
}

impl Bound {
    pub fn launch(
        function: sys::CUfunction,
        (ctas, threads, shared): (c_uint, c_uint, c_uint),
        early: bool,
        params: Vec<u64>,
    ) -> Bound {
        let mut params: Box<[u64]> = params.into();
        let pointers = params.iter_mut().map(|p| std::ptr::from_mut(p).cast()).collect();
        Bound::Launch { function, ctas, threads, shared, early, _params: params, pointers }
    }

    /// Does it on a stream.
    pub fn submit(&mut self, stream: sys::CUstream) -> Result<(), Failure> {
        match self {
            Bound::Copy { from, to, bytes } => copy(*from, *to, *bytes, stream),
            Bound::Launch { function, ctas, threads, shared, early, pointers, .. } => {
                // SAFETY: the structure is plain figures and pointers, of which zero is a value.
                let mut attribute = unsafe { std::mem::zeroed::<sys::CUlaunchAttribute>() };
                attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
                attribute.value.programmaticStreamSerializationAllowed = 1;
                let config = sys::CUlaunchConfig {
                    gridDimX: *ctas,
                    gridDimY: 1,
                    gridDimZ: 1,
                    blockDimX: *threads,
                    blockDimY: 1,
                    blockDimZ: 1,
                    sharedMemBytes: *shared,
                    hStream: stream,
                    attrs: &mut attribute,
                    numAttrs: (*early).into(),
                };
                let none = std::ptr::null_mut();
                // SAFETY: the function is of a loaded module, and has as many parameters of 8 bytes as there are pointers.
                unsafe { driver::cuLaunchKernelEx(&config, *function, pointers.as_mut_ptr(), none) }
            }
        }
    }

    /// What a node of a graph does.
    fn node(&mut self, context: sys::CUcontext) -> sys::CUgraphNodeParams {
        // SAFETY: the structures are plain figures, pointers and enumerations that have a zero.
        let mut node = unsafe { std::mem::zeroed::<sys::CUgraphNodeParams>() };
        match self {
            Bound::Copy { from, to, bytes } => {
                node.type_ = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMCPY;
                // Memory types have no zero, so they are set before the structure is one.
                let mut copy = std::mem::MaybeUninit::<sys::CUDA_MEMCPY3D>::zeroed();
                let place = copy.as_mut_ptr();
                let (card, host) = (sys::CUmemorytype::CU_MEMORYTYPE_DEVICE, sys::CUmemorytype::CU_MEMORYTYPE_HOST);
                // SAFETY: the fields lie in the structure, and what is left are figures and pointers, of which zero is a value.
                let copy = unsafe {
                    match *from {
                        End::Card(address) => ((*place).srcMemoryType, (*place).srcDevice) = (card, address),
                        End::Host(address) => ((*place).srcMemoryType, (*place).srcHost) = (host, address),
                    }
                    match *to {
                        End::Card(address) => ((*place).dstMemoryType, (*place).dstDevice) = (card, address),
                        End::Host(address) => ((*place).dstMemoryType, (*place).dstHost) = (host, address),
                    }
                    ((*place).WidthInBytes, (*place).Height, (*place).Depth) = (*bytes, 1, 1);
                    copy.assume_init()
                };
                node.__bindgen_anon_1.memcpy =
                    sys::CUDA_MEMCPY_NODE_PARAMS { flags: 0, reserved: 0, copyCtx: context, copyParams: copy };
            }
            Bound::Launch { function, ctas, threads, shared, pointers, .. } => {
                node.type_ = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL;
                node.__bindgen_anon_1.kernel = sys::CUDA_KERNEL_NODE_PARAMS_v3 {
                    func: *function,
                    gridDimX: *ctas,
                    gridDimY: 1,
                    gridDimZ: 1,
                    blockDimX: *threads,
                    blockDimY: 1,
                    blockDimZ: 1,
                    sharedMemBytes: *shared,
                    kernelParams: pointers.as_mut_ptr(),
                    extra: std::ptr::null_mut(),
                    kern: std::ptr::null_mut(),
                    ctx: context,
                };
            }
        }
        node
    }
}

/// Copies bytes, on a stream.
pub(super) fn copy(from: End, to: End, bytes: usize, stream: sys::CUstream) -> Result<(), Failure> {
    // SAFETY: both ends are living memory of so many bytes, which the device checks.
    unsafe {
        match (from, to) {
            (End::Host(from), End::Card(to)) => driver::cuMemcpyHtoDAsync_v2(to, from, bytes, stream),
            (End::Card(from), End::Host(to)) => driver::cuMemcpyDtoHAsync_v2(to, from, bytes, stream),
            (End::Card(from), End::Card(to)) => driver::cuMemcpyDtoDAsync_v2(to, from, bytes, stream),
            (End::Host(from), End::Host(to)) => {
                driver::cuMemcpyHtoDAsync_v2(to.expose_provenance() as u64, from, bytes, stream)
            }
        }
    }
}

/// A graph that can be launched.
pub(super) struct Graph(sys::CUgraphExec);

/// A graph in the making.
struct Template(sys::CUgraph);

impl Drop for Template {
    fn drop(&mut self) {
        // SAFETY: the graph is living, and nobody else has it.
        if let Err(e) = unsafe { driver::cuGraphDestroy(self.0) } {
            log::warn!("{e}");
        }
    }
}

impl Graph {
    /// A graph of commands, one after the other.
    pub fn new(commands: &mut [Bound], context: sys::CUcontext, stream: sys::CUstream) -> Result<Graph, Failure> {
        // SAFETY: there is a context.
        let template = Template(out(|graph| unsafe { driver::cuGraphCreate(graph, 0) })?);
        let mut before: Option<(sys::CUgraphNode, bool)> = None;
        for command in commands {
            let launch = matches!(command, Bound::Launch { .. });
            let early = matches!(command, Bound::Launch { early: true, .. });
            let programmatic = early && before.is_some_and(|(_, launch)| launch);
            let edge = sys::CUgraphEdgeData {
                from_port: if programmatic { PROGRAMMATIC_PORT } else { 0 },
                to_port: 0,
                type_: if programmatic { PROGRAMMATIC } else { 0 },
                reserved: [0; 5],
            };
            let after = before.map(|(node, _)| node);
            let mut params = command.node(context);
            // SAFETY: the node before is of this graph; what the parameters point to is copied.
            let node = out(|node| unsafe {
                let (after, n) = (after.as_ref().map_or(std::ptr::null(), std::ptr::from_ref), after.is_some().into());
                driver::cuGraphAddNode_v2(node, template.0, after, &edge, n, &mut params)
            })?;
            before = Some((node, launch));
        }
        // SAFETY: the graph is complete.
        let exec = out(|exec| unsafe { driver::cuGraphInstantiateWithFlags(exec, template.0, 0) })?;
        let graph = Graph(exec);
        // SAFETY: both are living.
        match unsafe { driver::cuGraphUpload(graph.0, stream) } {
            Ok(()) => Ok(graph),
            Err(e) => graph.destroy().and(Err(e)),
        }
    }

    /// Gives it back, which does not run.
    pub fn destroy(self) -> Result<(), Failure> {
        // SAFETY: the graph is living.
        unsafe { driver::cuGraphExecDestroy(self.0) }
    }

    /// Launches it on a stream.
    pub fn launch(&self, stream: sys::CUstream) -> Result<(), Failure> {
        // SAFETY: both are living.
        unsafe { driver::cuGraphLaunch(self.0, stream) }
    }
}

/// The port of a launch from which another may begin once all its CTAs have let it.
const PROGRAMMATIC_PORT: u8 = 1;
/// The kind of such an edge.
const PROGRAMMATIC: u8 = sys::CUgraphDependencyType::CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC as u8;
