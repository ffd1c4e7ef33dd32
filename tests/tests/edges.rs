//! Every instruction that computes, on edge values and random operands over its whole domain: the interpreter of kernels, each
//! CPU target that this machine runs, and PTX in the emulator with the errors that a card's approximate instructions may have,
//! against the contracts of [`ir::numerics`], or exactly where only integers are involved.

use half::f16;
use ir::Verified;
use ir::abi::Control;
use ir::kernel::{Access, Binary, Buf, Builder, Compare, Grid, Kernel, Mem, Special, Ty, Unary, Value, interp};
use ir::numerics::{self, Contract};
use ir::target::{self, Target};
use tests::kernels;
use tests::run;
use tests::synthetic::Rng;

/// What an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operand {
    Float,
    Int,
    /// 16 bits, of an f16 or a bf16.
    Half,
}

use Operand::{Float, Half, Int};

/// Which machines have an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Has {
    Both,
    Gpu,
    Cpu,
}

/// The result, as bits, of operands, as bits.
type Check<'a> = Box<dyn Fn(&Target, &[u32], u32) -> Result<(), String> + 'a>;
type Build<'a> = Box<dyn Fn(&mut Builder, &[Value]) -> Value + 'a>;

/// An instruction under test.
struct Case<'a> {
    name: String,
    operands: Vec<Operand>,
    has: Has,
    /// Whether it also takes four lanes.
    lanes: bool,
    build: Build<'a>,
    check: Check<'a>,
}

/// Threads of a GPU that share the operands.
const THREADS: u32 = 128;

/// A kernel that applies the instruction to each line of operands.
fn kernel(case: &Case<'_>, gpu: bool, vector: bool, count: usize) -> Verified<Kernel> {
    let mut b = Builder::new("edges");
    let mem = |o: Operand| if o == Float { Mem::F32 } else { Mem::I32 };
    let inputs: Vec<(Buf, Mem)> = case
        .operands
        .iter()
        .enumerate()
        .map(|(i, &o)| (b.param(format!("x{i}"), mem(o), count as u64 * 4, Access::Read), mem(o)))
        .collect();
    // The type of the result is known once it is there: as bytes any type can be stored.
    let y = b.param("y", Mem::U8, count as u64 * 4, Access::Write);
    let body = |b: &mut Builder, i: Value| {
        let load =
            |b: &mut Builder, &(buf, mem): &(Buf, Mem)| if vector { b.load4(buf, i, mem) } else { b.load(buf, i, mem) };
        let operands: Vec<Value> = inputs.iter().map(|x| load(b, x)).collect();
        let mut result = (case.build)(b, &operands);
        if b.ty(result).scalar() == Ty::Bool {
            let (one, zero) = (b.int(1), b.int(0));
            let (one, zero) = if vector { (b.splat(one), b.splat(zero)) } else { (one, zero) };
            result = b.select(result, one, zero);
        }
        let mem = if b.ty(result).scalar() == Ty::F32 { Mem::F32 } else { Mem::I32 };
        let at = b.imul_const(i, 4);
        b.store(y, at, mem, result);
    };
    let step = if vector { 4 } else { 1 };
    if gpu {
        b.set_grid(Grid { ctas: 1, threads: THREADS });
        b.await_previous();
        let (thread, end) = (b.special(Special::Thread), b.size(count));
        let first = b.imul_const(thread, step);
        b.for_(first, end, THREADS * step as u32, body);
    } else {
        b.for_n(count, step as u32, body);
    }
    b.finish().verify().unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// How a case is run.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Four lanes at once.
    vector: bool,
    on: On,
}

/// What runs a case.
#[derive(Debug, Clone, Copy)]
enum On {
    /// The interpreter of kernels.
    Interpreter,
    /// The CPU, or the emulator with the errors of approximate instructions that this number chooses.
    Device(u64),
}

