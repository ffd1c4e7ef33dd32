//! Walks a verified kernel and builds its Cranelift function.

use super::{internal, math};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    AbiParam, AtomicRmwOp, BlockArg, ExternalName, Function, GlobalValue, GlobalValueData, InstBuilder, MemFlagsData,
    SigRef, Signature, Type, UserExternalName, UserFuncName, Value as V, immediates::Imm64, types,
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use ir::abi::{Atom, Control, Frame, TICKET_BYTES};
use ir::kernel::{Access, Arg, Binary, Buf, Compare, Inst, Kernel, Mem, Space, Special, Stmt, Ty, Unary, Value};
use ir::target::Target;
use ir::{Result, Verified};
use std::collections::HashMap;
use std::mem::offset_of;

fn clif_type(ty: Ty) -> Type {
    match ty {
        Ty::Bool => types::I8,
        Ty::I32 => types::I32,
        Ty::F32 => types::F32,
        Ty::Bool4 | Ty::I32x4 => types::I32X4,
        Ty::F32x4 => types::F32X4,
    }
}

struct Lowering<'a, 'b> {
    kernel: &'a Kernel,
    has_fma: bool,
    b: FunctionBuilder<'b>,
    values: HashMap<Value, V>,
    vars: Vec<Variable>,
    buffers: Vec<Base>,
    frame: V,
    control: V,
    tickets: V,
    atoms: V,
    /// Signatures of calls, by the types of their operands.
    signatures: HashMap<Vec<Type>, SigRef>,
}

/// Where a buffer begins.
#[derive(Clone, Copy)]
enum Base {
    Address(V),
    /// Its address is computed again for each access: that is one instruction, and holds no register in between.
    Constant(GlobalValue),
}

/// Fills `func` with the code of `kernel`. The symbol of a constant is its buffer number.
pub(super) fn lower(
    kernel: &Verified<Kernel>,
    target: &Target,
    isa: &dyn TargetIsa,
    func: &mut Function,
) -> Result<()> {
    let pointer = isa.pointer_type();
    func.name = UserFuncName::user(0, 0);
    func.signature = Signature::new(CallConv::SystemV);
    func.signature.params.push(AbiParam::new(pointer));
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(func, &mut context);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    let frame = b.block_params(entry)[0];
    let mut field = |offset: usize| b.ins().load(pointer, frame_memory(), frame, offset as i32);
    let control = field(offset_of!(Frame, control));
    let tickets = field(offset_of!(Frame, tickets));
    let atoms = field(offset_of!(Frame, atoms));
    let addresses = field(offset_of!(Frame, buffers));
    let scratch = field(offset_of!(Frame, scratch));
    let buffers = kernel
        .buffers
        .iter()
        .enumerate()
        .map(|(number, decl)| match decl.space {
            Space::Param(n) => Base::Address(b.ins().load(pointer, frame_memory(), addresses, n as i32 * 8)),
            Space::Scratch(offset) => Base::Address(b.ins().iadd_imm_u(scratch, i64::from(offset))),
            Space::Constant(_) => {
                let symbol = b.func.declare_imported_user_function(UserExternalName::new(1, number as u32));
                let name = ExternalName::user(symbol);
                let data = GlobalValueData::Symbol { name, offset: Imm64::new(0), colocated: true, tls: false };
                Base::Constant(b.create_global_value(data))
            }
        })
        .collect();
    let vars = kernel.vars.iter().map(|ty| b.declare_var(clif_type(*ty))).collect();
    let mut l = Lowering {
        kernel,
        has_fma: target.fuses_fma(),
        b,
        values: HashMap::new(),
        vars,
        buffers,
        frame,
        control,
        tickets,
        atoms,
        signatures: HashMap::new(),
    };
    l.block(&kernel.body)?;
    l.b.ins().return_(&[]);
    l.b.seal_all_blocks();
    l.b.finalize(isa.frontend_config());
    Ok(())
}

