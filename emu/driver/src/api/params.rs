//! Parameters of nodes as C passes them, and what they mean: each structure becomes a [`What`], and a node's is made from that
//! again for whoever asks. Kernels' values are copied when a node is made.

use super::copy::Copy3;
use super::launch::{self, Attribute, Wishes};
use super::values::{self, Param};
use crate::abi::{In, Raw, Show, structures};
use crate::call::Call;
use crate::error::{Answer, Error};
use crate::graph::{At, Kept, Node, What, kind};
use crate::operation::{Fill, Operation};
use crate::slots::Handle;
use crate::submit;
use serde_json::{Value, json};
use std::collections::BTreeMap;

structures! {
    /// `CUDA_KERNEL_NODE_PARAMS_v1`.
    pub(crate) struct Kernel1 {
        function: u64,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: u64,
        extra: u64,
    }

    /// `CUDA_KERNEL_NODE_PARAMS_v2` and `_v3`.
    pub(crate) struct Kernel2 {
        pub(crate) first: Kernel1,
        kernel: u64,
        context: u64,
    }

    /// `CUDA_MEMSET_NODE_PARAMS_v1`.
    pub(crate) struct Fill1 {
        to: u64,
        pitch: u64,
        value: u32,
        element: u32,
        width: u64,
        height: u64,
    }

    /// `CUDA_HOST_NODE_PARAMS`.
    pub(crate) struct Host {
        function: u64,
        data: u64,
    }

    /// `CUDA_BATCH_MEM_OP_NODE_PARAMS`.
    pub(crate) struct Batch {
        context: u64,
        count: u32,
        array: u64,
        flags: u32,
    }

    /// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
    pub(crate) struct Instantiate {
        pub(crate) flags: u64,
        pub(crate) upload: u64,
        pub(crate) error_node: u64,
        pub(crate) result: u32,
        pad: u32,
    }

    /// `CUgraphExecUpdateResultInfo`.
    pub(crate) struct UpdateResult {
        pub(crate) result: u32,
        pub(crate) pad: u32,
        pub(crate) node: u64,
        pub(crate) from: u64,
    }

    /// The head of `CUgraphNodeParams`; what follows depends on the kind.
    pub(crate) struct Head {
        kind: u32,
        reserved: [u32; 3],
    }

    /// `CUgraphNodeParams.memcpy` before its copy.
    struct CopyHead {
        flags: i32,
        reserved: i32,
        context: u64,
    }
}

/// What a trace shows of structures.
macro_rules! show {
    ($($ty:ident: $($field:ident)*;)*) => { $(impl Show for $ty {
        fn show(&self, _: bool) -> Value {
            json!({ $(stringify!($field): self.$field),* })
        }
    })* };
}

show! {
    Kernel1: function grid block shared;
    Fill1: to pitch value element width height;
    Host: function data;
    Batch: count array flags;
    Instantiate: flags upload error_node result;
    UpdateResult: result node from;
}

impl Show for Kernel2 {
    fn show(&self, success: bool) -> Value {
        self.first.show(success)
    }
}

/// A kernel of the parameters of the first version.
pub(crate) fn kernel1(call: &mut Call, params: In<Kernel1>) -> Answer<What> {
    kernel(call, params.get()?)
}

/// A kernel of the parameters of later versions, which may name a `CUkernel` instead.
pub(crate) fn kernel2(call: &mut Call, params: In<Kernel2>) -> Answer<What> {
    let Kernel2 { mut first, kernel: other, .. } = params.get()?;
    if first.function == 0 {
        first.function = other;
    }
    kernel(call, first)
}

fn kernel(call: &mut Call, p: Kernel1) -> Answer<What> {
    let arguments = (In::new(p.params as usize), In::new(p.extra as usize));
    let kernel = launch::kernel(call, p.function, (p.grid, p.block), p.shared, &Wishes::default(), arguments)?;
    Ok(What::Operation(Operation::Kernel(kernel)))
}

/// A copy.
pub(crate) fn copy(call: &mut Call, params: In<Copy3>) -> Answer<What> {
    let copy = params.get()?.copy(call)?;
    checked(call, Operation::Copy(copy))
}

/// A fill.
pub(crate) fn fill(call: &mut Call, params: In<Fill1>) -> Answer<What> {
    let Fill1 { to, pitch, value, element, width, height } = params.get()?;
    if ![1, 2, 4].contains(&element) {
        return Err(Error::INVALID_VALUE);
    }
    checked(call, Operation::Fill(Fill { to, pitch, value, width: element, count: width, rows: height }))
}