/// The results of lines of operands, by code that is edited.
fn results(
    case: &Case<'_>,
    target: &Target,
    run: Run,
    lines: &[Vec<u32>],
    edit: impl Fn(&[u8]) -> Vec<u8>,
) -> Vec<u32> {
    let kernel = kernel(case, target.gpu().is_some(), run.vector, lines.len());
    let bytes = |i: usize| lines.iter().flat_map(|l| l[i].to_le_bytes()).collect();
    let mut params: Vec<Vec<u8>> = (0..case.operands.len()).map(bytes).collect();
    params.push(vec![0xef; lines.len() * 4]);
    let control = Control { position: 0, tokens: 1 };
    match run.on {
        On::Interpreter => {
            interp::run(&kernel, &mut params, control, 1).unwrap_or_else(|e| panic!("{}: {e}", case.name))
        }
        On::Device(seed) => {
            let device = kernels::device(target, 1, seed);
            params = kernels::launch(&kernel, target, device, 1, &params, control, |code| edit(code))
                .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
    }
    params[case.operands.len()].as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect()
}

/// Floats where something changes.
fn float_edges() -> Vec<f32> {
    let tiny = f32::MIN_POSITIVE;
    let magnitudes = [
        0.0,
        f32::from_bits(1),
        f32::from_bits(77),
        tiny / 2.0,
        tiny * (1.0 - f32::EPSILON),
        tiny,
        tiny * 1.5,
        2f32.powi(-102),
        5.96e-8,
        6.1e-5,
        1e-20,
        0.25,
        0.5,
        1.0 - f32::EPSILON / 2.0,
        1.0,
        1.0 + f32::EPSILON,
        1.5,
        2.0 - f32::EPSILON,
        2.5,
        3.0,
        std::f32::consts::PI,
        17.25,
        86.9,
        87.3,
        87.34,
        87.68,
        87.69,
        88.0,
        88.02,
        88.37,
        88.38,
        88.73,
        89.0,
        89.1,
        103.0,
        104.0,
        127.0,
        1000.5,
        65504.0,
        65519.9,
        65520.0,
        4_194_302.5,
        4_194_303.0,
        8_388_607.5,
        1.7e7,
        2.2e9,
        1e19,
        1.9e19,
        1e30,
        8.5e37,
        1.8e38,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ];
    magnitudes.into_iter().flat_map(|x| [x, -x]).collect()
}

const INT_EDGES: [u32; 18] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x00ff_ffff,
    0x0100_0001,
    0x7fff_ffff,
    0x8000_0000,
    0x8080_8080,
    0x7f80_ff01,
    0xffff_ffff,
];

/// One operand at random: any bits, or a number of ordinary size.
fn random(operand: Operand, rng: &mut Rng) -> u32 {
    let bits = rng.next() as u32;
    match (operand, rng.below(3)) {
        (Half, _) => bits & 0xffff,
        (Int, 0) => bits & 0xff,
        (Int, _) | (Float, 0) => bits,
        (Float, 1) => (rng.uniform() * 100.0).to_bits(),
        (Float, _) => (rng.uniform() * 4.0).to_bits(),
    }
}

/// Lines of operands: all pairs of edges, and random ones; of 16 bits all there are.
fn lines(operands: &[Operand]) -> Vec<Vec<u32>> {
    let rng = &mut Rng::new(operands.len() as u64);
    let edges = |o: Operand| match o {
        Float => float_edges().into_iter().map(f32::to_bits).collect(),
        Int => INT_EDGES.to_vec(),
        Half => (0..1 << 16).collect(),
    };
    let mut lines: Vec<Vec<u32>> = match operands {
        &[one] => edges(one).into_iter().map(|x| vec![x]).collect(),
        &[one, two] => edges(one).into_iter().flat_map(|x| edges(two).into_iter().map(move |y| vec![x, y])).collect(),
        more => {
            let all: Vec<_> = more.iter().map(|&o| edges(o)).collect();
            (0..6000).map(|_| all.iter().map(|e| e[rng.below(e.len())]).collect()).collect()
        }
    };
    lines.extend((0..6000).map(|_| operands.iter().map(|&o| random(o, rng)).collect()));
    // Operands that nearly cancel.
    if operands.len() > 1 && operands.iter().all(|&o| o == Float) {
        let close = |rng: &mut Rng, x: u32| (x ^ 0x8000_0000).wrapping_add(rng.below(5) as u32);
        lines.extend((0..1000).map(|_| {
            let x = random(Float, rng);
            operands.iter().enumerate().map(|(i, _)| if i == 0 { x } else { close(rng, x) }).collect()
        }));
    }
    lines.truncate(lines.len() / 4 * 4);
    lines
}

/// An operand or result as a number.
fn number(kind: Operand, bits: u32) -> f64 {
    if kind == Float { f64::from(f32::from_bits(bits)) } else { f64::from(bits as i32) }
}

