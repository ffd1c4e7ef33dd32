//! The GPU form: one CTA; all threads work on a row, a warp on a head.

use super::Output;
use crate::elements::{At, Elements, Head, Team, finish_head, materialise, store_head};
use crate::generator::Generator;
use crate::gpu::heads::{Cta, Warp, append};
use crate::gpu::{self};
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
            let (columns, y) = (g.body().ty(output.value).columns(), g.result(output.number)?);
            cta.each(&mut g.b, columns, |b, i| {
                let at = place(b, i);
                let v = elements.value(b, output.value, at)?;
                b.store(y, i, Mem::F32, v);
                Ok(())
            })?;
            continue;
        };
        let own = g.b.imul_const(at.warp, largest);
        let count = g.b.size(heads);
        g.for_(at.warp, count, at.warps as u32, |g, number| {
            let head = Head { size: head, number, scratch: (scratch, own) };
            let mut elements = elements.of_head();
            finish_head(&mut g.b, &warp, &mut elements, output.value, head)?;
            match output.cache {
                Some(cache) => {
                    materialise(&mut g.b, &warp, &elements, output.value, head)?;
                    append(g, &at, cache, head)?;
                }
                None => {
                    let y = g.result(output.number)?;
                    store_head(&mut g.b, &warp, &elements, output.value, head, y)?;
                }
            }
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
