//! The GPU form: a unit is 32 rows of each product, and a lane finishes a row.

use super::Tail;
use crate::body;
use crate::elements::{At, Elements, Place, row_stride};
use crate::generator::Generator;
use crate::gpu::product::{self, Finish, Segment};
use crate::gpu::{LANES, if_below};
use ir::Result;
use ir::kernel::Mem;

pub(super) fn generate(g: &mut Generator<'_>, tail: &Tail) -> Result<()> {
    let (n, y, linears) = (tail.rows(), g.result(0)?, body::linears(&tail.products));
    let segment = Segment { matrices: linears.iter().map(|l| l.matrix).collect(), unit_rows: LANES };
    let stride = row_stride(g.body().ty(tail.output));
    product::run(g, &linears, &[segment], |g, Finish { at, unit, token, sums: (sums, from), .. }| {
        let mut elements = Elements::new(g, token);
        let b = &mut g.b;
        let to = b.imul_const(unit, LANES);
        let to = b.iadd(to, at.lane);
        for (number, (node, _)) in tail.products.iter().enumerate() {
            let start = b.iadd_const(from, number * LANES);
            elements.put(*node, Place::Local(sums, start));
        }
        let mut result = Ok(());
        if_below(b, to, n, |b| {
            let at = At { flat: to, last: to, local: at.lane, vector: false };
            match elements.value(b, tail.output, at) {
                Ok(v) => {
                    let row = b.imul_const(token, stride);
                    let to = b.iadd(row, to);
                    b.store(y, to, Mem::F32, v);
                }
                Err(e) => result = Err(e),
            }
        });
        result
    })
}