/// Checks by a contract.
fn by<'a>(operands: &'a [Operand], result: Operand, contract: impl Fn(&Target) -> &'static Contract + 'a) -> Check<'a> {
    Box::new(move |target, line, bits| {
        let numbers: Vec<f64> = operands.iter().zip(line).map(|(&o, &x)| number(o, x)).collect();
        let result = match result {
            Half if bits >> 16 != 0 => return Err(format!("{bits:x} has more than 16 bits")),
            Half => f16::from_bits(bits as u16).to_f64(),
            other => number(other, bits),
        };
        contract(target).check(&numbers, result)
    })
}

/// Checks bit by bit.
fn exactly<'a>(expected: impl Fn(&[u32]) -> u32 + 'a) -> Check<'a> {
    Box::new(move |_, line, bits| {
        let want = expected(line);
        if bits == want { Ok(()) } else { Err(format!("{line:x?} give {bits:x}, not {want:x}")) }
    })
}

const UNARY: &[Unary] = &[
    Unary::Abs,
    Unary::Sqrt,
    Unary::Exp,
    Unary::Round,
    Unary::ToFloat,
    Unary::FromHalf,
    Unary::ToHalf,
    Unary::FromBf16,
    Unary::Sin,
    Unary::Cos,
    Unary::Log,
    Unary::AsFloat,
    Unary::CountOnes,
    Unary::FillBytes,
];

fn unary(op: Unary) -> Case<'static> {
    let (operands, result): (&[Operand], Operand) = match op {
        Unary::Round => (&[Float], Int),
        Unary::ToFloat | Unary::AsFloat => (&[Int], Float),
        Unary::FromHalf | Unary::FromBf16 => (&[Half], Float),
        Unary::ToHalf => (&[Float], Half),
        Unary::CountOnes | Unary::FillBytes => (&[Int], Int),
        Unary::Abs | Unary::Sqrt | Unary::Exp | Unary::Sin | Unary::Cos | Unary::Log => (&[Float], Float),
    };
    let gpu = matches!(op, Unary::Sin | Unary::Cos | Unary::AsFloat);
    let fill = |x: u32| u32::from_le_bytes(x.to_le_bytes().map(|b| if b < 0x80 { 0 } else { 0xff }));
    Case {
        name: format!("{op:?}"),
        operands: operands.to_vec(),
        has: if gpu { Has::Gpu } else { Has::Both },
        lanes: op != Unary::CountOnes,
        build: Box::new(move |b, x| b.unary(op, x[0])),
        check: match (numerics::unary(op), op) {
            (Some(contract), _) => by(operands, result, move |_| contract),
            (None, Unary::CountOnes) => exactly(|x| x[0].count_ones()),
            (None, _) => exactly(move |x| fill(x[0])),
        },
    }
}

/// What a two-operand instruction of integers gives; constants are operand 1 of the second list.
fn integer(op: Binary, x: u32, y: u32) -> u32 {
    let bytes = |f: fn(u8, u8) -> u8| {
        let (x, y) = (x.to_le_bytes(), y.to_le_bytes());
        u32::from_le_bytes(std::array::from_fn(|i| f(x[i], y[i])))
    };
    match op {
        Binary::IAdd => x.wrapping_add(y),
        Binary::ISub => x.wrapping_sub(y),
        Binary::IMul => x.wrapping_mul(y),
        Binary::UMin => x.min(y),
        Binary::UDiv => x / y,
        Binary::URem => x % y,
        Binary::And => x & y,
        Binary::Or => x | y,
        Binary::Xor => x ^ y,
        Binary::Shl => x << y,
        Binary::ShrU => x >> y,
        Binary::ShrS => (x as i32 >> y) as u32,
        Binary::SubBytes => bytes(u8::wrapping_sub),
        Binary::FAdd | Binary::FSub | Binary::FMul | Binary::FDiv | Binary::FMax => panic!("{op:?} is of floats"),
    }
}

const FLOATS: &[Operand; 4] = &[Float; 4];

