//! Loop-invariant code motion: what a loop computes anew in each turn from values of outside is computed once, before it.
//!
//! Only instructions that neither read memory nor concern other threads move, and none out of a branch.

use ir::kernel::{Inst, Kernel, Stmt, Value};

/// The kernel with its loops' invariant instructions before them.
pub(super) fn hoist(mut kernel: Kernel) -> Kernel {
    let body = std::mem::take(&mut kernel.body);
    let mut h = Hoist { kernel: &kernel, frames: Vec::new(), homes: vec![0; kernel.values.len()] };
    let body = h.block(body, false);
    kernel.body = body;
    kernel
}

/// A block that is being rebuilt.
struct Frame {
    code: Vec<Stmt>,
    /// Whether it is the body of a loop.
    is_loop: bool,
}

struct Hoist<'a> {
    kernel: &'a Kernel,
    /// The open blocks, outermost first.
    frames: Vec<Frame>,
    /// The number of the open block in which each value is defined.
    homes: Vec<usize>,
}

impl Hoist<'_> {
    fn block(&mut self, code: Vec<Stmt>, is_loop: bool) -> Vec<Stmt> {
        self.frames.push(Frame { code: Vec::new(), is_loop });
        for stmt in code {
            let home = match &stmt {
                Stmt::Let(v) => self.home(*v),
                _ => self.frames.len() - 1,
            };
            let stmt = match stmt {
                Stmt::For { index, from, to, step, body } => {
                    self.homes[index.0 as usize] = self.frames.len();
                    Stmt::For { index, from, to, step, body: self.block(body, true) }
                }
                Stmt::If { cond, then, other } => {
                    Stmt::If { cond, then: self.block(then, false), other: self.block(other, false) }
                }
                other => other,
            };
            if let Stmt::Let(v) = stmt {
                self.homes[v.0 as usize] = home;
            }
            self.frames[home].code.push(stmt);
        }
        self.frames.pop().map(|f| f.code).unwrap_or_default()
    }

    /// The block that a definition belongs to: out of as many loops as its operands allow.
    fn home(&self, v: Value) -> usize {
        let here = self.frames.len() - 1;
        let inst = self.kernel.inst(v);
        if !movable(inst) {
            return here;
        }
        let mut least = 0;
        inst.operands(&mut |operand| least = least.max(self.homes[operand.0 as usize]));
        let loops = self.frames.iter().rev().take_while(|f| f.is_loop).count();
        least.max(here - loops.min(here))
    }
}

/// Whether the instruction gives the same value wherever its operands are known.
fn movable(inst: &Inst) -> bool {
    !matches!(
        inst,
        Inst::Get(_)
            | Inst::Index
            | Inst::Load { .. }
            | Inst::Elected
            | Inst::WarpOr(_)
            | Inst::ShuffleXor(..)
            | Inst::Shuffle(..)
            | Inst::Mma(..)
            | Inst::AtomicAdd { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::kernel::{Access, Builder, Grid, Mem};

    #[test]
    fn invariants_leave_loops_but_not_branches() {
        let mut b = Builder::new("k");
        b.set_grid(Grid { ctas: 1, threads: 32 });
        let y = b.param("y", Mem::I32, 400, Access::Write);
        b.await_previous();
        let n = b.tokens();
        let zero = b.int(0);
        b.for_(zero, n, 1, |b, i| {
            let square = b.imul(n, n);
            b.for_(zero, n, 1, |b, j| {
                let twice = b.iadd(i, i);
                let sum = b.iadd(twice, square);
                let small = b.compare(ir::kernel::Compare::ULt, j, n);
                b.if_(small, |b| {
                    let product = b.imul(sum, n);
                    b.store(y, j, Mem::I32, product);
                });
            });
        });
        let kernel = hoist(b.finish()).verify().unwrap();
        let text = kernel.to_string();
        let depth = |what: &str| {
            let line = text.lines().find(|l| l.contains(what)).unwrap();
            line.len() - line.trim_start().len()
        };
        // n n before both loops, i + i and the sum in the first, the product in its branch.
        let squares: Vec<usize> =
            text.lines().filter(|l| l.contains("imul")).map(|l| l.len() - l.trim_start().len()).collect();
        assert_eq!(squares, [0, 6], "{text}");
        let sums: Vec<usize> =
            text.lines().filter(|l| l.contains("iadd")).map(|l| l.len() - l.trim_start().len()).collect();
        assert_eq!(sums, [2, 2], "{text}");
        assert_eq!(depth("ult"), 4, "{text}");
    }
}
