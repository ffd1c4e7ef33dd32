//! The contracts of numbers and their document.

use ir::graph::interp::{Value, run_body};
use ir::graph::{F32, Function, Graph, Op, Ref};
use ir::numerics::{Bound, Contract, Gives, INSTRUCTIONS, OPS};
use ir::quant;
use ir::tensor::{Elem, TensorType};
use std::fmt::Write;
use std::path::Path;

/// The table of instructions and the table of ops, in the place of their marks in the document.
fn tables() -> [(&'static str, String); 2] {
    let mut instructions = String::from("| instruction | gives | error | except that |\n|---|---|---|---|\n");
    for c in INSTRUCTIONS {
        let exception = |&(sets, gives): &(&[_], Gives)| {
            let operands: Vec<String> = ["a", "b", "c"].iter().zip(sets).map(|(n, s)| format!("{n} {s}")).collect();
            format!("{}: {}", operands.join(", "), gives.text(c.spread))
        };
        let exceptions: Vec<String> = c.exceptions.iter().map(exception).collect();
        let exceptions = exceptions.join("; ");
        let error = Gives::Within(c.bound).text(c.spread);
        // A magnitude is not the end of a column.
        let [meaning, error, exceptions] =
            [c.meaning, error.as_str(), exceptions.as_str()].map(|text| text.replace('|', "\\|"));
        _ = writeln!(instructions, "| `{}` | {meaning} | {error} | {exceptions} |", c.name);
    }
    let mut ops = String::from("| op | error | where | NaN and infinities | other edges |\n|---|---|---|---|---|\n");
    for c in OPS {
        let error = if c.error == 0.0 { "exact".into() } else { format!("{:.1e}", c.error) };
        _ = writeln!(ops, "| `{}` | {error} | {} | {} | {} |", c.name, c.domain, c.not_finite, c.edges);
    }
    [("instructions", instructions), ("ops", ops)]
}

/// `RIGC_UPDATE_DOC=1` writes the tables into the document.
#[test]
fn the_document_has_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/numerics.md");
    let old = std::fs::read_to_string(&path).unwrap();
    let mut text = old.clone();
    for (name, table) in tables() {
        let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let (before, rest) = text.split_once(&start).unwrap_or_else(|| panic!("no {start}"));
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no {end}"));
        text = format!("{before}{start}{table}{end}{after}");
    }
    if std::env::var_os("RIGC_UPDATE_DOC").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        text == old,
        "docs/numerics.md differs from ir/src/numerics.rs; if that is meant, run with RIGC_UPDATE_DOC=1"
    );
}

/// Every op that the interpreter computes has a contract, by its name in text.
#[test]
fn every_op_has_a_contract() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/graph/text.rs")).unwrap();
    let (_, names) = text.split_once("pub fn mnemonic").unwrap();
    let (names, _) = names.split_once("\n}\n").unwrap();
    let functions = Function::ALL.iter().map(|(_, name, _)| *name);
    let names = names.lines().filter_map(|l| l.split('"').nth(1)).chain(functions);
    // What computes nothing.
    let leaves = ["tokens", "position", "weight", "state", "param", "fusion"];
    let mut want: Vec<&str> = names.filter(|n| !leaves.contains(n)).collect();
    want.sort_unstable();
    let mut with: Vec<&str> = OPS.iter().map(|c| c.name).collect();
    with.sort_unstable();
    assert_eq!(with, want);
}