fn binaries() -> Vec<Case<'static>> {
    let floats = [Binary::FAdd, Binary::FSub, Binary::FMul, Binary::FDiv, Binary::FMax];
    let integers = [
        Binary::IAdd,
        Binary::ISub,
        Binary::IMul,
        Binary::UMin,
        Binary::And,
        Binary::Or,
        Binary::Xor,
        Binary::SubBytes,
    ];
    let of_constants: [(Binary, &[u32]); 5] = [
        (Binary::UDiv, &[1, 2, 3, 5, 7, 32, 127, 641, 4096, 0x7fff_ffff]),
        (Binary::URem, &[1, 2, 3, 5, 7, 32, 127, 641, 4096, 0x7fff_ffff]),
        (Binary::Shl, &[1, 4, 16, 31]),
        (Binary::ShrU, &[1, 4, 16, 31]),
        (Binary::ShrS, &[1, 4, 16, 31]),
    ];
    let mut all = Vec::new();
    for op in floats {
        let contract = numerics::binary(op).expect("floats have contracts");
        all.push(Case {
            name: format!("{op:?}"),
            operands: vec![Float; 2],
            has: Has::Both,
            lanes: true,
            build: Box::new(move |b, x| b.binary(op, x[0], x[1])),
            check: by(&FLOATS[..2], Float, move |_| contract),
        });
    }
    for op in integers {
        all.push(Case {
            name: format!("{op:?}"),
            operands: vec![Int; 2],
            has: Has::Both,
            lanes: true,
            build: Box::new(move |b, x| b.binary(op, x[0], x[1])),
            check: exactly(move |x| integer(op, x[0], x[1])),
        });
    }
    for (op, constants) in of_constants {
        for &by in constants {
            all.push(Case {
                name: format!("{op:?} by {by}"),
                operands: vec![Int],
                has: Has::Both,
                // Constants are scalars.
                lanes: false,
                build: Box::new(move |b, x| {
                    let by = b.int(by as i32);
                    b.binary(op, x[0], by)
                }),
                check: exactly(move |x| integer(op, x[0], by)),
            });
        }
    }
    for (op, expected) in [
        (Compare::ULt, (|x| x[0] < x[1]) as fn(&[u32]) -> bool),
        (Compare::IEq, |x| x[0] == x[1]),
        (Compare::FLt, |_| false),
        (Compare::FEq, |_| false),
    ] {
        let contract = numerics::compare(op);
        all.push(Case {
            name: format!("{op:?}"),
            operands: vec![if contract.is_some() { Float } else { Int }; 2],
            has: Has::Both,
            lanes: true,
            build: Box::new(move |b, x| b.compare(op, x[0], x[1])),
            check: match contract {
                Some(contract) => by(&FLOATS[..2], Int, move |_| contract),
                None => exactly(move |x| u32::from(expected(x))),
            },
        });
    }
    all
}

/// The dot product of bytes, the first ones signed or not, and a number.
fn dot(signed: bool, x: &[u32]) -> u32 {
    let pairs = x[0].to_le_bytes().into_iter().zip(x[1].to_le_bytes());
    let product = |(a, b): (u8, u8)| (if signed { i32::from(a as i8) } else { i32::from(a) }) * i32::from(b as i8);
    pairs.map(product).fold(x[2] as i32, i32::wrapping_add) as u32
}

