//! Products of matrices of every shape and type, against plain sums. Fragments of `mma` are put together here from the side
//! of the matrix: where an element is, by its row and its column.

use emu::{Launch, Memory, Module, Options, Schedule};

/// An element type.
#[derive(Clone, Copy, PartialEq)]
struct Type {
    name: &'static str,
    bits: usize,
}

const fn ty(name: &'static str, bits: usize) -> Type {
    Type { name, bits }
}

const F16: Type = ty("f16", 16);
const BF16: Type = ty("bf16", 16);
const TF32: Type = ty("tf32", 32);
const F32: Type = ty("f32", 32);
const F64: Type = ty("f64", 64);
const E4M3: Type = ty("e4m3", 8);
const E5M2: Type = ty("e5m2", 8);
const S8: Type = ty("s8", 8);
const U8: Type = ty("u8", 8);
const S4: Type = ty("s4", 4);
const U4: Type = ty("u4", 4);
const B1: Type = ty("b1", 1);
const S32: Type = ty("s32", 32);

impl Type {
    /// A value that the type has.
    fn sample(self, row: usize, column: usize) -> f64 {
        let n = (row * 37 + column * 101 + row * column) % 251;
        match self.name {
            "s32" => n as f64 * 1000.0 - 70_000.0,
            "s8" => (n as u8 as i8).into(),
            "u8" => n as f64,
            "s4" => (n % 16) as f64 - 8.0,
            "u4" => (n % 16) as f64,
            "b1" => (n % 2) as f64,
            _ => (n % 9) as f64 / 4.0 - 1.0,
        }
    }

    fn encode(self, x: f64) -> u64 {
        match self.name {
            "f16" => half::f16::from_f64(x).to_bits().into(),
            "bf16" => half::bf16::from_f64(x).to_bits().into(),
            "tf32" | "f32" => (x as f32).to_bits().into(),
            "f64" => x.to_bits(),
            "e4m3" => eight_bits(x, 3, 7),
            "e5m2" => eight_bits(x, 2, 15),
            _ => x as i64 as u64 & ((1 << self.bits) - 1),
        }
    }

    fn decode(self, bits: u64) -> f64 {
        match self.name {
            "f16" => half::f16::from_bits(bits as u16).to_f64(),
            "f32" => f32::from_bits(bits as u32).into(),
            "f64" => f64::from_bits(bits),
            _ => (bits as i32).into(),
        }
    }

    fn register(self) -> usize {
        self.bits.max(32)
    }
}

/// A normal number or zero as 8 bits, from its definition.
fn eight_bits(x: f64, mantissa: u32, bias: i32) -> u64 {
    if x == 0.0 {
        return 0;
    }
    let exponent = x.abs().log2().floor() as i32;
    let fraction = (x.abs() / 2f64.powi(exponent) - 1.0) * f64::from(1 << mantissa);
    u64::from(x < 0.0) << 7 | ((exponent + bias) as u64) << mantissa | fraction as u64
}

/// How a pair of factors counts.
type Term = fn(f64, f64) -> f64;

/// Products of single bits.
const BITS: [(&str, Term); 2] = [("xor", |x, y| (x - y).abs()), ("and", |x, y| x * y)];

/// What one product is made of.
struct Case {
    /// With the shape in it.
    instruction: String,
    size: [usize; 3],
    a: Type,
    b: Type,
    c: Type,
    d: Type,
    /// If the factors are bits.
    bits: Option<Term>,
}

impl Case {
    fn a(&self, row: usize, k: usize) -> f64 {
        self.a.sample(row + 1, k)
    }

    fn b(&self, k: usize, column: usize) -> f64 {
        self.b.sample(k + 3, column + 5)
    }

    fn c(&self, row: usize, column: usize) -> f64 {
        self.c.sample(row + 7, column)
    }