#[test]
fn contracts_refuse_what_they_do_not_allow() {
    let find = |name: &str| -> &Contract { INSTRUCTIONS.iter().find(|c| c.name == name).unwrap() };
    let (nan, inf, tiny) = (f64::NAN, f64::INFINITY, f64::from(f32::MIN_POSITIVE));
    let half_ulp = f64::from(f32::EPSILON) / 2.0;
    for (name, operands, result, good) in [
        ("exp", &[0.0][..], 1.0, true),
        ("exp", &[1.0], 1f64.exp() * (1.0 + 3e-7), true),
        ("exp", &[1.0], 1f64.exp() * (1.0 + 5e-7), false),
        ("exp", &[-88.0], 0.0, true),
        ("exp", &[-104.0], 0.0, true),
        ("exp", &[-1e30], 1e-45, false),
        ("exp", &[-87.5], 2e-38, false),
        ("exp", &[90.0], f64::from(f32::MAX), false),
        ("exp", &[nan], 0.0, false),
        ("exp", &[nan], nan, true),
        ("fmax", &[nan, 1.0], 1.0, false),
        ("fmax", &[-0.0, 0.0], -0.0, true),
        ("fdiv", &[1.0, inf], 0.0, true),
        ("fdiv", &[1.0, inf], nan, false),
        ("fdiv", &[1.0, 3.0], (1.0 + 2.0 * half_ulp) / 3.0, false),
        ("fdiv", &[1.0, tiny / 2.0], nan, true),
        ("fdiv", &[3e38, 0.5], inf, true),
        ("fdiv", &[3e38, 0.5], -inf, false),
        ("fadd", &[inf, -inf], nan, true),
        ("fadd", &[inf, -inf], 0.0, false),
        ("fma", &[1.0, 1.0, half_ulp], 1.0, true),
        ("fma", &[1.0 + 2.0 * half_ulp, 1.0 + 2.0 * half_ulp, -1.0 - 4.0 * half_ulp], 0.0, false),
        ("fma (x86-64)", &[1.0 + 2.0 * half_ulp, 1.0 + 2.0 * half_ulp, -1.0 - 4.0 * half_ulp], 0.0, true),
        ("round", &[2.5], 2.0, true),
        ("round", &[2.5], 3.0, false),
        ("round", &[nan], 3.0, true),
        ("to_half", &[65520.0], inf, true),
        ("to_half", &[65519.0], inf, false),
        ("flt", &[nan, 1.0], 1.0, false),
        ("sin", &[3.0], 3f64.sin() + 2e-6, false),
        ("sin", &[4.0], 7.0, true),
    ] {
        let checked = find(name).check(operands, result);
        assert_eq!(checked.is_ok(), good, "{name} of {operands:?} as {result}: {checked:?}");
    }
    let wide = Bound { relative: 0.0, spread: 0.0, absolute: 1.0 };
    assert_eq!(Gives::Within(wide).text(""), "within 1");
}

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

/// What the interpreter gives for an op over params of these shapes with these values.
fn interpret(op: &Op, params: &[(TensorType, Value)]) -> Vec<f32> {
    let mut g = Graph::new();
    let leaf = |g: &mut Graph, i: usize, ty: &TensorType| g.leaf(Op::Param(i as u32), ty.clone()).unwrap();
    let mut operands: Vec<Ref> = params.iter().enumerate().map(|(i, (ty, _))| leaf(&mut g, i, ty)).collect();
    let mut result = g.add(op.clone(), &operands).unwrap();
    if *op == Op::Quantize {
        // What the codes and scales stand for, by a product with the first unit vector of each block.
        let columns = params[0].0.columns();
        let units = ty(Elem::Ggml(quant::F32), &[columns, columns]);
        operands.push(g.leaf(Op::Param(1), units).unwrap());
        result = g.add(Op::MatMul, &[operands[1], result]).unwrap();
    }
    g.output("y", result).unwrap();
    let mut values: Vec<Value> = params.iter().map(|(_, v)| v.clone()).collect();
    if *op == Op::Quantize {
        let columns = params[0].0.columns();
        let unit: Vec<f32> = (0..columns * columns).map(|i| f32::from(u8::from(i % (columns + 1) == 0))).collect();
        values.push(unit.into());
    }
    run_body(&g, values, 1).unwrap().remove(0).f32().unwrap().to_vec()
}

fn ty(elem: Elem, shape: &[usize]) -> TensorType {
    TensorType::new(elem, shape)
}

fn row(values: &[f32]) -> (TensorType, Value) {
    (ty(Elem::F32, &[1, values.len()]), values.to_vec().into())
}

/// A block of 32 with some first elements, the others 127.
fn block(first: &[f32]) -> Vec<f32> {
    first.iter().copied().chain(std::iter::repeat_n(127.0, 32)).take(32).collect()
}

/// Results that have to be the same bits; NaN stands for whatever is not finite.
#[track_caller]
fn check(op: &Op, params: &[(TensorType, Value)], expected: &[f32]) {
    let got = interpret(op, params);
    let same = |(a, e): (&f32, &f32)| if e.is_nan() { !a.is_finite() } else { a == e };
    assert!(
        got.len() == expected.len() && got.iter().zip(expected).all(same),
        "{op:?}: {got:?}, expected {expected:?}"
    );
}