const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn others() -> Vec<Case<'static>> {
    let case = |name: &str, operands: &[Operand], has, lanes, build: Build<'static>, check| Case {
        name: name.into(),
        operands: operands.to_vec(),
        has,
        lanes,
        build,
        check,
    };
    let looked_up = |x: u32, half: u8| {
        let nibble = |i: usize| TABLE[(x >> (16 * usize::from(half) + 4 * i) & 15) as usize] as u8;
        u32::from_le_bytes(std::array::from_fn(nibble))
    };
    let mut all = vec![
        case(
            "Fma",
            &[Float; 3],
            Has::Both,
            true,
            Box::new(|b, x| b.fma(x[0], x[1], x[2])),
            by(&FLOATS[..3], Float, |t| numerics::fma(t.fuses_fma())),
        ),
        case(
            "Select",
            &[Int; 3],
            Has::Both,
            true,
            Box::new(|b, x| {
                let less = b.compare(Compare::ULt, x[0], x[1]);
                b.select(less, x[1], x[2])
            }),
            exactly(|x| if x[0] < x[1] { x[1] } else { x[2] }),
        ),
        case(
            "Sum",
            &[Float; 4],
            Has::Both,
            false,
            Box::new(|b, x| {
                let four = b.pack([x[0], x[1], x[2], x[3]]);
                b.sum(four)
            }),
            by(FLOATS, Float, |_| numerics::sum()),
        ),
        case(
            "Max",
            &[Float; 4],
            Has::Both,
            false,
            Box::new(|b, x| {
                let four = b.pack([x[0], x[1], x[2], x[3]]);
                b.max(four)
            }),
            by(FLOATS, Float, |_| numerics::max()),
        ),
        case(
            "Sum of integers",
            &[Int; 4],
            Has::Both,
            false,
            Box::new(|b, x| {
                let four = b.pack([x[0], x[1], x[2], x[3]]);
                b.sum(four)
            }),
            exactly(|x| x.iter().fold(0, |sum, x| sum.wrapping_add(*x))),
        ),
        case(
            "Dot4 of scalars",
            &[Int; 3],
            Has::Gpu,
            false,
            Box::new(|b, x| b.dot4(x[0], x[1], x[2])),
            exactly(|x| dot(true, x)),
        ),
        case(
            "Dot4Unsigned",
            &[Int; 3],
            Has::Gpu,
            false,
            Box::new(|b, x| b.dot4_unsigned(x[0], x[1], x[2])),
            exactly(|x| dot(false, x)),
        ),
        case(
            "Dot4 of lanes",
            &[Int; 3],
            Has::Cpu,
            false,
            Box::new(|b, x| {
                let [p, q, r] = [x[0], x[1], x[2]].map(|v| b.pack([x[0], v, x[1], v]));
                let dots = b.dot4(p, q, r);
                b.lane(dots, 1)
            }),
            exactly(|x| dot(true, x)),
        ),
        case(
            "Narrow",
            &[Int; 4],
            Has::Cpu,
            false,
            Box::new(|b, x| {
                let zero = b.int(0);
                let (zeros, four) = (b.splat(zero), b.pack([x[0], x[1], x[2], x[3]]));
                let bytes = b.narrow([zeros, zeros, four, zeros]);
                b.lane(bytes, 2)
            }),
            exactly(|x| u32::from_le_bytes(std::array::from_fn(|i| (x[i] as i32).clamp(-128, 127) as u8))),
        ),
        case(
            "Lut16",
            &[Int],
            Has::Both,
            false,
            Box::new(|b, x| {
                let mask = b.int(0x0f0f_0f0f);
                let nibbles = b.and(x[0], mask);
                let nibbles = b.splat(nibbles);
                let found = b.lut16(nibbles, TABLE);
                b.lane(found, 3)
            }),
            exactly(|x| u32::from_le_bytes(x[0].to_le_bytes().map(|i| TABLE[usize::from(i & 15)] as u8))),
        ),
    ];
    for half in [0, 1] {
        all.push(case(
            &format!("LutNibbles {half}"),
            &[Int],
            Has::Gpu,
            false,
            Box::new(move |b, x| b.lut_nibbles(x[0], half, TABLE)),
            exactly(move |x| looked_up(x[0], half)),
        ));
    }
    for number in 0..4 {
        for signed in [false, true] {
            let expected = move |x: &[u32]| {
                let byte = x[0].to_le_bytes()[usize::from(number)];
                if signed { i32::from(byte as i8) as u32 } else { u32::from(byte) }
            };
            let name = format!("Byte {number}, signed: {signed}");
            let build: Build<'_> = Box::new(move |b, x| b.byte(x[0], number, signed));
            all.push(case(&name, &[Int], Has::Both, false, build, exactly(expected)));
        }
    }
    all
}

fn cases() -> Vec<Case<'static>> {
    UNARY.iter().map(|&op| unary(op)).chain(binaries()).chain(others()).collect()
}

/// What is said of the first wrong result.
fn first_wrong(
    case: &Case<'_>,
    target: &Target,
    run: Run,
    lines: &[Vec<u32>],
    edit: impl Fn(&[u8]) -> Vec<u8>,
) -> Option<String> {
    let results = results(case, target, run, lines, edit);
    lines.iter().zip(results).find_map(|(l, r)| (case.check)(target, l, r).err())
}