/// A function of the program.
pub(crate) fn host(params: In<Host>) -> Answer<What> {
    let Host { function, data } = params.get()?;
    if function == 0 {
        return Err(Error::INVALID_VALUE);
    }
    Ok(What::Operation(Operation::Host { function: function as usize, data: data as usize }))
}

/// Operations on words in memory.
pub(crate) fn batch(call: &mut Call, params: In<Batch>) -> Answer<What> {
    let Batch { count, array, flags, .. } = params.get()?;
    let values = values::parse(In::new(array as usize), count, flags)?;
    checked(call, Operation::Values(values))
}

/// Refuses what cannot be done, before it is a node.
fn checked(call: &mut Call, operation: Operation) -> Answer<What> {
    let refused = submit::refuse(call, &operation);
    call.refuse(refused)?;
    Ok(What::Operation(operation))
}

/// A node of any kind, of `CUgraphNodeParams`.
pub(crate) fn any(call: &mut Call, params: Raw) -> Answer<What> {
    let head: Head = params.input().get()?;
    let rest = params.address() + size_of::<Head>();
    let number = || In::<u64>::new(rest).get();
    match head.kind {
        kind::KERNEL => kernel2(call, In::new(rest)),
        kind::COPY => copy(call, In::new(rest + size_of::<CopyHead>())),
        kind::FILL => fill(call, In::new(rest)),
        kind::HOST => host(In::new(rest)),
        kind::GRAPH => match In::<u32>::new(rest + size_of::<u64>()).get()? {
            0 => Ok(What::Graph(super::graph::graph(call, number()?)?)),
            _ => Err(call.unsupported("moving a graph into a node")),
        },
        kind::EMPTY => Ok(What::Operation(Operation::Nothing)),
        kind::WAIT => Ok(What::Wait(call.handle(|d| &d.events, number()?)?)),
        kind::RECORD => Ok(What::Record(call.handle(|d| &d.events, number()?)?)),
        kind::VALUES => batch(call, In::new(rest)),
        8..=11 | 13 => Err(call.unsupported("a node of this kind")),
        _ => Err(Error::INVALID_VALUE),
    }
}

impl Fill1 {
    pub(crate) fn of(fill: &Fill) -> Fill1 {
        let &Fill { to, pitch, value, width: element, count: width, rows: height } = fill;
        Fill1 { to, pitch, value, element, width, height }
    }
}

impl Host {
    pub(crate) fn of(function: usize, data: usize) -> Host {
        Host { function: function as u64, data: data as u64 }
    }
}

/// The parameters of a kernel node, whose values are the node's until it changes.
pub(crate) fn kernel_of(call: &mut Call, node: Handle<At>) -> Answer<Kernel2> {
    let kernel = call.graphs.node(node).and_then(Node::kernel).cloned().ok_or(Error::INVALID_VALUE)?;
    let context = call.context()?.number();
    let function = call.functions.get(kernel.function).ok_or(Error::INVALID_HANDLE)?;
    let entry = function.code.module.entries().get(function.entry).ok_or(Error::INVALID_HANDLE)?;
    let offsets: Vec<u64> = entry.params.iter().map(|p| p.offset).collect();
    let node = call.graphs.node_mut(node).ok_or(Error::INVALID_VALUE)?;
    node.kept = Kept::pointers(kernel.params, offsets.into_iter());
    let params = node.kept.address();
    let (function, grid, block, shared) = (kernel.function.number(), kernel.grid, kernel.block, kernel.shared);
    let first = Kernel1 { function, grid, block, shared, params, extra: 0 };
    Ok(Kernel2 { first, kernel: 0, context })
}

/// The parameters of a node of words in memory; their array is the node's until it changes.
pub(crate) fn batch_of(call: &mut Call, node: Handle<At>) -> Answer<Batch> {
    let context = call.context()?.number();
    let node = call.graphs.node_mut(node).ok_or(Error::INVALID_VALUE)?;
    let What::Operation(Operation::Values(values)) = &node.what else { return Err(Error::INVALID_VALUE) };
    let (count, words) = (values.len() as u32, values.iter().flat_map(Param::words).collect());
    node.kept = Kept::words(words);
    let array = node.kept.address();
    Ok(Batch { context, count, array, flags: 0 })
}

