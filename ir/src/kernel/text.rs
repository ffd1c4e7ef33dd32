//! The text form of a kernel: one line an instruction or a statement, blocks indented.
//!
//! ```text
//! kernel scale (tickets 1, scratch 0 bytes)
//!   x : F32 param 0 ro, 64 bytes
//!   y : F32 param 1 rw, 64 bytes
//! %0 = tokens : I32
//! parallel %1 in 0..%0 ticket 0 {
//!   %2 = load F32 x[%1] : F32
//!   %3 = 0.5 (0x3f000000) : F32
//!   %4 = fmul %2, %3 : F32
//!   store F32 y[%1], %4
//! }
//! ```
//! The header of a kernel for a GPU is `kernel NAME (2 CTAs of 64, shared 0 bytes)`. After the buffers come the variables,
//! `$0 : F32`; a constant is followed by its words in hexadecimal. `parse` is the inverse.

use super::{Access, Arg, Buf, Grid, Inst, Kernel, Space, Stmt, Value};
use std::fmt;

struct V(Value);

impl fmt::Display for V {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0.0)
    }
}

impl Access {
    /// Every access with its name in text.
    pub(super) const NAMES: [(Access, &str); 3] =
        [(Access::Constant, "const"), (Access::Read, "ro"), (Access::Write, "rw")];
}

/// Words of a constant on a line.
const WORDS: usize = 8;

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.grid {
            None => {
                writeln!(f, "kernel {} (tickets {}, scratch {} bytes)", self.name, self.tickets, self.scratch_bytes)?
            }
            Some(Grid { ctas, threads }) => {
                writeln!(f, "kernel {} ({ctas} CTAs of {threads}, shared {} bytes)", self.name, self.scratch_bytes)?;
            }
        }
        for b in &self.buffers {
            let (space, words) = match &b.space {
                Space::Param(n) => (format!("param {n}"), &[][..]),
                Space::Scratch(offset) => (format!("scratch+{offset}"), &[][..]),
                Space::Constant(words) => ("constant".to_owned(), &words[..]),
            };
            let access = Access::NAMES.iter().find(|(access, _)| *access == b.access).map_or("", |(_, name)| name);
            writeln!(f, "  {} : {:?} {space} {access}, {} bytes", b.name, b.mem, b.bytes)?;
            for line in words.chunks(WORDS) {
                let line: Vec<String> = line.iter().map(|w| format!("{w:08x}")).collect();
                writeln!(f, "    {}", line.join(" "))?;
            }
        }
        for (number, ty) in self.vars.iter().enumerate() {
            writeln!(f, "  ${number} : {ty:?}")?;
        }
        self.block(f, &self.body, 0)
    }
}

impl Kernel {
    fn block(&self, f: &mut fmt::Formatter<'_>, code: &[Stmt], depth: usize) -> fmt::Result {
        let pad = "  ".repeat(depth);
        for stmt in code {
            let name = stmt.name();
            write!(f, "{pad}")?;
            match stmt {
                Stmt::Let(v) => {
                    write!(f, "{} = ", V(*v))?;
                    self.print_inst(f, self.inst(*v))?;
                    writeln!(f, " : {:?}", self.ty(*v))?;
                }
                Stmt::Set(var, v) => writeln!(f, "${} := {}", var.0, V(*v))?,
                Stmt::Store { buf, index, mem, value } => {
                    writeln!(f, "{name} {mem:?} {}, {}", self.element(*buf, *index), V(*value))?;
                }
                Stmt::For { index, from, to, step, body } => {
                    writeln!(f, "{name} {} in {}..{} step {step} {{", V(*index), V(*from), V(*to))?;
                    self.block(f, body, depth + 1)?;
                    writeln!(f, "{pad}}}")?;
                }
                Stmt::If { cond, then, other } => {
                    writeln!(f, "{name} {} {{", V(*cond))?;
                    self.block(f, then, depth + 1)?;
                    if !other.is_empty() {
                        writeln!(f, "{pad}}} else {{")?;
                        self.block(f, other, depth + 1)?;
                    }
                    writeln!(f, "{pad}}}")?;
                }
                Stmt::Parallel { ticket, index, count, body } => {
                    writeln!(f, "{name} {} in 0..{} ticket {ticket} {{", V(*index), V(*count))?;
                    self.block(f, body, depth + 1)?;
                    writeln!(f, "{pad}}}")?;
                }
                Stmt::Barrier | Stmt::AwaitPrevious | Stmt::FenceAsync => writeln!(f, "{name}")?,
                Stmt::Sync(scope) => writeln!(f, "{name} {}", scope.name())?,
                Stmt::MbarrierInit(buf, index) => writeln!(f, "{name} {}", self.element(*buf, *index))?,
                Stmt::BulkCopy(c) => {
                    let [to, from, mbarrier] = [c.to, c.from, c.mbarrier].map(|(buf, index)| self.element(buf, index));
                    writeln!(f, "{name} {to}, {from}, {} bytes, {mbarrier}", c.bytes)?;
                }
                Stmt::MbarrierWait { buf, index, parity } => {
                    writeln!(f, "{name} {}, {}", self.element(*buf, *index), V(*parity))?;
                }
                Stmt::Call { atom, args } => {
                    let args = args.iter().map(|a| match a {
                        Arg::Address(buf, index) => format!("&{}", self.element(*buf, *index)),
                        Arg::Int(v) | Arg::Float(v) => V(*v).to_string(),
                        Arg::Null => "null".to_owned(),
                    });
                    writeln!(f, "{name} {}({})", atom.name(), args.collect::<Vec<_>>().join(", "))?;
                }
            }
        }
        Ok(())
    }

    fn element(&self, buf: Buf, index: Value) -> String {
        format!("{}[{}]", self.buffers[buf.0 as usize].name, V(index))
    }

    fn print_inst(&self, f: &mut fmt::Formatter<'_>, inst: &Inst) -> fmt::Result {
        let name = inst.mnemonic();
        match inst {
            Inst::Int(i) => return write!(f, "{i}"),
            Inst::Float(bits) => return write!(f, "{:?} ({bits:#010x})", f32::from_bits(*bits)),
            Inst::Get(var) => return write!(f, "${}", var.0),
            Inst::Load { buf, index, mem, vector } => {
                let lanes = if *vector { "x4" } else { "" };
                return write!(f, "{name} {mem:?}{lanes} {}", self.element(*buf, *index));
            }
            Inst::AtomicAdd { buf, index, value } => {
                return write!(f, "{name} {}, {}", self.element(*buf, *index), V(*value));
            }
            _ => {}
        }
        let mut operands = Vec::new();
        inst.operands(&mut |v| operands.push(V(v).to_string()));
        match inst {
            Inst::Lane(_, n) | Inst::Byte(_, n, _) => operands.push(n.to_string()),
            Inst::ShuffleXor(_, mask) => operands.push(mask.to_string()),
            Inst::Lut16(_, table) => operands.push(format!("{table:?}")),
            Inst::LutNibbles(_, half, table) => operands.push(format!("{half}, {table:?}")),
            _ => {}
        }
        let space = if operands.is_empty() { "" } else { " " };
        write!(f, "{name}{space}{}", operands.join(", "))
    }
}