/// All cases on a target.
fn check_target(name: &str, runs: &[On]) {
    let target = Target::by_name(name).unwrap();
    let gpu = target.gpu().is_some();
    if !run::runs(target) {
        return;
    }
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|c| c.has == Has::Both || (c.has == Has::Gpu) == gpu) {
        let lines = lines(&case.operands);
        for &on in runs {
            for vector in [false, true].into_iter().filter(|v| !v || case.lanes) {
                let run = Run { vector, on };
                let first = first_wrong(case, target, run, &lines, <[u8]>::to_vec);
                wrong.extend(first.map(|e| format!("{}, {run:?}: {e}", case.name)));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

#[test]
fn cpus() {
    target::ALL
        .iter()
        .filter(|t| t.cpu().is_some())
        .for_each(|t| check_target(t.name, &[On::Interpreter, On::Device(0)]));
}

#[test]
fn gpus() {
    check_target("sm_80", &[On::Interpreter, On::Device(0), On::Device(1), On::Device(2)]);
    check_target("sm_120", &[On::Device(3)]);
}

/// A mistake in the code of an instruction: bytes that are replaced wherever they are, which is somewhere.
struct Mistake {
    case: &'static str,
    from: Vec<u8>,
    to: Vec<u8>,
    what: &'static str,
}

/// Each is found, and nothing is without it.
#[track_caller]
fn check_mistakes(target: &str, mistakes: &[Mistake]) {
    let target = Target::by_name(target).unwrap();
    let cases = cases();
    let mut missed = Vec::new();
    for m in mistakes {
        let case = cases.iter().find(|c| c.name == m.case).unwrap();
        let lines = lines(&case.operands);
        let run = Run { vector: case.lanes, on: On::Device(0) };
        assert_eq!(first_wrong(case, target, run, &lines, <[u8]>::to_vec), None, "{}", m.case);
        let edit = |code: &[u8]| {
            let mut code = code.to_vec();
            let places: Vec<usize> = (0..code.len()).filter(|&i| code[i..].starts_with(&m.from)).collect();
            assert!(!places.is_empty(), "{}: there is no such code", m.what);
            // From the back, so that places stay where they are.
            places.into_iter().rev().for_each(|at| drop(code.splice(at..at + m.from.len(), m.to.iter().copied())));
            code
        };
        let found = first_wrong(case, target, run, &lines, edit);
        eprintln!("{} ({}): {}", m.what, m.case, found.as_deref().unwrap_or("-"));
        missed.extend(found.is_none().then_some(m.what));
    }
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn mistakes_in_ptx_are_found() {
    let mistake = |case, from: &str, to: &str, what| Mistake { case, from: from.into(), to: to.into(), what };
    let mistakes = [
        mistake("Exp", "0f3FB8AA3B", "0f3FB8AA3F", "log2 e is four units in the last place off"),
        mistake("Exp", "ex2.approx.ftz.f32", "lg2.approx.ftz.f32", "another function"),
        mistake("FMax", "max.NaN.f32", "max.f32", "the larger of NaN and a number is the number"),
        mistake("Max", "max.NaN.f32", "max.f32", "the largest lane is so"),
        mistake("FDiv", "setp.nan.f32", "setp.gt.f32", "division by infinity is NaN"),
        mistake("FDiv", "rcp.approx.f32", "rcp.approx.ftz.f32", "division by the largest numbers"),
        mistake("Round", "cvt.rni", "cvt.rzi", "towards zero"),
        mistake("ToHalf", "cvt.rn.f16", "cvt.rz.f16", "towards zero"),
        mistake("ToHalf", "cvt.rn.f16", "cvt.rn.satfinite.f16", "an overflow is the largest number"),
        mistake("Sqrt", "sqrt.approx.f32", "sqrt.approx.ftz.f32", "subnormal numbers are zero"),
        mistake("FLt", "setp.lt.f32", "setp.ltu.f32", "NaN is less"),
        mistake("FAdd", "add.rn.f32", "add.rz.f32", "towards zero"),
        mistake("FMul", "mul.rn.f32", "mul.rn.ftz.f32", "subnormal products are zero"),
        mistake("Log", "0f3F317218", "0f3F31721C", "ln 2 is four units in the last place off"),
    ];
    check_mistakes("sm_80", &mistakes);
}

/// Constants that code of CPUs holds.
#[test]
fn mistakes_in_machine_code_are_found() {
    let float = |x: f32| x.to_le_bytes().to_vec();
    let mistake = |case, from, to, what| Mistake { case, from, to, what };
    let int = |x: u32| x.to_le_bytes().to_vec();
    let infinity = f32::INFINITY.to_bits();
    let mistakes = [
        mistake("Exp", float(numerics::exp::HIGH), float(87.0), "e^88 is that of 87"),
        mistake("Exp", float(numerics::exp::LOW), float(-80.0), "e^-1e30 is not 0"),
        mistake("Exp", float(numerics::exp::POLYNOMIAL[4]), float(0.166_7), "a coefficient has four digits"),
        mistake("FromHalf", int(infinity), int(0), "infinity is 65536"),
        mistake("FromHalf", float(f32::from_bits(239 << 23)), float(f32::from_bits(238 << 23)), "half of each"),
        mistake("ToHalf", int(infinity), int(infinity | 0x00ff_ffff), "NaN is infinity"),
        mistake("ToHalf", int(143 << 23), int(144 << 23), "an overflow is not infinity"),
        mistake("Round", float(12_582_912.0), float(8_388_608.0), "negative numbers are another's"),
    ];
    check_mistakes("x86-64", &mistakes);
}
