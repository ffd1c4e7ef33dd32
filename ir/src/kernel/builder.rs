//! Builds kernels: folds integer constants, shares pure instructions within their scope, allots scratch memory.

use super::{
    Access, Arg, Binary, Buf, BufDecl, BulkCopy, Compare, Grid, Inst, Kernel, Mem, Mma, Scope, Space, Special, Stmt,
    Ty, Unary, Value, Var,
};
use crate::abi::Atom;
use std::borrow::Cow;
use std::collections::HashMap;

/// A kernel in the making.
#[derive(Debug)]
pub struct Builder {
    kernel: Kernel,
    /// The statements that are open, outermost first.
    bodies: Vec<Body>,
}

#[derive(Debug, Default)]
struct Body {
    code: Vec<Stmt>,
    known: HashMap<Inst, Value>,
}

/// Functions named after two-operand instructions.
macro_rules! binary {
    ($($name:ident $op:ident),* $(,)?) => {
        $(#[doc = concat!("[`Binary::", stringify!($op), "`].")]
        pub fn $name(&mut self, a: Value, b: Value) -> Value { self.binary(Binary::$op, a, b) })*
    };
}

/// Functions named after one-operand instructions.
macro_rules! unary {
    ($($name:ident $op:ident),* $(,)?) => {
        $(#[doc = concat!("[`Unary::", stringify!($op), "`].")]
        pub fn $name(&mut self, a: Value) -> Value { self.unary(Unary::$op, a) })*
    };
}

impl Builder {
    /// An empty kernel.
    pub fn new(name: impl Into<String>) -> Self {
        Builder { kernel: Kernel::empty(name.into()), bodies: vec![Body::default()] }
    }

    /// Makes it a kernel for a GPU.
    pub fn set_grid(&mut self, grid: Grid) {
        self.kernel.grid = Some(grid);
    }

    /// The finished kernel.
    pub fn finish(mut self) -> Kernel {
        self.kernel.body = self.bodies.pop().map(|b| b.code).unwrap_or_default();
        self.kernel
    }

    /// The next parameter.
    pub fn param(&mut self, name: impl Into<String>, mem: Mem, bytes: u64, access: Access) -> Buf {
        let space = Space::Param(self.kernel.params());
        self.kernel.buffers.push(BufDecl { name: name.into(), mem, space, bytes, access });
        Buf(self.kernel.buffers.len() as u32 - 1)
    }

    /// Scratch memory of this worker, 64-byte aligned.
    pub fn scratch(&mut self, name: impl Into<String>, mem: Mem, bytes: u64) -> Buf {
        let offset = self.kernel.scratch_bytes;
        self.kernel.scratch_bytes += bytes.next_multiple_of(64);
        let space = Space::Scratch(u32::try_from(offset).expect("scratch memory is far below 4 GiB"));
        self.kernel.buffers.push(BufDecl { name: name.into(), mem, space, bytes, access: Access::Write });
        Buf(self.kernel.buffers.len() as u32 - 1)
    }

    /// Words, as integers or floats, that are part of the kernel; the buffer that already holds them, or a new one.
    pub fn constant(&mut self, name: impl Into<String>, mem: Mem, words: impl Into<Cow<'static, [u32]>>) -> Buf {
        let words = words.into();
        let bytes = size_of_val(&*words) as u64;
        let space = Space::Constant(words);
        let known = self.kernel.buffers.iter().position(|b| b.space == space && b.mem == mem);
        let number = known.unwrap_or_else(|| {
            self.kernel.buffers.push(BufDecl { name: name.into(), mem, space, bytes, access: Access::Constant });
            self.kernel.buffers.len() - 1
        });
        Buf(number as u32)
    }

    /// A variable with a first value.
    pub fn var(&mut self, init: Value) -> Var {
        self.kernel.vars.push(self.kernel.ty(init));
        let var = Var(self.kernel.vars.len() as u32 - 1);
        self.set(var, init);
        var
    }

