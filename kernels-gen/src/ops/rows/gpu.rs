//! The GPU form: one CTA; all threads work on a row, a warp on a head.

use super::Output;
use crate::elements::{self, At, Elements, Head, Team};
use crate::generator::Generator;
use crate::gpu;
use crate::gpu::heads::{Cta, Warp, append};
use ir::Result;
use ir::kernel::{Builder, Mem, Scope, Value};

pub(super) fn generate(g: &mut Generator<'_>, outputs: &[Output]) -> Result<()> {
    let at = gpu::begin(g, 1)?;
    let largest = outputs.iter().filter_map(|o| o.heads).map(|(_, head)| head).max().unwrap_or(0);
    let scratch = g.b.scratch("heads", Mem::F32, (at.warps * largest * 4) as u64);
    let sums = g.b.scratch("sums", Mem::F32, at.warps as u64 * 4);
    let (cta, warp) = (Cta { at, sums }, Warp { at });
    g.b.await_previous();
    let token = g.b.int(0);
    for output in outputs {
        let mut elements = Elements::new(g, token);
        for &norm in &output.norms {
            let count = g.body().ty(norm.into()).columns();
            elements.reduce(&mut g.b, &cta, norm, count, place)?;
        }
        let Some((heads, head)) = output.heads else {
            let (columns, y) = (g.body().ty(output.stored.value).columns(), g.result(output.stored.number)?);
            cta.each(&mut g.b, columns, |b, i| {
                let at = place(b, i);
                let v = elements.value(b, output.stored.value, at)?;
                b.store(y, i, Mem::F32, v);
                Ok(())
            })?;
            continue;
        };
        let own = g.b.imul_const(at.warp, largest);
        let count = g.b.size(heads);
        g.for_(at.warp, count, at.warps as u32, |g, number| {
            let head = Head { size: head, number, scratch: (scratch, own) };
            elements::finish(g, &warp, &mut elements, output.stored, head, |g, cache| append(g, &at, cache, head))?;
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
