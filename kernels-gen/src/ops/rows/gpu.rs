//! The GPU form: a CTA for each token; all threads work on a row, a warp on a head.

use super::Output;
use crate::elements::{self, At, Elements, Head, Team, row_stride};
use crate::generator::Generator;
use crate::gpu::heads::{Cta, Warp, append};
use crate::gpu::{self, FIXED_WARPS, Thread};
use ir::Result;
use ir::kernel::{Buf, Builder, Mem, Scope, Value};

pub(super) fn generate(g: &mut Generator<'_>, outputs: &[Output]) -> Result<()> {
    gpu::check_warps(g)?;
    let largest = outputs.iter().filter_map(|o| o.heads).map(|(_, head)| head).max().unwrap_or(0);
    let scratch = g.b.scratch("heads", Mem::F32, (FIXED_WARPS * largest * 4) as u64);
    let sums = g.b.scratch("sums", Mem::F32, FIXED_WARPS as u64 * 4);
    let one_row = outputs.iter().all(|o| g.body().ty(o.stored.value).shape[0] == 1);
    let rows = if one_row { 1 } else { g.spec.tokens };
    gpu::for_rows(g, (rows, 1), |g, at, token| row(g, outputs, (at, token), (scratch, largest), sums))?;
    Ok(())
}

/// The row of a token.
fn row(
    g: &mut Generator<'_>,
    outputs: &[Output],
    (at, token): (Thread, Value),
    (scratch, largest): (Buf, usize),
    sums: Buf,
) -> Result<()> {
    let (cta, warp) = (Cta { at, sums }, Warp { at });
    for output in outputs {
        let mut elements = Elements::new(g, token);
        for &norm in &output.norms {
            let count = g.body().ty(norm.into()).columns();
            elements.reduce(&mut g.b, &cta, norm, count, place)?;
        }
        let Some((heads, head)) = output.heads else {
            let (ty, y) = (g.body().ty(output.stored.value), g.result(output.stored.number)?);
            let first = g.b.imul_const(token, row_stride(ty));
            cta.each(&mut g.b, ty.columns(), |b, i| {
                let at = place(b, i);
                let v = elements.value(b, output.stored.value, at)?;
                let to = b.iadd(first, i);
                b.store(y, to, Mem::F32, v);
                Ok(())
            })?;
            continue;
        };
        let own = g.b.imul_const(at.warp, largest);
        let count = g.b.size(heads);
        g.for_(at.warp, count, at.warps as u32, |g, number| {
            let head = Head { size: head, number, scratch: (scratch, own) };
            elements::finish(g, &warp, &mut elements, output.stored, head, |g, cache| {
                append(g, &at, (cache, token), head)
            })?;
            g.b.sync(Scope::Warp);
            Ok(())
        })?;
    }
    Ok(())
}

/// Element `i` of a row.
fn place(_: &mut Builder, i: Value) -> At {
    At { flat: i, last: i, local: i, vector: false }
}