    fn want(&self, row: usize, column: usize) -> f64 {
        let term = self.bits.unwrap_or(|x, y| x * y);
        self.c(row, column) + (0..self.size[2]).map(|k| term(self.a(row, k), self.b(k, column))).sum::<f64>()
    }
}

/// Where `mma` has an element: lane, register, place in the register.
type Place = fn(Type, usize, usize, usize) -> (usize, usize, usize);

const A: Place = |t, rows, row, k| {
    let per = t.register() / t.bits;
    (row % 8 * 4 + k / per % 4, row / 8 + rows / 8 * (k / (4 * per)), k % per)
};
const B: Place = |t, _, k, column| {
    let per = t.register() / t.bits;
    (column * 4 + k / per % 4, k / (4 * per), k % per)
};
const C: Place = |t, _, row, column| {
    let i = row / 8 * 2 + column % 2;
    let per = t.register() / t.bits;
    (row % 8 * 4 + column / 2, i / per, i % per)
};

/// Runs a kernel in a warp. `%rd1` is the address of the output of the whole warp, `%rd2` that of the input; `%r0` the lane.
fn run(body: &str, input: &[u64], output: usize) -> Vec<u64> {
    let text = format!(
        "\
.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 out, .param .u64 in)
{{
.reg .b32 %r<64>; .reg .b32 %a<16>; .reg .b32 %b<16>; .reg .b32 %c<16>; .reg .b32 %d<16>; .reg .b64 %rd<64>;
.reg .f32 %fc<16>; .reg .f32 %fd<16>; .reg .f64 %ga<16>; .reg .f64 %gb<16>; .reg .f64 %gc<16>; .reg .f64 %gd<16>;
ld.param.u64 %rd1,[out]; ld.param.u64 %rd2,[in]; mov.u32 %r0,%tid.x;
{body}
ret;
}}
"
    );
    if let Some(dir) = std::env::var_os("RIGC_KEEP_PTX") {
        let at = text.bytes().fold(5381u64, |h, b| h.wrapping_mul(33) ^ u64::from(b));
        std::fs::write(std::path::Path::new(&dir).join(format!("product-{at:x}.ptx")), &text).unwrap();
    }
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{body}"));
    let mut memory = Memory::new(1 << 20);
    let loaded = module.load(&mut memory).unwrap();
    let out = memory.alloc_with(vec![0; 8 * output], 256).unwrap();
    let input = memory.alloc_with(input.iter().flat_map(|w| w.to_le_bytes()).collect(), 256).unwrap();
    let params = [out, input].iter().flat_map(|a| a.to_le_bytes()).collect();
    let launch = Launch { entry: "k".into(), grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, params };
    let options = Options { schedule: Schedule { seed: 1 }, max_steps: 1 << 20, ..Options::default() };
    loaded.run(&mut memory, &launch, &options).unwrap_or_else(|e| panic!("{e}\n{body}"));
    let bytes = memory.read(out, 8 * output as u64).unwrap();
    bytes.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
}

/// The name of a register of a matrix.
fn register(t: Type, matrix: char, i: usize) -> String {
    match t.name {
        "f64" => format!("%g{matrix}{i}"),
        "f32" => format!("%f{matrix}{i}"),
        _ => format!("%{matrix}{i}"),
    }
}

fn list(t: Type, matrix: char, n: usize) -> String {
    format!("{{{}}}", (0..n).map(|i| register(t, matrix, i)).collect::<Vec<_>>().join(","))
}

