//! `expert_sum`: products of the rows of tokens and experts with matrices of these experts, the sum over the experts of a token,
//! in the order of their ranks, and what is made of it element by element: the residual. On CPUs only.

use super::experts::{Tail, element};
use super::{FusedOp, reading};
use crate::body;
use crate::cpu::experts::Pairs;
use crate::cpu::matmul::{self, TileOut};
use crate::elements::{At, Elements, Place, is_elementwise, row_stride};
use crate::generator::Generator;
use ir::Result;
use ir::abi::TILE_ROWS;
use ir::graph::{Graph, NodeId, Op, Ref};
use ir::kernel::{Buf, Mem, Value};

pub(super) const OP: FusedOp = FusedOp {
    name: "expert_sum",
    covers: |body| Sum::read(body).is_some(),
    cpu: Some(|g| {
        let sum = reading(g, Sum::read)?;
        generate(g, &sum)
    }),
    gpu: None,
};

/// Columns of a token that a worker adds up at once.
const COLUMNS: usize = 128;

/// A sum over experts, and the value that is made of it.
struct Sum {
    /// What is added up.
    tail: Tail,
    sum: NodeId,
    output: Ref,
}

impl Sum {
    /// Reads a body whose only output is elementwise in the sum of one product of experts.
    fn read(body: &Graph) -> Option<Sum> {
        let &[(_, output)] = body.outputs() else { return None };
        let mut sums = Vec::new();
        for id in body.cone([output], |id| body.node(id).op != Op::ExpertSum) {
            let node = body.node(id);
            match &node.op {
                Op::ExpertSum => sums.push(id),
                Op::Param(_) => {}
                op if is_elementwise(op) && node.results[0].shape.len() == 2 => {}
                _ => return None,
            }
        }
        let &[sum] = sums.as_slice() else { return None };
        let node = body.node(sum);
        let tail = Tail::read(body, node.inputs[0])?;
        let alike = tail.products.len() == 1
            && body::param(body, node.inputs[1]) == Some(tail.routing)
            && body.ty(sum.into()) == body.ty(output);
        alike.then_some(Sum { tail, sum, output })
    }
}

fn generate(g: &mut Generator<'_>, sum: &Sum) -> Result<()> {
    let (tail, linears) = (&sum.tail, body::linears(&sum.tail.products));
    let (product, linear) = tail.products[0];
    let stride = tail.rows().next_multiple_of(TILE_ROWS);
    let pairs = Pairs::new(g, tail.routing, tail.experts);
    let rows = pairs.prepare(g, &linears)?;
    // Of each pair, by place.
    let products = g.workspace("products", Mem::F32, g.spec.tokens * pairs.k * stride * 4);
    pairs.for_units(g, linear.matrix.tiles(), |g, share, (first, end)| {
        let rows = pairs.rows(g, rows, &linears, share);
        let matrix = linear.matrix.number(&mut g.b, share.expert);
        let b = &mut g.b;
        let (row, before) = (b.imul_const(share.first, stride), b.imul_const(first, TILE_ROWS));
        let out = TileOut { buf: products, index: b.iadd(row, before), step: TILE_ROWS, stride };
        matmul::tiles(g, &matrix, (first, end), &rows, out)
    })?;
    g.b.barrier();
    let chunks = tail.rows().div_ceil(COLUMNS);
    let acc = g.b.scratch("sums", Mem::F32, COLUMNS as u64 * 4);
    let tokens = g.b.tokens();
    let all = g.b.imul_const(tokens, chunks);
    g.parallel(all, |g, number| {
        let each = g.b.size(chunks);
        let (token, chunk) = (g.b.udiv(number, each), g.b.urem(number, each));
        let first = g.b.imul_const(chunk, COLUMNS);
        add_up(g, sum, &pairs, (products, product), acc, (token, first))
    })
}

/// Makes the columns from `first` on of a token's row.
fn add_up(
    g: &mut Generator<'_>,
    sum: &Sum,
    pairs: &Pairs,
    (products, product): (Buf, NodeId),
    acc: Buf,
    (token, first): (Value, Value),
) -> Result<()> {
    let (tail, n, y) = (&sum.tail, sum.tail.rows(), g.result(0)?);
    let stride = n.next_multiple_of(TILE_ROWS);
    let b = &mut g.b;
    let (zero, k, limit, most) = (b.int(0), b.size(pairs.k), b.size(n), b.size(COLUMNS));
    let left = b.isub(limit, first);
    let count = b.umin(left, most);
    let nothing = b.float(0.0);
    let nothing = b.splat(nothing);
    b.for_(zero, count, 4, |b, c| b.store(acc, c, Mem::F32, nothing));
    g.for_(zero, k, 1, |g, slot| {
        let b = &mut g.b;
        let (expert, weight, place) =
            (pairs.expert(b, token, slot), pairs.weight(b, token, slot), pairs.place(b, token, slot));
        let weight = b.splat(weight);
        let row = b.imul_const(place, stride);
        let start = b.iadd(row, first);
        let before = b.imul_const(slot, n);
        let mut elements = Elements::new(g, token);
        elements.put(product, Place::Local(products, start));
        tail.put_tables(g, &mut elements, expert, first);
        g.for_(zero, count, 4, |g, c| {
            let b = &mut g.b;
            let at = element(b, before, first, c);
            let (v, old) = (elements.value(b, tail.output, at)?, b.load4(acc, c, Mem::F32));
            let new = b.fma(weight, v, old);
            b.store(acc, c, Mem::F32, new);
            Ok(())
        })
    })?;
    let mut elements = Elements::new(g, token);
    elements.put(sum.sum, Place::Local(acc, zero));
    let row = g.b.imul_const(token, row_stride(elements.ty(sum.output)));
    g.for_(zero, count, 4, |g, c| {
        let b = &mut g.b;
        let flat = b.iadd(first, c);
        let v = elements.value(b, sum.output, At { flat, last: flat, local: c, vector: true })?;
        let to = b.iadd(row, flat);
        b.store(y, to, Mem::F32, v);
        Ok(())
    })
}