/// The interpreter keeps the edges of the table of ops.
#[test]
fn edges_of_the_interpreter() {
    let silu = [-1e30, f32::MIN, -104.0, 0.0, 104.0, f32::MAX, INF];
    let y = interpret(&Op::Map(Function::Silu), &[row(&silu)]);
    assert!(y[..3].iter().all(|y| (-6e-37..=0.0).contains(y)), "{y:?}");
    assert_eq!(y[3..], [0.0, 104.0, f32::MAX, INF]);
    check(&Op::Map(Function::Silu), &[row(&[NAN, -INF])], &[NAN, NAN]);

    let pair = |a: &[f32], b: &[f32]| [row(a), row(b)];
    check(&Op::Add, &pair(&[INF, INF, NAN, f32::MAX], &[1.0, -INF, 1.0, f32::MAX]), &[NAN, NAN, NAN, NAN]);
    check(&Op::Mul, &pair(&[0.0, 0.0, 2.0, 1e-30], &[INF, 7.0, NAN, 1e-30]), &[NAN, 0.0, NAN, 0.0]);

    let ones = (ty(Elem::Ggml(quant::F32), &[4]), vec![1.0f32; 4].into());
    let norm = |x: &[f32]| [row(x), ones.clone()];
    let op = Op::RmsNorm { eps: F32(1e-6) };
    check(&op, &norm(&[0.0; 4]), &[0.0; 4]);
    check(&op, &norm(&[1.0, NAN, 1.0, 1.0]), &[NAN; 4]);
    check(&op, &norm(&[1.0, INF, 1.0, 1.0]), &[NAN; 4]);

    for (first, expected) in [(&[NAN][..], [NAN; 32]), (&[-INF, 3.0], [NAN; 32]), (&[127.0], [127.0; 32])] {
        check(&Op::Quantize, &[row(&block(first))], &expected);
    }
    // Scales of zero and below the smallest normal number.
    for size in [0.0, 1e-45, 1.4e-36] {
        check(&Op::Quantize, &[row(&[size; 32])], &[0.0; 32]);
    }
    check(&Op::Quantize, &[row(&[1e-35; 32])], &[1e-35 / 127.0 * 127.0; 32]);

    for (format, x, expected) in [
        (quant::F16, 65519.0, 65504.0),
        (quant::F16, 65520.0, NAN),
        (quant::F16, -INF, NAN),
        (quant::F16, NAN, NAN),
        (quant::F16, 1e-9, 0.0),
        (quant::Q8_0, 127.0, 127.0),
        (quant::Q8_0, 1e7, NAN),
        (quant::Q8_0, NAN, NAN),
        (quant::Q8_0, INF, NAN),
        (quant::Q8_0, 1e-45, 0.0),
    ] {
        let state = (ty(Elem::Ggml(format), &[1, 2, 32]), vec![0.0f32; 64].into());
        let position = (ty(Elem::I32, &[1]), vec![1i32].into());
        let append = [state, (ty(Elem::F32, &[1, 1, 32]), vec![x; 32].into()), position];
        check(&Op::KvAppend, &append, &[[0.0; 32], [expected; 32]].concat());
    }
    // One bad element takes its block along, where the format has blocks.
    let state = (ty(Elem::Ggml(quant::Q8_0), &[1, 1, 32]), vec![0.0f32; 32].into());
    let x = (ty(Elem::F32, &[1, 1, 32]), block(&[NAN]).into());
    check(&Op::KvAppend, &[state, x, (ty(Elem::I32, &[1]), vec![0i32].into())], &[NAN; 32]);

    for (key, expected) in [(INF, NAN), (NAN, NAN), (-INF, 3.0)] {
        let cache = |values: [f32; 2]| (ty(Elem::Ggml(quant::F16), &[1, 2, 1]), values.to_vec().into());
        let position = (ty(Elem::I32, &[1]), vec![1i32].into());
        let query = (ty(Elem::F32, &[1, 1, 1]), vec![1.0f32].into());
        let operands = [query, cache([0.0, key]), cache([3.0, 5.0]), position];
        check(&Op::Attention { scale: F32(1.0), window: None, cap: None }, &operands, &[expected]);
    }

    for bad in [NAN, INF] {
        let top = interpret(&Op::TopK { k: 2 }, &[row(&[0.0, -INF, bad, 3.0])]);
        assert_eq!(top[..4], [f32::MAX, 3.0, 2.0, 3.0], "{bad}");
    }
    check(&Op::TopK { k: 2 }, &[row(&[-INF, -INF, -1.0])], &[-1.0, -INF, 2.0, 0.0, -1.0]);
}
