//! The GPU form: a unit of a product is whole heads that fill tiles; a warp finishes a head.

use super::Branch;
use crate::body::Linear;
use crate::elements::{self, Elements, Head, Place};
use crate::generator::Generator;
use crate::gpu::LANES;
use crate::gpu::heads::{Warp, append};
use crate::gpu::product::{self, Finish, Segment};
use ir::Result;
use ir::kernel::{Compare, Scope};

pub(super) fn generate(g: &mut Generator<'_>, branches: &[Branch]) -> Result<()> {
    let of = |b: &Branch| {
        let heads = (1..=LANES).find(|n| (n * b.head).is_multiple_of(LANES)).unwrap_or(LANES);
        Segment { matrices: vec![b.product.matrix], unit_rows: heads * b.head }
    };
    let segments: Vec<Segment> = branches.iter().map(of).collect();
    let products: Vec<Linear> = branches.iter().map(|b| b.product).collect();
    product::run(g, &products, &segments, |g, Finish { at, segment, unit, token, sums: (sums, from) }| {
        let branch = &branches[segment];
        let heads = segments[segment].unit_rows / branch.head;
        let b = &mut g.b;
        let first = b.imul_const(unit, heads);
        let (zero, heads, all) = (b.int(0), b.size(heads), b.size(branch.heads));
        b.sync(Scope::Warp);
        let warp = Warp { at };
        g.for_(zero, heads, 1, |g, i| {
            let b = &mut g.b;
            let number = b.iadd(first, i);
            let there = b.compare(Compare::ULt, number, all);
            let at_head = b.imul_const(i, branch.head);
            let from = b.iadd(from, at_head);
            let head = Head { size: branch.head, number, scratch: (sums, from) };
            g.if_(there, |g| {
                let mut elements = Elements::new(g, token);
                elements.put(branch.node, Place::Local(sums, from));
                elements::finish(g, &warp, &mut elements, branch.stored, head, |g, cache| {
                    append(g, &at, (cache, token), head)
                })
            })
        })?;
        g.b.sync(Scope::Warp);
        Ok(())
    })
}
