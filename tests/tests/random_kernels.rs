//! Small random kernels: the interpreter, the CPU's backend and the emulated GPU's give the same bits.
//!
//! Only what is exact by its contract is generated, and floats are kept finite and normal, so that nothing is left open.
//! `RIGC_SEED` chooses the kernels.

use ir::Verified;
use ir::abi::Control;
use ir::kernel::{Access, Binary, Buf, Builder, Compare, Grid, Kernel, Mem, Scope, Special, Ty, Unary, Value, interp};
use ir::target::{Isa, Target};
use tests::damage::seed;
use tests::kernels;
use tests::run;
use tests::synthetic::Rng;

/// Elements that a kernel computes, each by itself: the threads of a CTA.
const ELEMENTS: usize = 64;
/// Words that each stores.
const WORDS: usize = 6;
/// Kernels of each kind.
const KERNELS: u64 = 60;
/// Words of the input.
const INPUT: usize = 64;

const INTS: [Binary; 9] = [
    Binary::IAdd,
    Binary::ISub,
    Binary::IMul,
    Binary::UMin,
    Binary::And,
    Binary::Or,
    Binary::Xor,
    Binary::SubBytes,
    Binary::IAdd,
];
const BY_CONSTANT: [Binary; 5] = [Binary::UDiv, Binary::URem, Binary::Shl, Binary::ShrU, Binary::ShrS];
const FLOATS: [Binary; 5] = [Binary::FAdd, Binary::FSub, Binary::FMul, Binary::FMax, Binary::FDiv];

/// What a random kernel is built from.
struct Random<'a> {
    b: Builder,
    rng: &'a mut Rng,
    /// Values in scope.
    ints: Vec<Value>,
    floats: Vec<Value>,
    input: Buf,
    gpu: bool,
    /// Whether products are rounded before they are added to.
    fma: bool,
}

