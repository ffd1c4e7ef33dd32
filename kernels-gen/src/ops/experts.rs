//! `experts`: products of rows with the matrices of the experts that their tokens use, and what is made of them element by
//! element: biases, gates. On CPUs only.

use super::{FusedOp, reading};
use crate::body::{self, Linear};
use crate::cpu::experts::{Pairs, Share};
use crate::cpu::matmul::{self, TileOut};
use crate::elements::{At, Elements, Place, is_elementwise, row_stride};
use crate::generator::Generator;
use ir::Result;
use ir::abi::{Meaning, TILE_ROWS};
use ir::graph::{Graph, Node, NodeId, Op, Ref};
use ir::kernel::{Arg, Buf, Builder, Mem, Value};

pub(super) const OP: FusedOp = FusedOp {
    name: "experts",
    covers: |body| matches!(body.outputs(), &[(_, output)] if Tail::read(body, output).is_some()),
    cpu: Some(|g| {
        let tail = reading(g, |body| Tail::read(body, body.outputs().first()?.1))?;
        generate(g, &tail)
    }),
    gpu: None,
};

/// Products of experts and the value \[T, k, n\] that is made of them.
pub(super) struct Tail {
    /// In the order of their first use.
    pub products: Vec<(NodeId, Linear)>,
    /// Rows of experts: the node, the parameter that has them all, and the elements of one.
    tables: Vec<(NodeId, u32, usize)>,
    /// The parameter that is the routing.
    pub routing: u32,
    pub output: Ref,
    /// Experts that there are.
    pub experts: usize,
}

impl Tail {
    /// Reads a value that is elementwise in products of one shape over the same rows, in rows of experts and in parameters.
    pub fn read(body: &Graph, output: Ref) -> Option<Tail> {
        let is_end = |node: &Node| matches!(node.op, Op::ExpertMatMul | Op::ExpertRows);
        let (mut products, mut tables, mut routings) = (Vec::new(), Vec::new(), Vec::new());
        for id in body.cone([output], |id| !is_end(body.node(id))) {
            let node = body.node(id);
            match &node.op {
                Op::ExpertMatMul => {
                    products.push((id, body::linear(body, id.into())?));
                    routings.push(body::param(body, node.inputs[2])?);
                }
                Op::ExpertRows => {
                    tables.push((id, body::param(body, node.inputs[0])?, node.results[0].columns()));
                    routings.push(body::param(body, node.inputs[1])?);
                }
                Op::Param(_) => {}
                op if is_elementwise(op) && node.results[0].shape.len() == 3 => {}
                _ => return None,
            }
        }
        let &(first, Linear { matrix, source }) = products.first()?;
        let alike = products.iter().all(|(id, linear)| {
            linear.source == source && !source.last_token && body.ty((*id).into()) == body.ty(output)
        });
        let routing = routings[0];
        let fours = matrix.rows.is_multiple_of(4) && routings.iter().all(|&r| r == routing);
        let experts = body.ty(body.node(first).inputs[0]).shape[0];
        (alike && fours).then_some(Tail { products, tables, routing, output, experts })
    }

    /// Rows of each matrix.
    pub fn rows(&self) -> usize {
        self.products[0].1.matrix.rows
    }

    /// Says where the rows of an expert are, for elements whose `local` is 0 at row `first` of its matrices.
    pub fn put_tables(&self, g: &mut Generator<'_>, elements: &mut Elements<'_>, expert: Value, first: Value) {
        for &(node, table, n) in &self.tables {
            let row = g.b.imul_const(expert, n);
            let start = if n == 1 { row } else { g.b.iadd(row, first) };
            elements.put(node, Place::Local(g.param(table), start));
        }
    }
}

fn generate(g: &mut Generator<'_>, tail: &Tail) -> Result<()> {
    let (linears, n, y) = (body::linears(&tail.products), tail.rows(), g.result(0)?);
    let pairs = Pairs::new(g, tail.routing, tail.experts);
    let rows = pairs.prepare(g, &linears)?;
    let outs = (0..linears.len()).map(|i| TileOut::of_unit(g, &format!("tiles{i}"))).collect::<Result<Vec<_>>>()?;
    let gate = g.target.atom(Meaning::SiluTimes).filter(|_| body::is_silu_gate(g.body(), &tail.products, tail.output));
    pairs.for_units(g, linears[0].matrix.tiles(), |g, share, (unit, end)| {
        let rows = pairs.rows(g, rows, &linears, share);
        for (linear, &out) in linears.iter().zip(&outs) {
            let matrix = linear.matrix.number(&mut g.b, share.expert);
            matmul::tiles(g, &matrix, (unit, end), &rows, out)?;
        }
        g.for_(unit, end, 1, |g, tile| {
            let mut places: Vec<(NodeId, TileOut)> = Vec::new();
            for ((node, _), out) in tail.products.iter().zip(&outs) {
                places.push((*node, out.of(g, tile, unit)));
            }
            if let (Some(atom), [gate, up]) = (gate, places.as_slice()) {
                let stride = g.b.size(TILE_ROWS);
                let memory = [Arg::Address(up.1.buf, up.1.index), Arg::Address(gate.1.buf, gate.1.index)];
                g.b.call(atom, memory.into_iter().chain([Arg::Int(share.count), Arg::Int(stride)]).collect());
                places = vec![(tail.output.node, gate.1)];
            }
            let zero = g.b.int(0);
            g.for_(zero, share.count, 1, |g, number| {
                let row = Row { share, number, tile };
                row.finish(g, tail, &pairs, &places, (y, n))
            })
        })
    })
}

/// A row of a tile: a pair of the share.
struct Row {
    share: Share,
    number: Value,
    tile: Value,
}

impl Row {
    fn finish(
        &self,
        g: &mut Generator<'_>,
        tail: &Tail,
        pairs: &Pairs,
        places: &[(NodeId, TileOut)],
        (y, n): (Buf, usize),
    ) -> Result<()> {
        let place = g.b.iadd(self.share.first, self.number);
        let (token, slot) = pairs.pair(&mut g.b, place);
        let first = g.b.imul_const(self.tile, TILE_ROWS);
        let mut elements = Elements::new(g, token);
        for &(node, out) in places {
            let before = g.b.imul_const(self.number, out.stride);
            let start = g.b.iadd(out.index, before);
            elements.put(node, Place::Local(out.buf, start));
        }
        tail.put_tables(g, &mut elements, self.share.expert, first);
        let b = &mut g.b;
        let row = b.imul_const(token, row_stride(elements.ty(tail.output)));
        let before = b.imul_const(slot, n);
        let (limit, sixteen, zero) = (b.size(n), b.size(TILE_ROWS), b.int(0));
        let left = b.isub(limit, first);
        let valid = b.umin(left, sixteen);
        g.for_(zero, valid, 4, |g, r| {
            let at = element(&mut g.b, before, first, r);
            let v = elements.value(&mut g.b, tail.output, at)?;
            let to = g.b.iadd(row, at.flat);
            g.b.store(y, to, Mem::F32, v);
            Ok(())
        })
    }
}

/// Four elements of a pair's row, `local` after its row `first`; what the token has `before` it.
pub(super) fn element(b: &mut Builder, before: Value, first: Value, local: Value) -> At {
    let last = b.iadd(first, local);
    At { flat: b.iadd(before, last), last, local, vector: true }
}