/// Executes `mma` with fragments that are laid out here, and checks every element of the result.
fn check_mma(case: &Case, places: [Place; 3]) {
    let [m, n, k] = case.size;
    let all = [(case.a, m, k), (case.b, k, n), (case.c, m, n)];
    // At most 8 registers of each matrix, in words of 8 bytes, for each lane.
    let mut words = vec![0u64; 32 * 24];
    let mut registers = [0; 3];
    for (which, &(t, rows, columns)) in all.iter().enumerate() {
        for row in 0..rows {
            for column in 0..columns {
                let (lane, reg, e) = places[which](t, rows, row, column);
                let value = [Case::a, Case::b, Case::c][which](case, row, column);
                words[lane * 24 + which * 8 + reg] |= t.encode(value) << (e * t.bits);
                registers[which] = registers[which].max(reg + 1);
            }
        }
    }
    let mut body = "mad.wide.u32 %rd3,%r0,192,%rd2; mad.wide.u32 %rd4,%r0,64,%rd1;\n".to_owned();
    for (which, &(t, _, _)) in all.iter().enumerate() {
        for i in 0..registers[which] {
            let (name, at) = (register(t, ['a', 'b', 'c'][which], i), which * 64 + i * 8);
            body += &format!("ld.global.b{} {name},[%rd3+{at}];\n", t.register());
        }
    }
    let outputs = m * n / 32 * case.d.bits / case.d.register();
    body += &format!(
        "{} {},{},{},{};\n",
        case.instruction,
        list(case.d, 'd', outputs),
        list(case.a, 'a', registers[0]),
        list(case.b, 'b', registers[1]),
        list(case.c, 'c', registers[2])
    );
    for i in 0..outputs {
        body += &format!("st.global.b{} [%rd4+{}],{};\n", case.d.register(), i * 8, register(case.d, 'd', i));
    }
    let got = run(&body, &words, 32 * 8);
    for row in 0..m {
        for column in 0..n {
            let (lane, reg, e) = places[2](case.d, m, row, column);
            let bits = got[lane * 8 + reg] >> (e * case.d.bits) & (u64::MAX >> (64 - case.d.bits));
            assert_eq!(case.d.decode(bits), case.want(row, column), "{} row {row} column {column}", case.instruction);
        }
    }
}

#[test]
fn mma_of_every_shape_and_type() {
    // Shape, factors, accumulators of products of these.
    type Row<'a> = ([usize; 3], &'a [(Type, Type)], &'a [Type]);
    let table: &[Row] = &[
        ([16, 8, 8], &[(F16, F16)], &[F16, F32]),
        ([16, 8, 16], &[(F16, F16)], &[F16, F32]),
        ([16, 8, 8], &[(BF16, BF16), (TF32, TF32)], &[F32]),
        ([16, 8, 16], &[(BF16, BF16)], &[F32]),
        ([16, 8, 4], &[(TF32, TF32)], &[F32]),
        ([8, 8, 4], &[(F64, F64)], &[F64]),
        ([16, 8, 4], &[(F64, F64)], &[F64]),
        ([16, 8, 8], &[(F64, F64)], &[F64]),
        ([16, 8, 16], &[(F64, F64)], &[F64]),
        ([16, 8, 16], &[(E4M3, E4M3), (E5M2, E4M3)], &[F32, F16]),
        ([16, 8, 32], &[(E4M3, E5M2), (E5M2, E5M2)], &[F32, F16]),
        ([8, 8, 16], &[(S8, S8), (U8, S8)], &[S32]),
        ([16, 8, 16], &[(S8, U8), (U8, U8)], &[S32]),
        ([16, 8, 32], &[(S8, S8), (U8, U8)], &[S32]),
        ([8, 8, 32], &[(S4, S4), (U4, S4)], &[S32]),
        ([16, 8, 32], &[(S4, U4), (U4, U4)], &[S32]),
        ([16, 8, 64], &[(S4, S4), (U4, U4)], &[S32]),
    ];
    for (size, factors, sums) in table {
        for &(a, b) in *factors {
            for &sum in *sums {
                let [m, n, k] = size;
                let types = [sum, a, b, sum].map(|t| t.name).join(".");
                let instruction = format!("mma.sync.aligned.m{m}n{n}k{k}.row.col.{types}");
                check_mma(&Case { instruction, size: *size, a, b, c: sum, d: sum, bits: None }, [A, B, C]);
            }
        }
    }
    for size in [[8, 8, 128], [16, 8, 128], [16, 8, 256]] {
        for (op, count) in BITS {
            let [m, n, k] = size;
            let instruction = format!("mma.sync.aligned.m{m}n{n}k{k}.row.col.s32.b1.b1.s32.{op}.popc");
            check_mma(&Case { instruction, size, a: B1, b: B1, c: S32, d: S32, bits: Some(count) }, [A, B, C]);
        }
    }
}

