//! Keys or values of a layer as attention reads them. How it loads elements is up to the machine: `cpu::attention` takes
//! four at a time, `ops/attention/gpu.rs` what a lane of a warp has.

use crate::generator::Generator;
use ir::Result;
use ir::abi::Q8_BLOCK;
use ir::kernel::{Buf, Builder, Mem, Value};
use ir::tensor::{Elem, KvRows, Layout, TensorType, kv_rows};

/// A KV cache in its buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cache {
    pub buf: Buf,
    pub elem: Elem,
    /// Elements of a row.
    pub head: usize,
    pub rows: KvRows,
    pub layout: Layout,
}

impl Cache {
    /// The cache that is body parameter `param`.
    ///
    /// # Errors
    /// If its format is none of a KV cache.
    pub fn new(g: &Generator<'_>, param: u32, ty: &TensorType) -> Result<Cache> {
        let rows = kv_rows(ty).ok_or_else(|| g.unsupported("this KV format"))?;
        Ok(Cache { buf: g.param(param), elem: ty.elem, head: ty.columns(), rows, layout: ty.layout })
    }

    /// Whether rows are codes and scales; else they are f16.
    pub fn is_int8(&self) -> bool {
        self.elem != Elem::F16
    }

    /// The scale of block number `block` of the row of codes at byte `row`.
    pub fn scale(&self, b: &mut Builder, row: Value, block: Value) -> Value {
        let at = b.imul_const(block, 2);
        let at = b.iadd(row, at);
        let at = b.iadd_const(at, self.head.next_multiple_of(Q8_BLOCK));
        let scale = b.load(self.buf, at, Mem::U16);
        b.from_half(scale)
    }
}
