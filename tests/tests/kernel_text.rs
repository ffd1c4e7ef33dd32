//! The text of kernels: every kernel of the zoo parses to itself, mistakes are named with their line, and damage never panics.

use ir::kernel::Kernel;
use ir::quant;
use ir::target::{self, Target};
use std::collections::HashSet;
use tests::damage::{damage, number, seed};
use tests::kernels;
use tests::synthetic::{Rng, zoo, zoo_for};

/// The texts of the zoo's kernels for a target, each once.
fn texts(target: &Target, tokens: &[usize]) -> HashSet<String> {
    let mut texts = HashSet::new();
    for (_, shape) in zoo_for(target) {
        for kv in [quant::F16, quant::Q8_0] {
            for k in kernels::table(&shape.model(), target, tokens, kv).kernels {
                let text = k.kernel.to_string();
                if !texts.contains(&text) {
                    let parsed: Kernel = text.parse().unwrap_or_else(|e| panic!("{}: {e}", k.kernel.name));
                    assert!(parsed == *k.kernel, "{} changes:\n{text}\n{parsed}", k.kernel.name);
                    texts.insert(text);
                }
            }
        }
    }
    texts
}

#[test]
fn every_kernel_parses_to_itself() {
    // Targets with the same atoms, or that differ in the header of a module, have the same kernels.
    for name in ["x86-64", "x86-64-v3", "sm_80", "sm_120"] {
        assert!(texts(Target::by_name(name).unwrap(), &[1, 4]).len() > 50);
    }
}

const HEADER: &str = "kernel k (tickets 0, scratch 0 bytes)\n  x : F32 param 0 rw, 64 bytes\n";

/// What follows a good header, and the words of the error.
const MISTAKES: &[(&str, &str)] = &[
    ("%0 = 1", "line 3: ':' expected at ''"),
    ("%0 = 1 : I31", "line 3: a type expected, not 'I31'"),
    ("%0 = 2147483648 : I32", "line 3: a number of 32 bits expected, not '2147483648'"),
    ("%0 = add %0, %0 : I32", "line 3: an instruction expected, not 'add %0, %0 : I32'"),
    ("%0 = iadd %0 : I32", "line 3: ',' expected at ': I32'"),
    ("%0 = iadd %0, %1 : I32", "line 3: %1 is defined nowhere"),
    ("%0 = 1 : I32\n%0 = 1 : I32", "line 4: the value is defined twice"),
    ("%0 = 1 : I32 : I32", "line 3: ': I32' is left over"),
    ("%0 = 1.5 (0x3f800000) : F32", "line 3: 1.5 has the bits 0x3fc00000"),
    ("%0 = 1.5 (0x3f8000001) : F32", "line 3: 32 bits expected, not '3f8000001'"),
    ("%0 = load F16 x[%0] : F32", "line 3: an element type expected"),
    ("%0 = load F32 y[%0] : F32", "line 3: there is no buffer 'y'"),
    ("%0 = lut16 %0, [1, 2] : I32x4", "line 3: ',' expected at '] : I32x4'"),
    ("%0 = lut16 %0, [300] : I32x4", "line 3: a signed byte expected, not '300'"),
    ("stor", "line 3: a statement expected, not 'stor'"),
    ("x : F32 param 1 rw, 64 bytes", "line 3: buffer x is declared twice"),
    ("y : F32 global rw, 64 bytes", "line 3: 'param', 'scratch+' or 'constant' expected, not 'global'"),
    ("y : F32 param 1 wo, 64 bytes", "line 3: 'const', 'ro' or 'rw' expected"),
    ("t : I32 constant const, 8 bytes\n00000001", "line 5: words of a constant expected at the end"),
    ("t : I32 constant const, 8 bytes\n00000001 x", "line 4: words of a constant in hexadecimal expected"),
    ("$1 : F32", "line 3: $0 expected"),
    ("}", "line 3: a '}' without a block"),
    ("%0 = 1 : I32\nfor %1 in %0..%0 step 1 {", "line 4: a block without '}'"),
    ("for %1 in %0..%0 step 0x {", "line 3: %0 is defined nowhere"),
    ("sync all", "line 3: 'warp' or 'cta' expected"),
    ("call nothing()", "line 3: the name of an atom expected"),
];

#[test]
fn mistakes_are_named_with_their_line() {
    for (text, words) in MISTAKES {
        let error = match format!("{HEADER}{text}\n").parse::<Kernel>() {
            Ok(kernel) => format!("it is {kernel}"),
            Err(e) => e.to_string(),
        };
        assert!(error.contains(words), "{text}: {error}");
    }
    for (text, words) in [("", "line 1: 'kernel' expected at the end"), ("kernel k (", "line 1: a number expected")] {
        let error = text.parse::<Kernel>().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let deep = format!("{HEADER}%0 = 1 : I32\n{}", "if %0 {\n".repeat(100_000));
    let error = deep.parse::<Kernel>().unwrap_err().to_string();
    assert!(error.contains("more than 100 blocks inside of each other"), "{error}");
}

/// Values keep their order, whatever their numbers.
#[test]
fn values_are_numbered_anew() {
    let text = |[a, b, c]: [u32; 3]| {
        format!(
            "{HEADER}%{a} = 1 : I32 ; a comment\n%{c} = iadd %{a}, %{a} : I32\n\n\
             for %{b} in %{a}..%{c} step 1 {{\n  %{last} = 0.5 : F32\n  store F32 x[%{b}], %{last}\n}}\n",
            last = c + 1
        )
    };
    let (sparse, dense) = (text([7, 9, 100]).parse::<Kernel>().unwrap(), text([0, 1, 2]).parse::<Kernel>().unwrap());
    assert_eq!(sparse, dense);
    assert_eq!(sparse.verify().unwrap().values.len(), 4);
}

/// Damaged text gives a kernel or an error, and what it gives prints and is verified without a panic.
#[test]
fn damage_never_panics() {
    let texts: Vec<String> = target::ALL
        .iter()
        .filter(|t| ["x86-64-v3", "sm_120"].contains(&t.name))
        .flat_map(|target| {
            let (_, shape) = zoo().swap_remove(4);
            let table = kernels::table(&shape.model(), target, &[1], quant::Q8_0);
            table.kernels.into_iter().map(|k| k.kernel.to_string())
        })
        .collect();
    let seed = seed(1);
    let mut rng = Rng::new(seed);
    let mut parsed = 0;
    for turn in 0..20 * texts.len() {
        let text = &texts[turn % texts.len()];
        let mut bytes = text.clone().into_bytes();
        let whole = bytes.len();
        if rng.below(2) == 0 {
            number(&mut bytes, &mut rng)
        } else {
            damage(&mut bytes, whole, &mut rng)
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(kernel) = text.parse::<Kernel>() {
            parsed += 1;
            _ = kernel.to_string();
            _ = kernel.verify();
        }
    }
    assert!(parsed > 0, "every text was refused");
}