/// Four products of 8 by 8 by 4 at once: the first in lanes 0 to 3 and 16 to 19, and so on.
#[test]
fn mma_of_four_small_products() {
    let lane = |quad: usize, half: usize, member: usize| 16 * half + 4 * quad + member;
    for (a_order, b_order) in [("row", "col"), ("col", "row"), ("row", "row"), ("col", "col")] {
        for (d, c) in [(F32, F32), (F16, F16), (F32, F16)] {
            let sample = |quad: usize, row: usize, column: usize| F16.sample(row + 11 * quad, column + 3 * quad);
            let mut words = vec![0u64; 32 * 24];
            let place = |t: Type, row: usize, column: usize, quad: usize| match t.bits {
                16 => (lane(quad, row / 4, row % 4), column / 2, column % 2),
                _ => (
                    lane(quad, row / 4, row % 2 + (column / 2) % 2 * 2),
                    row / 2 % 2 * 2 + column / 4 * 4 + column % 2,
                    0,
                ),
            };
            for quad in 0..4 {
                for row in 0..8 {
                    for k in 0..4 {
                        let value = F16.encode(sample(quad, row, k));
                        let (at, i) = if a_order == "row" { (row % 4, k) } else { (k, row % 4) };
                        words[lane(quad, row / 4, at) * 24 + i / 2] |= value << (16 * (i % 2));
                        // The second factor, with its column in place of the row.
                        let value = F16.encode(sample(quad, k + 9, row));
                        let (at, i) = if b_order == "row" { (k, row % 4) } else { (row % 4, k) };
                        words[lane(quad, row / 4, at) * 24 + 8 + i / 2] |= value << (16 * (i % 2));
                    }
                    for column in 0..8 {
                        let (lane, reg, e) = place(c, row, column, quad);
                        words[lane * 24 + 16 + reg] |= c.encode(sample(quad, row + 5, column)) << (16 * e);
                    }
                }
            }
            let count = |t: Type| 8 * t.bits / 32;
            let mut body = "mad.wide.u32 %rd3,%r0,192,%rd2; mad.wide.u32 %rd4,%r0,64,%rd1;\n".to_owned();
            for (matrix, n, at) in [('a', 2, 0), ('b', 2, 64), ('c', count(c), 128)] {
                for i in 0..n {
                    let name = register(if matrix == 'c' { c } else { F16 }, matrix, i);
                    body += &format!("ld.global.b32 {name},[%rd3+{}];\n", at + 8 * i);
                }
            }
            let form = format!("mma.sync.aligned.m8n8k4.{a_order}.{b_order}.{}.f16.f16.{}", d.name, c.name);
            let lists = [list(d, 'd', count(d)), list(F16, 'a', 2), list(F16, 'b', 2), list(c, 'c', count(c))];
            body += &format!("{form} {};\n", lists.join(","));
            for i in 0..count(d) {
                body += &format!("st.global.b32 [%rd4+{}],{};\n", i * 8, register(d, 'd', i));
            }
            let got = run(&body, &words, 32 * 8);
            for (quad, row, column) in (0..256).map(|i| (i / 64, i / 8 % 8, i % 8)) {
                let (lane, reg, e) = place(d, row, column, quad);
                let bits = got[lane * 8 + reg] >> (16 * e) & (u64::MAX >> (64 - d.bits));
                let sum = |k| sample(quad, row, k) * sample(quad, k + 9, column);
                let want = sample(quad, row + 5, column) + (0..4).map(sum).sum::<f64>();
                assert_eq!(d.decode(bits), want, "{form} product {quad} row {row} column {column}");
            }
        }
    }
}

