//! The text form of a kernel: for people, snapshots and hashes.

use super::{Access, Arg, Buf, Grid, Inst, Kernel, Space, Stmt, Value};
use crate::spec::hex;
use sha2::{Digest, Sha256};
use std::fmt;

struct V(Value);

/// The start of the SHA-256 of the words' little-endian bytes.
fn digest(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    hex(&Sha256::digest(bytes)[..8])
}

impl fmt::Display for V {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0.0)
    }
}

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
            let space = match b.space {
                Space::Param(n) => format!("param {n}"),
                Space::Scratch(offset) => format!("scratch+{offset}"),
                Space::Constant(words) => format!("constant {}", digest(words)),
            };
            let access = match b.access {
                Access::Constant => "const",
                Access::Read => "ro",
                Access::Write => "rw",
            };
            writeln!(f, "  {} : {:?} {space} {access}, {} bytes", b.name, b.mem, b.bytes)?;
        }
        self.block(f, &self.body, 0)
    }
}

impl Kernel {
    fn block(&self, f: &mut fmt::Formatter<'_>, code: &[Stmt], depth: usize) -> fmt::Result {
        let pad = "  ".repeat(depth);
        for stmt in code {
            write!(f, "{pad}")?;
            match stmt {
                Stmt::Let(v) => {
                    write!(f, "{} = ", V(*v))?;
                    self.print_inst(f, self.inst(*v))?;
                    writeln!(f, " : {:?}", self.ty(*v))?;
                }
                Stmt::Set(var, v) => writeln!(f, "${} := {}", var.0, V(*v))?,
                Stmt::Store { buf, index, mem, value } => {
                    writeln!(f, "store {mem:?} {}[{}], {}", self.buffers[buf.0 as usize].name, V(*index), V(*value))?;
                }
                Stmt::For { index, from, to, step, body } => {
                    writeln!(f, "for {} in {}..{} step {step} {{", V(*index), V(*from), V(*to))?;
                    self.block(f, body, depth + 1)?;
                    writeln!(f, "{pad}}}")?;
                }
                Stmt::If { cond, then, other } => {
                    writeln!(f, "if {} {{", V(*cond))?;
                    self.block(f, then, depth + 1)?;
                    if !other.is_empty() {
                        writeln!(f, "{pad}}} else {{")?;
                        self.block(f, other, depth + 1)?;
                    }
                    writeln!(f, "{pad}}}")?;
                }
                Stmt::Parallel { ticket, index, count, body } => {
                    writeln!(f, "parallel {} in 0..{} ticket {ticket} {{", V(*index), V(*count))?;
                    self.block(f, body, depth + 1)?;
                    writeln!(f, "{pad}}}")?;
                }
                Stmt::Barrier => writeln!(f, "barrier")?,
                Stmt::Sync(scope) => writeln!(f, "sync {}", format!("{scope:?}").to_lowercase())?,
                Stmt::AwaitPrevious => writeln!(f, "await_previous")?,
                Stmt::MbarrierInit(buf, index) => writeln!(f, "mbarrier_init {}", self.element(*buf, *index))?,
                Stmt::FenceAsync => writeln!(f, "fence_async")?,
                Stmt::BulkCopy(c) => {
                    let [to, from, mbarrier] = [c.to, c.from, c.mbarrier].map(|(buf, index)| self.element(buf, index));
                    writeln!(f, "bulk_copy {to}, {from}, {} bytes, {mbarrier}", c.bytes)?;
                }
                Stmt::MbarrierWait { buf, index, parity } => {
                    writeln!(f, "mbarrier_wait {}, {}", self.element(*buf, *index), V(*parity))?;
                }
                Stmt::Call { atom, args } => {
                    write!(f, "call {}(", atom.name())?;
                    for (i, a) in args.iter().enumerate() {
                        let sep = if i > 0 { ", " } else { "" };
                        match a {
                            Arg::Address(b, v) => write!(f, "{sep}&{}[{}]", self.buffers[b.0 as usize].name, V(*v))?,
                            Arg::Int(v) | Arg::Float(v) => write!(f, "{sep}{}", V(*v))?,
                            Arg::Null => write!(f, "{sep}null")?,
                        }
                    }
                    writeln!(f, ")")?;
                }
            }
        }
        Ok(())
    }

    fn element(&self, buf: Buf, index: Value) -> String {
        format!("{}[{}]", self.buffers[buf.0 as usize].name, V(index))
    }

    fn print_inst(&self, f: &mut fmt::Formatter<'_>, inst: &Inst) -> fmt::Result {
        match inst {
            Inst::Int(i) => write!(f, "{i}"),
            Inst::Float(bits) => write!(f, "{:?} ({bits:#010x})", f32::from_bits(*bits)),
            Inst::Special(special) => write!(f, "{}", format!("{special:?}").to_lowercase()),
            Inst::Get(var) => write!(f, "${}", var.0),
            Inst::Index => write!(f, "index"),
            Inst::Unary(op, a) => write!(f, "{} {}", format!("{op:?}").to_lowercase(), V(*a)),
            Inst::Binary(op, a, b) => write!(f, "{} {}, {}", format!("{op:?}").to_lowercase(), V(*a), V(*b)),
            Inst::Compare(op, a, b) => write!(f, "{} {}, {}", format!("{op:?}").to_lowercase(), V(*a), V(*b)),
            Inst::Select(c, a, b) => write!(f, "select {}, {}, {}", V(*c), V(*a), V(*b)),
            Inst::Fma(a, b, c) => write!(f, "fma {}, {}, {}", V(*a), V(*b), V(*c)),
            Inst::Splat(a) => write!(f, "splat {}", V(*a)),
            Inst::Pack([a, b, c, d]) => write!(f, "pack {}, {}, {}, {}", V(*a), V(*b), V(*c), V(*d)),
            Inst::Narrow([a, b, c, d]) => write!(f, "narrow {}, {}, {}, {}", V(*a), V(*b), V(*c), V(*d)),
            Inst::Lane(a, n) => write!(f, "lane {}, {n}", V(*a)),
            Inst::Sum(a) => write!(f, "sum {}", V(*a)),
            Inst::Max(a) => write!(f, "max {}", V(*a)),
            Inst::Dot4(a, b, c) => write!(f, "dot4 {}, {}, {}", V(*a), V(*b), V(*c)),
            Inst::Dot4Unsigned(a, b, c) => write!(f, "dot4_unsigned {}, {}, {}", V(*a), V(*b), V(*c)),
            Inst::Byte(a, n, signed) => write!(f, "byte_{} {}, {n}", if *signed { "s" } else { "u" }, V(*a)),
            Inst::Lut16(a, table) => write!(f, "lut16 {}, {table:?}", V(*a)),
            Inst::LutNibbles(a, half, table) => write!(f, "lut_nibbles {}, {half}, {table:?}", V(*a)),
            Inst::Load { buf, index, mem, vector } => {
                let lanes = if *vector { "x4" } else { "" };
                write!(f, "load {mem:?}{lanes} {}[{}]", self.buffers[buf.0 as usize].name, V(*index))
            }
            Inst::Elected => write!(f, "elected"),
            Inst::ShuffleXor(a, mask) => write!(f, "shuffle_xor {}, {mask}", V(*a)),
            Inst::WarpOr(a) => write!(f, "warp_or {}", V(*a)),
            Inst::Shuffle(a, lane) => write!(f, "shuffle {}, {}", V(*a), V(*lane)),
            Inst::AtomicAdd { buf, index, value } => {
                write!(f, "atomic_add {}[{}], {}", self.buffers[buf.0 as usize].name, V(*index), V(*value))
            }
        }
    }
}
