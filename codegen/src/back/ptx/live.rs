//! Which values of a kernel are used: what statements need, and what that needs.

use ir::kernel::{Inst, Kernel, Stmt, Value};

/// A flag for each value.
pub(super) fn live(kernel: &Kernel) -> Vec<bool> {
    let mut wanted = Vec::new();
    roots(kernel, &kernel.body, &mut wanted);
    let mut live = vec![false; kernel.values.len()];
    while let Some(v) = wanted.pop() {
        if !std::mem::replace(&mut live[v.0 as usize], true) {
            operands(kernel.inst(v), &mut |v| wanted.push(v));
        }
    }
    live
}

/// The values that the statements themselves need.
fn roots(kernel: &Kernel, code: &[Stmt], wanted: &mut Vec<Value>) {
    for stmt in code {
        match stmt {
            Stmt::Let(v) => {
                if matches!(kernel.inst(*v), Inst::AtomicAdd { .. }) {
                    wanted.push(*v);
                }
            }
            Stmt::Set(_, v) => wanted.push(*v),
            Stmt::Store { index, value, .. } => wanted.extend([*index, *value]),
            Stmt::For { from, to, body, .. } => {
                wanted.extend([*from, *to]);
                roots(kernel, body, wanted);
            }
            Stmt::If { cond, then, other } => {
                wanted.push(*cond);
                roots(kernel, then, wanted);
                roots(kernel, other, wanted);
            }
            // Of CPU kernels only.
            Stmt::Parallel { .. } | Stmt::Barrier | Stmt::Call { .. } => {}
            Stmt::MbarrierInit(_, index) => wanted.push(*index),
            Stmt::BulkCopy(c) => wanted.extend([c.to.1, c.from.1, c.mbarrier.1]),
            Stmt::MbarrierWait { index, parity, .. } => wanted.extend([*index, *parity]),
            Stmt::Sync(_) | Stmt::AwaitPrevious | Stmt::FenceAsync => {}
        }
    }
}

fn operands(inst: &Inst, f: &mut impl FnMut(Value)) {
    match inst {
        Inst::Int(_) | Inst::Float(_) | Inst::Special(_) | Inst::Get(_) | Inst::Index | Inst::Elected => {}
        Inst::Unary(_, a)
        | Inst::Splat(a)
        | Inst::Lane(a, _)
        | Inst::Sum(a)
        | Inst::Max(a)
        | Inst::Lut16(a, _)
        | Inst::Byte(a, ..)
        | Inst::ShuffleXor(a, _) => f(*a),
        Inst::Binary(_, a, b) | Inst::Compare(_, a, b) | Inst::Shuffle(a, b) => [a, b].into_iter().for_each(|v| f(*v)),
        Inst::Select(a, b, c) | Inst::Fma(a, b, c) | Inst::Dot4(a, b, c) | Inst::Dot4Unsigned(a, b, c) => {
            [a, b, c].into_iter().for_each(|v| f(*v));
        }
        Inst::Pack(all) | Inst::Narrow(all) => all.iter().for_each(|v| f(*v)),
        Inst::Load { index, .. } => f(*index),
        Inst::AtomicAdd { index, value, .. } => [index, value].into_iter().for_each(|v| f(*v)),
    }
}
