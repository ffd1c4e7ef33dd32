//! A kernel's statements as one list with jumps, so that a thread can stop anywhere and go on later.

use crate::kernel::{Kernel, Stmt, Value};

/// A place for a value: the kernel's values in their order, then the ends of parallel loops.
pub(super) type Slot = usize;

/// A step of a thread.
pub(super) enum Op<'a> {
    /// A statement without a block.
    Stmt(&'a Stmt),
    /// A copy of a value.
    Copy { to: Slot, from: Value },
    /// The part of the indices below `count` that this worker takes: the first, and the one after the last.
    Share { first: Slot, end: Slot, count: Value },
    /// Goes to `exit` unless `index` is below `end`.
    While { index: Slot, end: Slot, exit: usize },
    /// Adds to an index and goes back.
    Next { index: Slot, step: u32, head: usize },
    /// Goes to `to` unless the condition holds.
    Unless { cond: Value, to: usize },
    /// Goes to `to`.
    Jump { to: usize },
}

/// The steps of a kernel, and how many places for values they need.
pub(super) struct Code<'a> {
    pub ops: Vec<Op<'a>>,
    pub slots: usize,
}

impl<'a> Code<'a> {
    pub fn new(kernel: &'a Kernel) -> Self {
        let mut code = Code { ops: Vec::new(), slots: kernel.values.len() };
        code.block(&kernel.body);
        code
    }

    fn block(&mut self, stmts: &'a [Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::For { index, from, to, step, body } => {
                    self.ops.push(Op::Copy { to: index.0 as usize, from: *from });
                    self.repeat(index.0 as usize, to.0 as usize, *step, body);
                }
                Stmt::Parallel { index, count, body, .. } => {
                    let end = self.slots;
                    self.slots += 1;
                    self.ops.push(Op::Share { first: index.0 as usize, end, count: *count });
                    self.repeat(index.0 as usize, end, 1, body);
                }
                Stmt::If { cond, then, other } => {
                    let branch = self.ops.len();
                    self.ops.push(Op::Jump { to: 0 });
                    self.block(then);
                    let jump = self.ops.len();
                    self.ops.push(Op::Jump { to: 0 });
                    self.ops[branch] = Op::Unless { cond: *cond, to: self.ops.len() };
                    self.block(other);
                    self.ops[jump] = Op::Jump { to: self.ops.len() };
                }
                stmt => self.ops.push(Op::Stmt(stmt)),
            }
        }
    }

    fn repeat(&mut self, index: Slot, end: Slot, step: u32, body: &'a [Stmt]) {
        let head = self.ops.len();
        self.ops.push(Op::Jump { to: 0 });
        self.block(body);
        self.ops.push(Op::Next { index, step, head });
        self.ops[head] = Op::While { index, end, exit: self.ops.len() };
    }
}