/// A matrix in memory: rows or columns of `stride` elements, as words of 8 bytes, with 0x55 between them.
fn in_memory(
    t: Type,
    rows: usize,
    columns: usize,
    by_columns: bool,
    stride: usize,
    f: impl Fn(usize, usize) -> f64,
) -> Vec<u64> {
    let lines = if by_columns { columns } else { rows };
    let mut bits = vec![0x5555_5555_5555_5555u64; (lines * stride * t.bits).div_ceil(64)];
    for row in 0..rows {
        for column in 0..columns {
            let at = t.bits * if by_columns { column * stride + row } else { row * stride + column };
            let mask = u64::MAX >> (64 - t.bits) << (at % 64);
            bits[at / 64] = bits[at / 64] & !mask | t.encode(f(row, column)) << (at % 64);
        }
    }
    bits
}

/// Loads, multiplies and stores with `wmma`, and checks every element in memory, and that there is nothing new between them.
fn check_wmma(case: &Case, orders: [bool; 3], space: &str, wide: usize) {
    let [m, n, k] = case.size;
    let shape = format!("m{m}n{n}k{k}");
    let order = |by_columns: bool| if by_columns { "col" } else { "row" };
    // What is between lines is a multiple of 32 bytes.
    let stride = |t: Type, len: usize| len + wide * 256 / t.bits.min(32);
    let a = in_memory(case.a, m, k, orders[0], stride(case.a, if orders[0] { m } else { k }), |r, c| case.a(r, c));
    let b = in_memory(case.b, k, n, orders[1], stride(case.b, if orders[1] { k } else { n }), |r, c| case.b(r, c));
    let line = if orders[2] { m } else { n };
    let c = in_memory(case.c, m, n, orders[2], stride(case.c, line), |r, c| case.c(r, c));
    let want = in_memory(case.d, m, n, orders[2], stride(case.d, line), |r, c| case.want(r, c));
    let pad = |words: &[u64]| words.len().next_multiple_of(4);
    let starts = [0, pad(&a), pad(&a) + pad(&b)];
    let total = starts[2] + pad(&c);
    let mut input = vec![0; total];
    for (start, words) in starts.iter().zip([&a, &b, &c]) {
        input[*start..*start + words.len()].copy_from_slice(words);
    }
    let regs = |t: Type, elements: usize| elements * t.bits / t.register();
    let factor = |t: Type, elements: usize| if t == F16 { 8 } else { regs(t, elements / 32) };
    let sums = |t: Type| regs(t, m * n / 32);
    let mut body = format!(
        ".shared .align 32 .b8 s[{}];\nmov.u32 %r1,%r0;\nL: shl.b32 %r2,%r1,3; cvt.u64.u32 %rd5,%r2; add.s64 %rd6,%rd2,%rd5; ld.global.u64 %rd7,[%rd6];\nmov.u32 %r3,s; add.u32 %r3,%r3,%r2; st.shared.u64 [%r3],%rd7; add.u32 %r1,%r1,32; .reg .pred %p; setp.lt.u32 %p,%r1,{total}; @%p bra L;\nbar.warp.sync -1; mov.u32 %r3,s;\n",
        8 * total
    );
    let base = if space == "shared" { "%r3" } else { "%rd2" };
    let strides = [
        stride(case.a, if orders[0] { m } else { k }),
        stride(case.b, if orders[1] { k } else { n }),
        stride(case.c, line),
    ];
    let counts = [factor(case.a, m * k), factor(case.b, k * n), sums(case.c)];
    for (i, (role, t)) in [('a', case.a), ('b', case.b), ('c', case.c)].into_iter().enumerate() {
        let stride = if wide == 0 { String::new() } else { format!(",{}", strides[i]) };
        body += &format!(
            "wmma.load.{role}.sync.aligned.{}.{shape}.{space}.{} {},[{base}+{}]{stride};\n",
            order(orders[i]),
            t.name,
            list(t, role, counts[i]),
            8 * starts[i]
        );
    }
    body += &format!(
        "{} {},{},{},{};\n",
        case.instruction,
        list(case.d, 'd', sums(case.d)),
        list(case.a, 'a', counts[0]),
        list(case.b, 'b', counts[1]),
        list(case.c, 'c', counts[2])
    );
    let words = want.len();
    // What is between the lines is as it was.
    body += &format!(
        "mov.u32 %r1,%r0;\nM: mad.wide.u32 %rd6,%r1,8,%rd1; mov.b64 %rd7,0x5555555555555555; .reg .pred %q; setp.lt.u32 %q,%r1,{words}; @%q st.global.b64 [%rd6],%rd7; add.u32 %r1,%r1,32; @%q bra M;\nbar.warp.sync -1;\n"
    );
    let into = stride(case.d, line);
    body += &format!(
        "wmma.store.d.sync.aligned.{}.{shape}.global.{} [%rd1],{},{into};\n",
        order(orders[2]),
        case.d.name,
        list(case.d, 'd', sums(case.d))
    );
    let got = run(&body, &input, words);
    assert_eq!(got, want, "{} {orders:?} {space} {wide}", case.instruction);
}