    /// Changes a variable.
    pub fn set(&mut self, var: Var, value: Value) {
        self.push(Stmt::Set(var, value));
    }

    /// Reads a variable.
    pub fn get(&mut self, var: Var) -> Value {
        let ty = self.kernel.vars[var.0 as usize];
        self.fresh(Inst::Get(var), ty)
    }

    fn push(&mut self, stmt: Stmt) {
        self.bodies.last_mut().expect("the outermost body stays until finish").code.push(stmt);
    }

    fn fresh(&mut self, inst: Inst, ty: Ty) -> Value {
        let value = self.define(inst, ty);
        self.push(Stmt::Let(value));
        value
    }

    fn define(&mut self, inst: Inst, ty: Ty) -> Value {
        self.kernel.values.push((inst, ty));
        Value(self.kernel.values.len() as u32 - 1)
    }

    /// A pure instruction: the value that already holds it in this scope, or a new one.
    fn pure(&mut self, inst: Inst, ty: Ty) -> Value {
        if let Some(&v) = self.bodies.iter().rev().find_map(|b| b.known.get(&inst)) {
            return v;
        }
        let value = self.fresh(inst.clone(), ty);
        self.bodies.last_mut().expect("the outermost body stays until finish").known.insert(inst, value);
        value
    }

    /// The constant that a value is, if it is one.
    pub fn as_int(&self, v: Value) -> Option<i32> {
        match self.kernel.inst(v) {
            Inst::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// Type of a value.
    pub fn ty(&self, v: Value) -> Ty {
        self.kernel.ty(v)
    }

    /// i32 constant.
    pub fn int(&mut self, v: i32) -> Value {
        self.pure(Inst::Int(v), Ty::I32)
    }

    /// i32 constant from a size.
    ///
    /// # Panics
    /// If it does not fit 32 bits.
    pub fn size(&mut self, v: usize) -> Value {
        self.int(u32::try_from(v).expect("kernel indices are 32 bits") as i32)
    }

    /// f32 constant.
    pub fn float(&mut self, v: f32) -> Value {
        self.pure(Inst::Float(v.to_bits()), Ty::F32)
    }

    /// A value of the launch.
    pub fn special(&mut self, special: Special) -> Value {
        self.pure(Inst::Special(special), Ty::I32)
    }

    /// Position of the first token.
    pub fn position(&mut self) -> Value {
        self.special(Special::Position)
    }

    /// Tokens in this step.
    pub fn tokens(&mut self) -> Value {
        self.special(Special::Tokens)
    }

    /// A one-operand instruction.
    pub fn unary(&mut self, op: Unary, a: Value) -> Value {
        let vector = self.ty(a).is_vector();
        let scalar = match op {
            Unary::Round | Unary::ToHalf | Unary::CountOnes | Unary::FillBytes => Ty::I32,
            _ => Ty::F32,
        };
        self.pure(Inst::Unary(op, a), if vector { scalar.vector() } else { scalar })
    }

    /// A two-operand instruction; integer constants fold.
    pub fn binary(&mut self, op: Binary, a: Value, b: Value) -> Value {
        if let Some(v) = self.fold(op, a, b) {
            return v;
        }
        let ty = self.ty(a);
        self.pure(Inst::Binary(op, a, b), ty)
    }

    fn fold(&mut self, op: Binary, a: Value, b: Value) -> Option<Value> {
        let (x, y) = (self.as_int(a), self.as_int(b));
        if let (Some(x), Some(y)) = (x, y) {
            let (ux, uy) = (x as u32, y as u32);
            let folded = match op {
                Binary::IAdd => x.wrapping_add(y),
                Binary::ISub => x.wrapping_sub(y),
                Binary::IMul => x.wrapping_mul(y),
                Binary::UMin => ux.min(uy) as i32,
                Binary::UDiv => ux.checked_div(uy)? as i32,
                Binary::URem => ux.checked_rem(uy)? as i32,
                Binary::And => x & y,
                Binary::Or => x | y,
                Binary::Xor => x ^ y,
                Binary::Shl => ux.checked_shl(uy)? as i32,
                Binary::ShrU => ux.checked_shr(uy)? as i32,
                Binary::ShrS => x.checked_shr(uy)?,
                _ => return None,
            };
            return Some(self.int(folded));
        }
        match (op, x, y) {
            (Binary::IAdd | Binary::Or | Binary::Xor, Some(0), _) => Some(b),
            (
                Binary::IAdd | Binary::ISub | Binary::Or | Binary::Xor | Binary::Shl | Binary::ShrU | Binary::ShrS,
                _,
                Some(0),
            ) => Some(a),
            (Binary::IMul, Some(1), _) => Some(b),
            (Binary::IMul | Binary::UDiv, _, Some(1)) => Some(a),
            (Binary::IMul, _, Some(0)) | (Binary::URem, _, Some(1)) => Some(self.int(0)),
            _ => None,
        }
    }

    binary! {
        iadd IAdd, isub ISub, imul IMul, umin UMin, udiv UDiv, urem URem, and And, or Or, xor Xor, shl Shl, shr_u ShrU, shr_s ShrS,
        sub_bytes SubBytes, fadd FAdd, fsub FSub, fmul FMul, fdiv FDiv, fmax FMax,
    }

    unary! {
        fabs Abs, sqrt Sqrt, exp Exp, round Round, to_float ToFloat, from_half FromHalf, to_half ToHalf, from_bf16 FromBf16,
        sin Sin, cos Cos, log Log, as_float AsFloat, count_ones CountOnes, fill_bytes FillBytes,
    }

    /// a + constant.
    pub fn iadd_const(&mut self, a: Value, by: usize) -> Value {
        let by = self.size(by);
        self.iadd(a, by)
    }

    /// a * constant.
    pub fn imul_const(&mut self, a: Value, by: usize) -> Value {
        let by = self.size(by);
        self.imul(a, by)
    }

    /// A comparison.
    pub fn compare(&mut self, op: Compare, a: Value, b: Value) -> Value {
        let ty = if self.ty(a).is_vector() { Ty::Bool4 } else { Ty::Bool };
        self.pure(Inst::Compare(op, a, b), ty)
    }

    /// `a` where `cond`, else `b`.
    pub fn select(&mut self, cond: Value, a: Value, b: Value) -> Value {
        let ty = self.ty(a);
        self.pure(Inst::Select(cond, a, b), ty)
    }

    /// a * b + c.
    pub fn fma(&mut self, a: Value, b: Value, c: Value) -> Value {
        let ty = self.ty(a);
        self.pure(Inst::Fma(a, b, c), ty)
    }

    /// A scalar in four lanes.
    pub fn splat(&mut self, a: Value) -> Value {
        let ty = self.ty(a).vector();
        self.pure(Inst::Splat(a), ty)
    }

    /// Four scalars as lanes.
    pub fn pack(&mut self, lanes: [Value; 4]) -> Value {
        let ty = self.ty(lanes[0]).vector();
        self.pure(Inst::Pack(lanes), ty)
    }

    /// One lane.
    pub fn lane(&mut self, a: Value, lane: u8) -> Value {
        let ty = self.ty(a).scalar();
        self.pure(Inst::Lane(a, lane), ty)
    }

    /// Sum of the lanes.
    pub fn sum(&mut self, a: Value) -> Value {
        let ty = self.ty(a).scalar();
        self.pure(Inst::Sum(a), ty)
    }

    /// Largest lane.
    pub fn max(&mut self, a: Value) -> Value {
        let ty = self.ty(a).scalar();
        self.pure(Inst::Max(a), ty)
    }

    /// Signed 8-bit dots of four, added to `acc`.
    pub fn dot4(&mut self, a: Value, b: Value, acc: Value) -> Value {
        let ty = self.ty(acc);
        self.pure(Inst::Dot4(a, b, acc), ty)
    }

    /// Dots of four bytes, those of `a` unsigned, added to `acc`.
    pub fn dot4_unsigned(&mut self, a: Value, b: Value, acc: Value) -> Value {
        self.pure(Inst::Dot4Unsigned(a, b, acc), Ty::I32)
    }

    /// Byte `number` of a word, sign- or zero-extended.
    pub fn byte(&mut self, a: Value, number: u8, signed: bool) -> Value {
        self.pure(Inst::Byte(a, number, signed), Ty::I32)
    }

    /// Sixteen i32 as bytes.
    pub fn narrow(&mut self, parts: [Value; 4]) -> Value {
        self.pure(Inst::Narrow(parts), Ty::I32x4)
    }

    /// Table lookup of each byte.
    pub fn lut16(&mut self, a: Value, table: [i8; 16]) -> Value {
        let ty = self.ty(a);
        self.pure(Inst::Lut16(a, table), ty)
    }

    /// Table lookup of the four nibbles in a half of a word.
    pub fn lut_nibbles(&mut self, a: Value, half: u8, table: [i8; 16]) -> Value {
        self.pure(Inst::LutNibbles(a, half, table), Ty::I32)
    }

    /// One word of a constant; the same index gives the same value.
    pub fn load_constant(&mut self, buf: Buf, index: Value) -> Value {
        self.pure(Inst::Load { buf, index, mem: Mem::I32, vector: false }, Ty::I32)
    }

    /// One element.
    pub fn load(&mut self, buf: Buf, index: Value, mem: Mem) -> Value {
        self.fresh(Inst::Load { buf, index, mem, vector: false }, mem.ty())
    }

    /// Four consecutive elements of four bytes.
    pub fn load4(&mut self, buf: Buf, index: Value, mem: Mem) -> Value {
        self.fresh(Inst::Load { buf, index, mem, vector: true }, mem.ty().vector())
    }

    /// Writes one element, or four if `value` is a vector.
    pub fn store(&mut self, buf: Buf, index: Value, mem: Mem, value: Value) {
        self.push(Stmt::Store { buf, index, mem, value });
    }

    fn block(&mut self, f: impl FnOnce(&mut Self)) -> Vec<Stmt> {
        self.open();
        f(self);
        self.close()
    }

    fn open(&mut self) {
        self.bodies.push(Body::default());
    }

    fn close(&mut self) -> Vec<Stmt> {
        self.bodies.pop().map(|b| b.code).unwrap_or_default()
    }

    /// Opens the body of a loop, to be closed by [`close_for`](Self::close_for) or
    /// [`close_parallel`](Self::close_parallel); gives its index.
    pub fn open_loop(&mut self) -> Value {
        self.open();
        self.define(Inst::Index, Ty::I32)
    }

    /// Closes the innermost open loop: `for index in (from..to).step_by(step)`.
    pub fn close_for(&mut self, index: Value, from: Value, to: Value, step: u32) {
        let body = self.close();
        self.push(Stmt::For { index, from, to, step, body });
    }

    /// Closes the innermost open loop: once for each index below `count`, spread over the workers.
    pub fn close_parallel(&mut self, index: Value, count: Value) {
        let body = self.close();
        let ticket = self.kernel.tickets;
        self.kernel.tickets += 1;
        self.push(Stmt::Parallel { ticket, index, count, body });
    }

    /// `for index in (from..to).step_by(step)`.
    pub fn for_(&mut self, from: Value, to: Value, step: u32, f: impl FnOnce(&mut Self, Value)) {
        let index = self.open_loop();
        f(self, index);
        self.close_for(index, from, to, step);
    }

    /// `for index in (0..to).step_by(step)` with a constant bound.
    pub fn for_n(&mut self, to: usize, step: u32, f: impl FnOnce(&mut Self, Value)) {
        let (from, to) = (self.int(0), self.size(to));
        self.for_(from, to, step, f);
    }

    /// The body once for each index below `count`, spread over the workers.
    pub fn parallel(&mut self, count: Value, f: impl FnOnce(&mut Self, Value)) {
        let index = self.open_loop();
        f(self, index);
        self.close_parallel(index, count);
    }

    /// Opens a branch, to be closed by [`close_if`](Self::close_if).
    pub fn open_if(&mut self) {
        self.open();
    }

    /// Closes the innermost open branch: `if cond`.
    pub fn close_if(&mut self, cond: Value) {
        let then = self.close();
        self.push(Stmt::If { cond, then, other: Vec::new() });
    }

    /// `if cond`.
    pub fn if_(&mut self, cond: Value, f: impl FnOnce(&mut Self)) {
        self.open_if();
        f(self);
        self.close_if(cond);
    }

    /// `if cond {} else {}`.
    pub fn if_else(&mut self, cond: Value, f: impl FnOnce(&mut Self), g: impl FnOnce(&mut Self)) {
        let then = self.block(f);
        let other = self.block(g);
        self.push(Stmt::If { cond, then, other });
    }

    /// Waits for all workers.
    pub fn barrier(&mut self) {
        self.push(Stmt::Barrier);
    }

    /// Waits for the other threads of the scope.
    pub fn sync(&mut self, scope: Scope) {
        self.push(Stmt::Sync(scope));
    }

    /// Waits for the launch before this one.
    pub fn await_previous(&mut self) {
        self.push(Stmt::AwaitPrevious);
    }

    /// Makes an mbarrier in shared memory.
    pub fn mbarrier_init(&mut self, buf: Buf, index: Value) {
        self.push(Stmt::MbarrierInit(buf, index));
    }

    /// Shows bulk copies what this thread wrote to shared memory.
    pub fn fence_async(&mut self) {
        self.push(Stmt::FenceAsync);
    }

    /// Starts a bulk copy to shared memory, in one thread.
    pub fn bulk_copy(&mut self, copy: BulkCopy) {
        self.push(Stmt::BulkCopy(copy));
    }

    /// Waits for the end of a phase of an mbarrier.
    pub fn mbarrier_wait(&mut self, buf: Buf, index: Value, parity: Value) {
        self.push(Stmt::MbarrierWait { buf, index, parity });
    }

    /// Whether this thread is the chosen one of its warp.
    pub fn elected(&mut self) -> Value {
        self.fresh(Inst::Elected, Ty::Bool)
    }

    /// The value of the lane whose number differs by `mask`.
    pub fn shuffle_xor(&mut self, a: Value, mask: u32) -> Value {
        let ty = self.ty(a);
        self.fresh(Inst::ShuffleXor(a, mask), ty)
    }

    /// The bits of all lanes of the warp.
    pub fn warp_or(&mut self, a: Value) -> Value {
        self.fresh(Inst::WarpOr(a), Ty::I32)
    }

    /// The value of lane `lane`.
    pub fn shuffle(&mut self, a: Value, lane: Value) -> Value {
        let ty = self.ty(a);
        self.fresh(Inst::Shuffle(a, lane), ty)
    }

    /// `c` plus a matrix product of the warp.
    pub fn mma(&mut self, kind: Mma, a: Value, b: [Value; 2], c: Value) -> Value {
        self.fresh(Inst::Mma(kind, a, b, c), Ty::I32x4)
    }

    /// Adds to an element of device memory; what was there.
    pub fn atomic_add(&mut self, buf: Buf, index: Value, value: Value) -> Value {
        self.fresh(Inst::AtomicAdd { buf, index, value }, Ty::I32)
    }

    /// Calls a microkernel.
    pub fn call(&mut self, atom: Atom, args: Vec<Arg>) {
        self.push(Stmt::Call { atom, args });
    }
}