/// The verifier lets no such thing into a kernel without a grid.
fn gpu_only() -> ir::Error {
    internal("an instruction of GPU kernels")
}

/// The frame and what it points to directly: addresses and figures that stay the same, and can be read, for as long as the
/// kernel runs. So a load may be moved to where it would not have been executed.
fn frame_memory() -> MemFlagsData {
    read_memory().with_can_move()
}

/// Elements of buffers that the kernel only reads: nobody writes them while it runs. Not to be moved: an index may be inside
/// of its buffer only where a branch or a loop has checked it.
fn read_memory() -> MemFlagsData {
    plain_memory().with_readonly()
}

/// Elements of other buffers. No access traps: indices are inside of their buffers, which are as large as the kernel declares
/// ([`ir::artifact::Param`]).
fn plain_memory() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

impl Lowering<'_, '_> {
    fn value(&self, v: Value) -> V {
        self.values[&v]
    }

    fn block(&mut self, code: &[Stmt]) -> Result<()> {
        code.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn address(&mut self, buf: Buf, index: Value) -> V {
        let base = match self.buffers[buf.0 as usize] {
            Base::Address(v) => v,
            Base::Constant(symbol) => self.b.ins().symbol_value(types::I64, symbol),
        };
        let size = self.kernel.buffers[buf.0 as usize].mem.bytes();
        if let Inst::Int(i) = self.kernel.inst(index) {
            return self.b.ins().iadd_imm_u(base, i64::from(*i as u32) * i64::from(size));
        }
        let index = self.value(index);
        let wide = self.wide(index);
        let offset = self.b.ins().ishl_imm_u(wide, i64::from(size.trailing_zeros()));
        self.b.ins().iadd(base, offset)
    }

    fn flags(&self, buf: Buf) -> MemFlagsData {
        if self.kernel.buffers[buf.0 as usize].access == Access::Write { plain_memory() } else { read_memory() }
    }

    /// `while more(i) { body(i); i = next(i) }` from `start` on.
    fn counted(
        &mut self,
        start: V,
        more: impl FnOnce(&mut Self, V) -> V,
        body: impl FnOnce(&mut Self, V) -> Result<()>,
        next: impl FnOnce(&mut Self, V) -> V,
    ) -> Result<()> {
        let (head, inside, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let i = self.b.append_block_param(head, types::I32);
        self.b.ins().jump(head, &[BlockArg::Value(start)]);
        self.b.switch_to_block(head);
        let go = more(self, i);
        self.b.ins().brif(go, inside, &[], after, &[]);
        self.b.switch_to_block(inside);
        body(self, i)?;
        let following = next(self, i);
        self.b.ins().jump(head, &[BlockArg::Value(following)]);
        self.b.switch_to_block(after);
        Ok(())
    }

    /// The body of a loop at an index.
    fn iteration(&mut self, index: Value, i: V, body: &[Stmt]) -> Result<()> {
        self.values.insert(index, i);
        self.block(body)
    }

    /// Each worker has a range of the indices and takes one after the other from its front; then it takes from the ranges
    /// of the others. See [`ir::abi::Frame::tickets`].
    fn parallel(&mut self, ticket: u32, index: Value, count: V, body: &[Stmt]) -> Result<()> {
        let worker = self.field(types::I32, offset_of!(Frame, worker));
        let workers = self.field(types::I32, offset_of!(Frame, workers));
        let (wide_count, wide_workers) = (self.wide(count), self.wide(workers));
        let zero = self.b.ins().iconst(types::I32, 0);
        self.counted(
            zero,
            |l, past| l.b.ins().icmp(IntCC::UnsignedLessThan, past, workers),
            |l, past| {
                let owner = l.b.ins().iadd(worker, past);
                let wrapped = l.b.ins().isub(owner, workers);
                let wraps = l.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, owner, workers);
                let owner = l.b.ins().select(wraps, wrapped, owner);
                let owner = l.wide(owner);
                let bound = |l: &mut Self, owner: V| {
                    let bound = l.b.ins().imul(owner, wide_count);
                    let bound = l.b.ins().udiv(bound, wide_workers);
                    l.b.ins().ireduce(types::I32, bound)
                };
                let following = l.b.ins().iadd_imm_u(owner, 1);
                let range = (bound(l, owner), bound(l, following));
                let counter = l.b.ins().imul_imm_u(wide_workers, i64::from(ticket));
                let counter = l.b.ins().iadd(counter, owner);
                let counter = l.b.ins().imul_imm_u(counter, TICKET_BYTES as i64);
                let counter = l.b.ins().iadd(l.tickets, counter);
                l.range(past, range, counter, index, body)
            },
            |l, past| l.b.ins().iadd_imm_u(past, 1),
        )
    }

    /// Takes indices of a range until none are left: one from the front if it is this worker's own (`past` is 0), else half
    /// of what is left from the back, so that both go on in order.
    fn range(&mut self, past: V, (start, end): (V, V), counter: V, index: Value, body: &[Stmt]) -> Result<()> {
        let [take, own, look, steal, taken, after] = std::array::from_fn(|_| self.b.create_block());
        let first = self.b.append_block_param(taken, types::I32);
        let limit = self.b.append_block_param(taken, types::I32);
        // The first index that is left and the one after the last; the former is beyond the latter if the owner has
        // looked in vain.
        let left = |l: &mut Self, word: V| {
            let (front, back) = (l.b.ins().ireduce(types::I32, word), l.b.ins().ushr_imm_u(word, 32));
            let back = l.b.ins().ireduce(types::I32, back);
            (l.b.ins().iadd(start, front), l.b.ins().isub(end, back))
        };
        self.b.ins().jump(take, &[]);

        self.b.switch_to_block(take);
        self.b.ins().brif(past, look, &[], own, &[]);

        self.b.switch_to_block(own);
        let one = self.b.ins().iconst(types::I64, 1);
        let word = self.b.ins().atomic_rmw(types::I64, MemFlagsData::new(), AtomicRmwOp::Add, counter, one);
        let (i, stop) = left(self, word);
        let next = self.b.ins().iadd_imm_u(i, 1);
        let there = self.b.ins().icmp(IntCC::SignedLessThan, i, stop);
        self.b.ins().brif(there, taken, &[i, next].map(BlockArg::Value), after, &[]);

        self.b.switch_to_block(look);
        let word = self.b.ins().atomic_load(types::I64, MemFlagsData::new(), counter);
        let (i, stop) = left(self, word);
        let there = self.b.ins().icmp(IntCC::SignedLessThan, i, stop);
        self.b.ins().brif(there, steal, &[], after, &[]);

        self.b.switch_to_block(steal);
        let count = self.b.ins().isub(stop, i);
        let count = self.b.ins().iadd_imm_u(count, 1);
        let half = self.b.ins().ushr_imm_u(count, 1);
        let from = self.b.ins().isub(stop, half);
        let more = self.wide(half);
        let more = self.b.ins().ishl_imm_u(more, 32);
        let new = self.b.ins().iadd(word, more);
        let found = self.b.ins().atomic_cas(MemFlagsData::new(), counter, word, new);
        let ours = self.b.ins().icmp(IntCC::Equal, found, word);
        self.b.ins().brif(ours, taken, &[from, stop].map(BlockArg::Value), look, &[]);

        self.b.switch_to_block(taken);
        self.counted(
            first,
            |l, i| l.b.ins().icmp(IntCC::UnsignedLessThan, i, limit),
            |l, i| l.iteration(index, i, body),
            |l, i| l.b.ins().iadd_imm_u(i, 1),
        )?;
        self.b.ins().jump(take, &[]);
        self.b.switch_to_block(after);
        Ok(())
    }

    fn wide(&mut self, v: V) -> V {
        self.b.ins().uextend(types::I64, v)
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Let(v) => {
                let clif = self.inst(*v)?;
                self.values.insert(*v, clif);
            }
            Stmt::Set(var, v) => {
                let v = self.value(*v);
                self.b.def_var(self.vars[var.0 as usize], v);
            }
            Stmt::Store { buf, index, mem, value } => {
                let (at, v) = (self.address(*buf, *index), self.value(*value));
                let flags = plain_memory();
                match mem {
                    Mem::U8 | Mem::I8 => self.b.ins().istore8(flags, v, at, 0),
                    Mem::U16 | Mem::I16 => self.b.ins().istore16(flags, v, at, 0),
                    Mem::I32 | Mem::F32 => self.b.ins().store(flags, v, at, 0),
                };
            }
            Stmt::For { index, from, to, step, body } => {
                let (from, to, step) = (self.value(*from), self.value(*to), i64::from(*step));
                self.counted(
                    from,
                    |l, i| l.b.ins().icmp(IntCC::UnsignedLessThan, i, to),
                    |l, i| l.iteration(*index, i, body),
                    |l, i| l.b.ins().iadd_imm_u(i, step),
                )?;
            }
            Stmt::Parallel { ticket, index, count, body } => {
                let count = self.value(*count);
                self.parallel(*ticket, *index, count, body)?;
            }
            Stmt::If { cond, then, other } => {
                let (yes, no, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
                let cond = self.value(*cond);
                self.b.ins().brif(cond, yes, &[], no, &[]);
                for (block, code) in [(yes, then), (no, other)] {
                    self.b.switch_to_block(block);
                    self.block(code)?;
                    self.b.ins().jump(after, &[]);
                }
                self.b.switch_to_block(after);
            }
            Stmt::Barrier => {
                let pool = self.field(types::I64, offset_of!(Frame, pool));
                let worker = self.field(types::I32, offset_of!(Frame, worker));
                let worker = self.wide(worker);
                self.call(Atom::Barrier, &[pool, worker]);
            }
            Stmt::Call { atom, args } => {
                let args: Vec<V> = args
                    .iter()
                    .map(|arg| match *arg {
                        Arg::Address(buf, index) => self.address(buf, index),
                        Arg::Int(v) => {
                            let v = self.value(v);
                            self.wide(v)
                        }
                        Arg::Float(v) => self.value(v),
                        Arg::Null => self.b.ins().iconst(types::I64, 0),
                    })
                    .collect();
                self.call(*atom, &args);
            }
            Stmt::Sync(_)
            | Stmt::AwaitPrevious
            | Stmt::MbarrierInit(..)
            | Stmt::FenceAsync
            | Stmt::BulkCopy(_)
            | Stmt::MbarrierWait { .. } => return Err(gpu_only()),
        }
        Ok(())
    }

    fn field(&mut self, ty: Type, offset: usize) -> V {
        self.b.ins().load(ty, frame_memory(), self.frame, offset as i32)
    }

    fn call(&mut self, atom: Atom, args: &[V]) {
        let kinds: Vec<Type> = args.iter().map(|&a| self.b.func.dfg.value_type(a)).collect();
        let b = &mut self.b;
        let signature = *self.signatures.entry(kinds).or_insert_with_key(|kinds| {
            let mut s = Signature::new(CallConv::SystemV);
            s.params.extend(kinds.iter().copied().map(AbiParam::new));
            b.import_signature(s)
        });
        let address = self.b.ins().load(types::I64, frame_memory(), self.atoms, atom as i32 * 8);
        self.b.ins().call_indirect(signature, address, args);
    }

    fn load(&mut self, buf: Buf, index: Value, mem: Mem, vector: bool) -> V {
        let (at, flags) = (self.address(buf, index), self.flags(buf));
        let b = self.b.ins();
        match (mem, vector) {
            (Mem::U8, _) => b.uload8(types::I32, flags, at, 0),
            (Mem::I8, _) => b.sload8(types::I32, flags, at, 0),
            (Mem::U16, _) => b.uload16(types::I32, flags, at, 0),
            (Mem::I16, _) => b.sload16(types::I32, flags, at, 0),
            (_, vector) => b.load(clif_type(if vector { mem.ty().vector() } else { mem.ty() }), flags, at, 0),
        }
    }

    fn inst(&mut self, v: Value) -> Result<V> {
        let (inst, ty) = &self.kernel.values[v.0 as usize];
        let ty = clif_type(*ty);
        Ok(match inst {
            Inst::Int(i) => self.b.ins().iconst(types::I32, i64::from(*i as u32)),
            Inst::Float(bits) => self.b.ins().f32const(f32::from_bits(*bits)),
            Inst::Special(special) => {
                let offset = match special {
                    Special::Position => offset_of!(Control, position),
                    Special::Tokens => offset_of!(Control, tokens),
                    Special::Cta | Special::Thread => return Err(gpu_only()),
                };
                self.b.ins().load(types::I32, frame_memory(), self.control, offset as i32)
            }
            Inst::Get(var) => self.b.use_var(self.vars[var.0 as usize]),
            Inst::Index => return Err(internal("a loop index outside its loop")),
            Inst::Unary(op, a) => self.unary(*op, *a, ty)?,
            Inst::Binary(op, a, b) => self.binary(*op, *a, *b),
            Inst::Compare(op, a, b) => {
                let (a, b) = (self.value(*a), self.value(*b));
                match op {
                    Compare::ULt => self.b.ins().icmp(IntCC::UnsignedLessThan, a, b),
                    Compare::IEq => self.b.ins().icmp(IntCC::Equal, a, b),
                    Compare::FLt => self.b.ins().fcmp(FloatCC::LessThan, a, b),
                    Compare::FEq => self.b.ins().fcmp(FloatCC::Equal, a, b),
                }
            }
            Inst::Select(c, a, b) => {
                let (c, x, y) = (self.value(*c), self.value(*a), self.value(*b));
                math::select(&mut self.b, c, x, y)
            }
            Inst::Fma(a, b, c) => {
                let (x, y, z) = (self.value(*a), self.value(*b), self.value(*c));
                math::fma(&mut self.b, self.has_fma, x, y, z)
            }
            Inst::Splat(a) => {
                let a = self.value(*a);
                self.b.ins().splat(ty, a)
            }
            Inst::Pack(lanes) => {
                let first = self.value(lanes[0]);
                let mut vector = self.b.ins().scalar_to_vector(ty, first);
                for (i, lane) in lanes.iter().enumerate().skip(1) {
                    let lane = self.value(*lane);
                    vector = self.b.ins().insertlane(vector, lane, i as u8);
                }
                vector
            }
            Inst::Lane(a, n) => {
                let a = self.value(*a);
                self.b.ins().extractlane(a, *n)
            }
            Inst::Sum(a) => {
                self.reduce(*a, |l, x, y| if ty == types::F32 { l.b.ins().fadd(x, y) } else { l.b.ins().iadd(x, y) })
            }
            Inst::Max(a) => self.reduce(*a, |l, x, y| math::fmax(&mut l.b, x, y)),
            Inst::Dot4(a, b, c) => {
                let (x, y, acc) = (self.value(*a), self.value(*b), self.value(*c));
                math::dot4(&mut self.b, x, y, acc)
            }
            Inst::Byte(a, n, signed) => {
                let a = self.value(*a);
                let high = self.b.ins().ishl_imm_u(a, 24 - 8 * i64::from(*n));
                if *signed { self.b.ins().sshr_imm_u(high, 24) } else { self.b.ins().ushr_imm_u(high, 24) }
            }
            Inst::Narrow(parts) => {
                let [p, q, r, s] = parts.map(|p| self.value(p));
                let (low, high) = (self.b.ins().snarrow(p, q), self.b.ins().snarrow(r, s));
                let bytes = self.b.ins().snarrow(low, high);
                math::bitcast(&mut self.b, types::I32X4, bytes)
            }
            Inst::Lut16(a, table) => {
                let bytes: Vec<u8> = table.iter().map(|&x| x as u8).collect();
                let constant = self.b.func.dfg.constants.insert(bytes.into());
                let table = self.b.ins().vconst(types::I8X16, constant);
                let a = self.value(*a);
                let indices = math::bitcast(&mut self.b, types::I8X16, a);
                let looked_up = self.b.ins().x86_pshufb(table, indices);
                math::bitcast(&mut self.b, types::I32X4, looked_up)
            }
            Inst::Load { buf, index, mem, vector } => self.load(*buf, *index, *mem, *vector),
            Inst::Dot4Unsigned(..)
            | Inst::LutNibbles(..)
            | Inst::Elected
            | Inst::ShuffleXor(..)
            | Inst::WarpOr(_)
            | Inst::Shuffle(..)
            | Inst::Mma(..)
            | Inst::AtomicAdd { .. } => {
                return Err(gpu_only());
            }
        })
    }

    /// (0 op 1) op (2 op 3) over the lanes.
    fn reduce(&mut self, a: Value, op: impl Fn(&mut Self, V, V) -> V) -> V {
        let a = self.value(a);
        let [w, x, y, z] = [0, 1, 2, 3].map(|i| self.b.ins().extractlane(a, i));
        let (low, high) = (op(self, w, x), op(self, y, z));
        op(self, low, high)
    }

    fn unary(&mut self, op: Unary, a: Value, ty: Type) -> Result<V> {
        let a = self.value(a);
        Ok(match op {
            Unary::Abs => self.b.ins().fabs(a),
            Unary::Sqrt => self.b.ins().sqrt(a),
            Unary::ToFloat => self.b.ins().fcvt_from_sint(ty, a),
            Unary::Exp => math::exp(&mut self.b, self.has_fma, a),
            Unary::Round => math::round(&mut self.b, a),
            Unary::FromHalf => math::from_half(&mut self.b, a),
            Unary::ToHalf => math::to_half(&mut self.b, a),
            Unary::FromBf16 => math::from_bf16(&mut self.b, a),
            Unary::CountOnes => self.b.ins().popcnt(a),
            Unary::FillBytes => math::fill_bytes(&mut self.b, a),
            Unary::Log => math::log(&mut self.b, self.has_fma, a),
            Unary::Sin | Unary::Cos | Unary::AsFloat => return Err(gpu_only()),
        })
    }

    fn binary(&mut self, op: Binary, a: Value, by: Value) -> V {
        let constant = match self.kernel.inst(by) {
            Inst::Int(i) => i64::from(*i as u32),
            _ => 0,
        };
        let (x, y) = (self.value(a), self.value(by));
        match op {
            Binary::IAdd => self.b.ins().iadd(x, y),
            Binary::ISub => self.b.ins().isub(x, y),
            Binary::IMul => self.b.ins().imul(x, y),
            Binary::UMin => {
                let less = self.b.ins().icmp(IntCC::UnsignedLessThan, x, y);
                math::select(&mut self.b, less, x, y)
            }
            Binary::UDiv => self.b.ins().udiv(x, y),
            Binary::URem => self.b.ins().urem(x, y),
            Binary::And => self.b.ins().band(x, y),
            Binary::Or => self.b.ins().bor(x, y),
            Binary::Xor => self.b.ins().bxor(x, y),
            Binary::Shl => self.b.ins().ishl_imm_u(x, constant),
            Binary::ShrU => self.b.ins().ushr_imm_u(x, constant),
            Binary::ShrS => self.b.ins().sshr_imm_u(x, constant),
            Binary::SubBytes => math::sub_bytes(&mut self.b, x, y),
            Binary::FAdd => self.b.ins().fadd(x, y),
            Binary::FSub => self.b.ins().fsub(x, y),
            Binary::FMul => self.b.ins().fmul(x, y),
            Binary::FDiv => self.b.ins().fdiv(x, y),
            Binary::FMax => math::fmax(&mut self.b, x, y),
        }
    }
}