#[test]
fn wmma_of_every_shape_type_and_order() {
    let shapes = [[16, 16, 16], [8, 32, 16], [32, 8, 16]];
    let orders = (0..8).map(|i| [i & 1 != 0, i & 2 != 0, i & 4 != 0]);
    let name = |size: [usize; 3]| format!("m{}n{}k{}", size[0], size[1], size[2]);
    for (i, order) in orders.enumerate() {
        let way = |by_columns: bool| if by_columns { "col" } else { "row" };
        let prefix = format!("wmma.mma.sync.aligned.{}.{}", way(order[0]), way(order[1]));
        let (space, wide) = (["global", "shared"][i % 2], i % 3);
        for size in shapes {
            for (d, c) in [(F32, F32), (F16, F16), (F32, F16), (F16, F32)] {
                let instruction = format!("{prefix}.{}.{}.{}", name(size), d.name, c.name);
                check_wmma(&Case { instruction, size, a: F16, b: F16, c, d, bits: None }, order, space, wide);
            }
            for (t, sum) in [(BF16, F32), (S8, S32), (U8, S32)] {
                let types = [sum, t, t, sum].map(|t| t.name).join(".");
                let instruction = format!("{prefix}.{}.{types}", name(size));
                check_wmma(&Case { instruction, size, a: t, b: t, c: sum, d: sum, bits: None }, order, space, wide);
            }
        }
        for (size, t, sum) in [([16, 16, 8], TF32, F32), ([8, 8, 4], F64, F64)] {
            let types = [sum, t, t, sum].map(|t| t.name).join(".");
            let instruction = format!("{prefix}.{}.{types}", name(size));
            check_wmma(&Case { instruction, size, a: t, b: t, c: sum, d: sum, bits: None }, order, space, wide);
        }
        // Factors of less than a byte have one order.
        let order = [false, true, order[2]];
        for t in [S4, U4] {
            let instruction = format!("wmma.mma.sync.aligned.row.col.m8n8k32.s32.{0}.{0}.s32", t.name);
            check_wmma(
                &Case { instruction, size: [8, 8, 32], a: t, b: t, c: S32, d: S32, bits: None },
                order,
                space,
                wide,
            );
        }
        for (op, count) in BITS {
            let instruction = format!("wmma.mma.{op}.popc.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32");
            let case = Case { instruction, size: [8, 8, 128], a: B1, b: B1, c: S32, d: S32, bits: Some(count) };
            check_wmma(&case, order, space, wide);
        }
    }
}

