//! The CPU form: a worker takes a token.

use super::Output;
use crate::cpu::heads::{Single, Worker, append};
use crate::elements::{At, Elements, Head, Team, finish_head, materialise, row_stride, store_head};
use crate::generator::Generator;
use ir::Result;
use ir::kernel::{Builder, Mem, Value};

pub(super) fn generate(g: &mut Generator<'_>, outputs: &[Output]) -> Result<()> {
    if outputs.iter().all(|o| o.fours) { by(g, outputs, &Worker) } else { by(g, outputs, &Single) }
}

fn by<T: Team>(g: &mut Generator<'_>, outputs: &[Output], team: &T) -> Result<()> {
    let largest = outputs.iter().filter_map(|o| o.heads).map(|(_, head)| head).max().unwrap_or(0);
    let scratch = g.b.scratch("head", Mem::F32, largest as u64 * 4);
    let one_row = outputs.iter().all(|o| g.body().ty(o.value).shape[0] == 1);
    let tokens = if one_row { g.b.int(1) } else { g.b.tokens() };
    g.parallel(tokens, |g, t| {
        for output in outputs {
            let mut elements = Elements::new(g, t);
            for &norm in &output.norms {
                let count = g.body().ty(norm.into()).columns();
                elements.reduce(&mut g.b, team, norm, count, at::<T>)?;
            }
            let Some((heads, head)) = output.heads else {
                let (ty, y) = (g.body().ty(output.value), g.result(output.number)?);
                let row = g.b.imul_const(t, row_stride(ty));
                team.each(&mut g.b, ty.columns(), |b, i| {
                    let at = at::<T>(b, i);
                    let v = elements.value(b, output.value, at)?;
                    let to = b.iadd(row, i);
                    b.store(y, to, Mem::F32, v);
                    Ok(())
                })?;
                continue;
            };
            let (zero, count) = (g.b.int(0), g.b.size(heads));
            g.for_(zero, count, 1, |g, number| {
                let head = Head { size: head, number, scratch: (scratch, zero) };
                let mut elements = elements.of_head();
                finish_head(&mut g.b, team, &mut elements, output.value, head)?;
                match output.cache {
                    Some(cache) => {
                        materialise(&mut g.b, team, &elements, output.value, head)?;
                        append(g, cache, t, head)
                    }
                    None => {
                        let y = g.result(output.number)?;
                        store_head(&mut g.b, team, &elements, output.value, head, y)
                    }
                }
            })?;
        }
        Ok(())
    })
}

/// The elements from `i` on of a row.
fn at<T: Team>(_: &mut Builder, i: Value) -> At {
    At { flat: i, last: i, local: i, vector: T::VECTOR }
}