impl Random<'_> {
    fn int(&mut self) -> Value {
        self.ints[self.rng.below(self.ints.len())]
    }

    fn float(&mut self) -> Value {
        self.floats[self.rng.below(self.floats.len())]
    }

    /// A float that is 0 or of a magnitude from 1e-3 to 1e6.
    fn tame(&mut self, x: Value) -> Value {
        let b = &mut self.b;
        let (zero, one, least, most) = (b.float(0.0), b.float(1.0), b.float(1e-3), b.float(1e6));
        let size = b.fabs(x);
        let (large, small) = (b.compare(Compare::FLt, size, most), b.compare(Compare::FLt, size, least));
        let x = b.select(large, x, one);
        b.select(small, zero, x)
    }

    fn push_float(&mut self, x: Value) {
        let x = self.tame(x);
        self.floats.push(x);
    }

    fn condition(&mut self) -> Value {
        let (a, b) = (self.int(), self.int());
        let (x, y) = (self.float(), self.float());
        match self.rng.below(4) {
            0 => self.b.compare(Compare::ULt, a, b),
            1 => self.b.compare(Compare::IEq, a, b),
            2 => self.b.compare(Compare::FLt, x, y),
            _ => self.b.compare(Compare::FEq, x, y),
        }
    }

    /// One more value.
    fn grow(&mut self) {
        let (a, c) = (self.int(), self.int());
        let (x, y, z) = (self.float(), self.float(), self.float());
        match self.rng.below(14) {
            0 | 1 => {
                let op = INTS[self.rng.below(INTS.len())];
                let v = self.b.binary(op, a, c);
                self.ints.push(v);
            }
            2 => {
                let op = BY_CONSTANT[self.rng.below(BY_CONSTANT.len())];
                let by = if matches!(op, Binary::UDiv | Binary::URem) {
                    1 + (self.rng.next() >> (32 + self.rng.below(31))) as i32
                } else {
                    self.rng.below(32) as i32
                };
                let by = self.b.int(by.max(1));
                let v = self.b.binary(op, a, by);
                self.ints.push(v);
            }
            3 => {
                let v = match self.rng.below(3) {
                    0 => self.b.count_ones(a),
                    1 => self.b.fill_bytes(a),
                    _ => {
                        let (n, signed) = (self.rng.below(4) as u8, self.rng.below(2) == 0);
                        self.b.byte(a, n, signed)
                    }
                };
                self.ints.push(v);
            }
            4 => {
                let cond = self.condition();
                let v = self.b.select(cond, a, c);
                self.ints.push(v);
                let v = self.b.select(cond, x, y);
                self.floats.push(v);
            }
            5 => {
                let v = match self.rng.below(2) {
                    0 => self.b.round(x),
                    _ => self.b.to_half(x),
                };
                self.ints.push(v);
            }
            6 => {
                let op = [Unary::ToFloat, Unary::FromHalf, Unary::FromBf16][self.rng.below(3)];
                // Finite halves.
                let mask = self.b.int(0xfbff);
                let a = if op == Unary::ToFloat { a } else { self.b.and(a, mask) };
                let v = self.b.unary(op, a);
                self.push_float(v);
            }
            7 | 8 => {
                let op = FLOATS[self.rng.below(FLOATS.len())];
                let one = self.b.float(1.0);
                let y = if op == Binary::FDiv {
                    let size = self.b.fabs(y);
                    self.b.fadd(size, one)
                } else {
                    y
                };
                let v = self.b.binary(op, x, y);
                self.push_float(v);
            }
            9 if self.fma => {
                let v = self.b.fma(x, y, z);
                self.push_float(v);
            }
            10 => {
                let n = self.b.int(INPUT as i32);
                let at = self.b.urem(a, n);
                let v = self.b.load(self.input, at, Mem::I32);
                self.ints.push(v);
            }
            11 => self.vector(),
            _ => {
                let v = self.b.int(self.rng.next() as i32);
                self.ints.push(v);
            }
        }
    }

    /// Some instructions over four lanes, back to scalars.
    fn vector(&mut self) {
        let ints: [Value; 4] = std::array::from_fn(|_| self.int());
        let floats: [Value; 4] = std::array::from_fn(|_| self.float());
        let other = self.int();
        let (v, w) = (self.b.pack(ints), self.b.splat(other));
        let op = INTS[self.rng.below(INTS.len())];
        let v = self.b.binary(op, v, w);
        let table = std::array::from_fn(|_| self.rng.next() as i8);
        let low = self.b.int(0x0f0f_0f0f);
        let low = self.b.splat(low);
        let codes = self.b.and(v, low);
        let bytes = self.b.lut16(codes, table);
        let dots = match self.gpu {
            true => {
                let [a, b] = [v, bytes].map(|x| self.b.lane(x, 1));
                let (signed, half) = (self.b.dot4(a, b, other), self.rng.below(2) as u8);
                let unsigned = self.b.dot4_unsigned(a, b, signed);
                let looked_up = self.b.lut_nibbles(a, half, table);
                self.b.iadd(unsigned, looked_up)
            }
            false => {
                let dots = self.b.dot4(v, bytes, w);
                let narrow = self.b.narrow([v, bytes, dots, w]);
                self.b.sum(narrow)
            }
        };
        let sum = self.b.sum(bytes);
        let number = self.rng.below(4) as u8;
        let lane = self.b.lane(v, number);
        self.ints.extend([sum, dots, lane]);
        let f = self.b.pack(floats);
        let largest = self.b.max(f);
        self.floats.push(largest);
    }

    /// Code whose values go out of scope at its end, but for what it leaves in a variable.
    fn nested(&mut self, depth: usize) {
        let (int, float) = (self.int(), self.float());
        let (i, f) = (self.b.var(int), self.b.var(float));
        let before = (self.ints.len(), self.floats.len());
        let looped = self.rng.below(2) == 0;
        let cond = self.condition();
        let (from, to) = (self.b.int(self.rng.below(2) as i32), self.b.int(self.rng.below(5) as i32));
        let index = if looped {
            let index = self.b.open_loop();
            self.ints.push(index);
            index
        } else {
            self.b.open_if();
            cond
        };
        let (a, x) = (self.b.get(i), self.b.get(f));
        self.ints.push(a);
        self.floats.push(x);
        self.code(depth + 1);
        let (a, x) = (self.int(), self.float());
        self.b.set(i, a);
        self.b.set(f, x);
        if looped {
            self.b.close_for(index, from, to, 1 + self.rng.below(2) as u32)
        } else {
            self.b.close_if(index)
        }
        self.ints.truncate(before.0);
        self.floats.truncate(before.1);
        let (a, x) = (self.b.get(i), self.b.get(f));
        self.ints.push(a);
        self.floats.push(x);
    }

    fn code(&mut self, depth: usize) {
        for _ in 0..3 + self.rng.below(8) {
            match self.rng.below(6) {
                0 if depth < 2 => self.nested(depth),
                1 if depth == 0 && self.gpu => self.exchange(),
                _ => self.grow(),
            }
        }
    }

    /// Values of other lanes, where all lanes are.
    fn exchange(&mut self) {
        let (a, lane) = (self.int(), self.int());
        let x = self.float();
        let mask = self.rng.below(32) as u32;
        let v = match self.rng.below(3) {
            0 => self.b.shuffle_xor(a, mask),
            1 => {
                let most = self.b.int(31);
                let lane = self.b.and(lane, most);
                self.b.shuffle(a, lane)
            }
            _ => self.b.warp_or(a),
        };
        self.ints.push(v);
        let x = self.b.shuffle_xor(x, mask);
        self.floats.push(x);
    }
}

