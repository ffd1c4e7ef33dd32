//! The CPU form: a worker takes a token.

use super::Output;
use crate::cpu::heads::{Single, Worker, append};
use crate::elements::{self, At, Elements, Head, Team, row_stride};
use crate::generator::Generator;
use ir::Result;
use ir::kernel::{Builder, Mem, Value};

pub(super) fn generate(g: &mut Generator<'_>, outputs: &[Output]) -> Result<()> {
    if outputs.iter().all(|o| o.fours) { by(g, outputs, &Worker) } else { by(g, outputs, &Single) }
}

fn by<T: Team>(g: &mut Generator<'_>, outputs: &[Output], team: &T) -> Result<()> {
    let largest = outputs.iter().filter_map(|o| o.heads).map(|(_, head)| head).max().unwrap_or(0);
    let scratch = g.b.scratch("head", Mem::F32, largest as u64 * 4);
    let one_row = outputs.iter().all(|o| g.body().ty(o.stored.value).shape[0] == 1);
    let tokens = if one_row { g.b.int(1) } else { g.b.tokens() };
    g.parallel(tokens, |g, t| {
        for output in outputs {
            let mut elements = Elements::new(g, t);
            for &norm in &output.norms {
                let count = g.body().ty(norm.into()).columns();
                elements.reduce(&mut g.b, team, norm, count, at::<T>)?;
            }
            let Some((heads, head)) = output.heads else {
                let (ty, y) = (g.body().ty(output.stored.value), g.result(output.stored.number)?);
                let row = g.b.imul_const(t, row_stride(ty));
                team.each(&mut g.b, ty.columns(), |b, i| {
                    let at = at::<T>(b, i);
                    let v = elements.value(b, output.stored.value, at)?;
                    let to = b.iadd(row, i);
                    b.store(y, to, Mem::F32, v);
                    Ok(())
                })?;
                continue;
            };
            let (zero, count) = (g.b.int(0), g.b.size(heads));
            g.for_(zero, count, 1, |g, number| {
                let head = Head { size: head, number, scratch: (scratch, zero) };
                elements::finish(g, team, &mut elements, output.stored, head, |g, cache| append(g, cache, t, head))
            })?;
        }
        Ok(())
    })
}

/// The elements from `i` on of a row.
fn at<T: Team>(_: &mut Builder, i: Value) -> At {
    At { flat: i, last: i, local: i, vector: T::VECTOR }
}
