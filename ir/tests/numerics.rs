//! The contracts of numbers and their document.

use ir::numerics::{Bound, Contract, Gives, INSTRUCTIONS, OPS};
use std::fmt::Write;
use std::path::Path;

/// The table of instructions and the table of ops, in the place of their marks in the document.
fn tables() -> [(&'static str, String); 2] {
    let mut instructions =
        String::from("| instruction | gives | error | except that |\n|---|---|---|---|\n");
    for c in INSTRUCTIONS {
        let exception = |&(sets, gives): &(&[_], Gives)| {
            let operands: Vec<String> = ["a", "b", "c"].iter().zip(sets).map(|(n, s)| format!("{n} {s}")).collect();
            format!("{}: {}", operands.join(", "), gives.text(c.spread))
        };
        let exceptions: Vec<String> = c.exceptions.iter().map(exception).collect();
        let error = Gives::Within(c.bound).text(c.spread);
        _ = writeln!(instructions, "| `{}` | {} | {error} | {} |", c.name, c.meaning, exceptions.join("; "));
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
    assert!(text == old, "docs/numerics.md differs from ir/src/numerics.rs; if that is meant, run with RIGC_UPDATE_DOC=1");
}

/// Every op that the interpreter computes has a contract, by its name in text.
#[test]
fn every_op_has_a_contract() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/graph/text.rs")).unwrap();
    let (_, names) = text.split_once("pub fn mnemonic").unwrap();
    let (names, _) = names.split_once("\n}\n").unwrap();
    let names = names.lines().filter_map(|l| l.split('"').nth(1));
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