/// A kernel of each element; on a GPU its threads also exchange values through shared memory.
fn kernel(rng: &mut Rng, gpu: bool, fma: bool) -> Verified<Kernel> {
    let mut b = Builder::new("random");
    let input = b.param("input", Mem::I32, INPUT as u64 * 4, Access::Read);
    let out = b.param("out", Mem::U8, (ELEMENTS * WORDS * 4) as u64, Access::Write);
    let shared = b.scratch("shared", Mem::I32, ELEMENTS as u64 * 4);
    let count = b.int(ELEMENTS as i32);
    let i = if gpu {
        b.set_grid(Grid { ctas: 1, threads: ELEMENTS as u32 });
        b.await_previous();
        b.special(Special::Thread)
    } else {
        b.open_loop()
    };
    let (position, tokens, one) = (b.position(), b.tokens(), b.float(1.5));
    let word = b.load(input, i, Mem::I32);
    let mut r = Random { b, rng, ints: vec![i, word, position, tokens], floats: vec![one], input, gpu, fma };
    let x = r.b.to_float(word);
    r.push_float(x);
    r.code(0);
    if gpu {
        let v = r.int();
        r.b.store(shared, i, Mem::I32, v);
        r.b.sync(Scope::Cta);
        let last = r.b.int(ELEMENTS as i32 - 1);
        let other = r.b.isub(last, i);
        let v = r.b.load(shared, other, Mem::I32);
        r.ints.push(v);
        r.code(0);
    }
    let first = r.b.imul_const(i, WORDS * 4);
    for word in 0..WORDS {
        let at = r.b.iadd_const(first, word * 4);
        let (a, x) = (r.int(), r.float());
        if word % 2 == 0 { r.b.store(out, at, Mem::I32, a) } else { r.b.store(out, at, Mem::F32, x) }
    }
    if !gpu {
        r.b.close_parallel(i, count);
    }
    let kernel = r.b.finish();
    assert!(kernel.vars.iter().all(|ty| matches!(ty, Ty::I32 | Ty::F32)));
    kernel.verify().unwrap_or_else(|e| panic!("{e}"))
}

/// Random kernels of one kind on the interpreter and for these targets.
fn check(targets: &[&Target], gpu: bool, fma: bool) {
    let seed = seed(1);
    for number in 0..KERNELS {
        let mut rng = Rng::new(seed.wrapping_mul(1000).wrapping_add(number));
        let kernel = kernel(&mut rng, gpu, fma);
        let input: Vec<u8> = (0..INPUT).flat_map(|_| ((rng.next() as u32) >> rng.below(32)).to_le_bytes()).collect();
        let params = vec![input, vec![0xff; ELEMENTS * WORDS * 4]];
        let control = Control { position: rng.below(1 << 20) as u32, tokens: 1 + rng.below(40) as u32 };
        let mut expected = params.clone();
        interp::run(&kernel, &mut expected, control, 3).unwrap_or_else(|e| panic!("kernel {number}: {e}\n{}", *kernel));
        for target in targets {
            let found = kernels::launch(&kernel, target, 3, 1, &params, control, Clone::clone);
            let found = found.unwrap_or_else(|e| panic!("kernel {number} on {}: {e}\n{}", target.name, *kernel));
            let words = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect::<Vec<_>>();
            let (found, expected) = (words(&found[1]), words(&expected[1]));
            let differ = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert!(
                differ.is_none(),
                "kernel {number} on {}: word {differ:?} is {:#x}, expected {:#x}\n{}",
                target.name,
                found[differ.unwrap_or(0)],
                expected[differ.unwrap_or(0)],
                *kernel
            );
        }
    }
}

#[test]
fn cpu() {
    let (fma, other): (Vec<&Target>, _) = run::targets().into_iter().partition(|t| t.cpu() >= Some(Isa::X86_64V3));
    check(&fma, false, true);
    check(&other, false, false);
}

#[test]
fn gpu() {
    check(&["sm_80", "sm_120"].map(|name| Target::by_name(name).unwrap()), true, true);
}
