//! Which values of a kernel are used: what statements need, and what that needs.

use ir::kernel::{Inst, Kernel, Stmt, Value};

/// A flag for each value.
pub(super) fn live(kernel: &Kernel) -> Vec<bool> {
    let mut wanted = Vec::new();
    roots(kernel, &kernel.body, &mut wanted);
    let mut live = vec![false; kernel.values.len()];
    while let Some(v) = wanted.pop() {
        if !std::mem::replace(&mut live[v.0 as usize], true) {
            kernel.inst(v).operands(&mut |v| wanted.push(v));
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