#[test]
fn integer_products_saturate_and_f64_products_round() {
    // All factors are 127, the sums start below the largest number.
    let body = |satfinite: &str| {
        format!(
            "mov.b32 %a0,0x7f7f7f7f; mov.b32 %a1,0x7f7f7f7f; mov.b32 %b0,0x7f7f7f7f; mov.b32 %c0,0x7ffffff0;
mma.sync.aligned.m16n8k16.row.col{satfinite}.s32.s8.s8.s32 {{%d0,%d1,%d2,%d3}},{{%a0,%a1}},{{%b0}},{{%c0,%c0,%c0,%c0}};
mad.wide.u32 %rd4,%r0,8,%rd1; cvt.u64.u32 %rd5,%d0; st.global.u64 [%rd4],%rd5;"
        )
    };
    let sum = 0x7fff_fff0u32.wrapping_add(16 * 127 * 127);
    assert_eq!(run(&body(""), &[0], 32), [u64::from(sum); 32]);
    assert_eq!(run(&body(".satfinite"), &[0], 32), [0x7fff_ffff; 32]);
    // 1 + 2^-60 + 2^-60 ..., rounded after each product.
    let body = |round: &str| {
        format!(
            "mov.f64 %ga0,0d3C30000000000000; mov.f64 %gb0,0d3FF0000000000000; mov.f64 %gc0,0d3FF0000000000000;
wmma.mma.sync.aligned.row.col.m8n8k4{round}.f64.f64.f64.f64 {{%gd0,%gd1}},{{%ga0}},{{%gb0}},{{%gc0,%gc0}};
mad.wide.u32 %rd4,%r0,8,%rd1; st.global.f64 [%rd4],%gd0;"
        )
    };
    for (round, steps) in [("", 0), (".rn", 0), (".rz", 0), (".rm", 0), (".rp", 4)] {
        assert_eq!(run(&body(round), &[0], 32), [1f64.to_bits() + steps; 32], "{round}");
    }
}

#[test]
fn the_low_bits_of_a_tf32_do_not_count() {
    let body = "\
mov.b32 %a0,0x3f801fff; mov.b32 %a1,0x3f802000; mov.b32 %b0,0x3f800000; mov.f32 %fc0,0f00000000;
mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%fd0,%fd1,%fd2,%fd3},{%a0,%a1},{%b0},{%fc0,%fc0,%fc0,%fc0};
mov.b64 %rd5,{%fd0,%fd2}; mad.wide.u32 %rd4,%r0,8,%rd1; st.global.u64 [%rd4],%rd5;";
    let want = [4.0, 4.0 + 4.0 / 1024.0].map(|x: f32| u64::from(x.to_bits()));
    assert_eq!(run(body, &[0], 32), [want[0] | want[1] << 32; 32]);
}

#[test]
fn lines_of_a_matrix_are_aligned() {
    let load = |offset: usize, stride: usize| {
        format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n.reg .b32 %r<8>; .reg .b64 %rd<2>;\nld.param.u64 %rd1,[p];\nwmma.load.a.sync.aligned.row.m16n16k16.global.f16 {{%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}},[%rd1+{offset}],{stride};\n}}\n"
        )
    };
    for (offset, stride, kind) in [
        (0, 16, None),
        (32, 32, None),
        (16, 16, Some("misaligned")),
        (0, 24, None),
        (0, 20, Some("misaligned")),
        (576, 16, Some("oob_global")),
    ] {
        let module = Module::parse(&load(offset, stride)).unwrap();
        let mut memory = Memory::new(1 << 20);
        let loaded = module.load(&mut memory).unwrap();
        let params = memory.alloc_with(vec![0; 1024 + 32], 256).unwrap().to_le_bytes().to_vec();
        let launch = Launch { entry: "k".into(), grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, params };
        let got = match loaded.run(&mut memory, &launch, &Options::default()) {
            Ok(_) => None,
            Err(emu::Error::Fault(f)) => Some(f.kind.name()),
            Err(e) => panic!("{e}"),
        };
        assert_eq!(got.as_deref(), kind, "offset {offset} stride {stride}");
    }
}