/// Attributes that a kernel node has, and how many of their bytes matter: the window of a cache, whether it is cooperative, the
/// size of a cluster and how clusters are scheduled, its priority, domains of fences, the share of shared memory.
const ATTRIBUTES: &[(u32, usize)] =
    &[(1, 32), (COOPERATIVE, 4), (4, 12), (5, 4), (PRIORITY, 4), (9, 2), (10, 4), (13, 16), (14, 4)];
const COOPERATIVE: u32 = 2;
const PRIORITY: u32 = 8;

/// Refuses attributes that a kernel node has not, or that cannot be honoured.
pub(crate) fn check_attribute(id: u32, value: &[u8; 64]) -> Answer {
    if !ATTRIBUTES.iter().any(|a| a.0 == id) {
        return Err(Error::INVALID_VALUE);
    }
    Wishes::default().add(&Attribute::new(id, value))
}

/// An attribute of a kernel node, zero where it was never set.
pub(crate) fn attribute(node: &Node, attribute: u32) -> Answer<[u8; 64]> {
    let &(_, bytes) = ATTRIBUTES.iter().find(|a| a.0 == attribute).ok_or(Error::INVALID_VALUE)?;
    let mut value = [0; 64];
    match (attribute, node.kernel()) {
        (COOPERATIVE, Some(kernel)) => value[0] = u8::from(kernel.cooperative),
        (PRIORITY, Some(kernel)) => value[..4].copy_from_slice(&kernel.priority.to_le_bytes()),
        _ => {
            let set = node.attributes.get(&attribute).unwrap_or(&[0; 64]);
            value[..bytes].copy_from_slice(&set[..bytes]);
        }
    }
    Ok(value)
}

/// What a node does, with the attributes that have been set.
pub(crate) fn with_attributes(mut what: What, attributes: &BTreeMap<u32, [u8; 64]>) -> What {
    if let What::Operation(Operation::Kernel(kernel)) = &mut what {
        let mut wishes = Wishes { cooperative: kernel.cooperative, priority: kernel.priority, ..Wishes::default() };
        // Each was taken when it was set.
        let taken = attributes.iter().all(|(&id, value)| wishes.add(&Attribute::new(id, value)).is_ok());
        if taken {
            (kernel.cooperative, kernel.priority) = (wishes.cooperative, wishes.priority);
        }
    }
    what
}

/// What a node does, with the attributes that it had.
pub(crate) fn keep_attributes(mut what: What, had: &What) -> What {
    if let (What::Operation(Operation::Kernel(new)), What::Operation(Operation::Kernel(old))) = (&mut what, had) {
        (new.cooperative, new.priority) = (old.cooperative, old.priority);
    }
    what
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys;

    #[test]
    fn structures_are_those_of_c() {
        assert_eq!(size_of::<Kernel1>(), size_of::<sys::CUDA_KERNEL_NODE_PARAMS_st>());
        assert_eq!(size_of::<Kernel2>(), size_of::<sys::CUDA_KERNEL_NODE_PARAMS_v2_st>());
        assert_eq!(size_of::<Fill1>(), size_of::<sys::CUDA_MEMSET_NODE_PARAMS_st>());
        assert_eq!(size_of::<Host>(), size_of::<sys::CUDA_HOST_NODE_PARAMS_st>());
        assert_eq!(size_of::<Batch>(), size_of::<sys::CUDA_BATCH_MEM_OP_NODE_PARAMS_v1_st>());
        assert_eq!(size_of::<Copy3>(), size_of::<sys::CUDA_MEMCPY3D_st>());
        assert_eq!(size_of::<CopyHead>() + size_of::<Copy3>(), size_of::<sys::CUDA_MEMCPY_NODE_PARAMS_st>());
        assert_eq!(size_of::<Instantiate>(), size_of::<sys::CUDA_GRAPH_INSTANTIATE_PARAMS_st>());
        assert_eq!(size_of::<UpdateResult>(), size_of::<sys::CUgraphExecUpdateResultInfo_st>());
        assert_eq!(size_of::<Head>(), std::mem::offset_of!(sys::CUgraphNodeParams_st, __bindgen_anon_1));
        assert_eq!(
            std::mem::offset_of!(Batch, array),
            std::mem::offset_of!(sys::CUDA_BATCH_MEM_OP_NODE_PARAMS_v1_st, paramArray)
        );
        assert_eq!(
            std::mem::offset_of!(Kernel1, params),
            std::mem::offset_of!(sys::CUDA_KERNEL_NODE_PARAMS_st, kernelParams)
        );
    }
}
