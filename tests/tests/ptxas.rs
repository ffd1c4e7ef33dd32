//! NVIDIA's assembler on every kernel of the model zoo: it accepts them, needs no more registers than they promise, and
//! makes of them what a card runs fast: nothing is spilled or called, and no inner loop has more instructions than it
//! should. [`tests::assembler`] says where the tools are looked for.

use codegen::assembly::{self, Line};
use codegen::{TableKernel, back, schedule};
use ir::graph::Graph;
use ir::quant::{self, Format};
use ir::spec::{GpuSchedule, KernelSpec, Schedule};
use ir::target::{self, Gpu, Target};
use std::collections::HashSet;
use std::path::Path;
use tests::assembler::{self, assemblers, disassemble};
use tests::attention;
use tests::kernels;
use tests::synthetic::{Synthetic, zoo_for};

/// Most instructions for 32 weights in the inner loop of a product, by format, of one token and of 8: what they have, rounded
/// up. Of 8 tokens they are those of a lane, which has four rows and two of the tokens.
///
/// Those of one token above 70: `iq3_*` and `iq2_*` load each 4 weights from a table of points (2 or 3 for the index, 1 for the
/// address, 1 for the load) and apply signs (2 for a mask, 1 for the negative, 1 for either), which of `_xxs` and `xs` are
/// completed by their parity. `iq1_m` adds an eighth to, or takes it from, each byte, for which there is no instruction. Of 8
/// tokens formats with tables of points load all words that four lanes share, and take one.
const BUDGETS: &[(&str, f64, f64)] = &[
    ("q4_0", 29.0, 60.0),
    ("q4_1", 33.0, 76.0),
    ("q5_0", 63.0, 125.0),
    ("q5_1", 67.0, 140.0),
    ("q8_0", 20.0, 47.0),
    ("q2_k", 37.0, 139.0),
    ("q3_k", 49.0, 127.0),
    ("q4_k", 33.0, 99.0),
    ("q5_k", 50.0, 112.0),
    ("q6_k", 48.0, 109.0),
    ("iq4_nl", 63.0, 87.0),
    ("iq4_xs", 65.0, 101.0),
    ("iq3_xxs", 104.0, 272.0),
    ("iq3_s", 112.0, 317.0),
    ("iq2_xxs", 98.0, 287.0),
    ("iq2_xs", 103.0, 330.0),
    ("iq2_s", 101.0, 318.0),
    ("iq1_s", 59.0, 210.0),
    ("iq1_m", 106.0, 299.0),
    ("mxfp4", 68.0, 107.0),
];
/// The target of the budgets.
const BUDGETED: &str = "sm_120";

/// Assembles a module and checks what the assembler says of it.
fn check_resources(ptxas: &str, target: &Target, ptx: &Path, name: &str) {
    let said = assembler::assemble(ptxas, target, ptx);
    let kernels = assembly::resources(&said);
    assert!(!kernels.is_empty(), "{name}: {said}");
    for (kernel, resources) in kernels {
        assert_eq!(resources.spill_bytes, 0, "{name} {} {kernel}: {said}", target.name);
    }
    let frames = said.lines().filter(|l| l.contains("bytes stack frame"));
    for frame in frames {
        assert!(frame.trim().starts_with("0 bytes stack frame"), "{name} {}: {said}", target.name);
    }
}

/// Checks that nothing is called, divided by way of a reciprocal, or spilled. A jump out of a loop may look like a call.
fn check_code(name: &str, target: &Target, disassembly: &str) {
    for code in assembly::sass(disassembly) {
        for bad in ["CALL", "I2F.U32.RP", "STL", "LDL"] {
            let is_bad = |i: &&str| !i.contains("(.L_x") && i.split_whitespace().any(|w| w.starts_with(bad));
            let found = code.lines.iter().filter_map(Line::instruction).find(is_bad);
            assert_eq!(found, None, "{name} {} {}", target.name, code.kernel);
        }
    }
}

/// All kernels of the zoo, and all attentions whose heads have a size that models have, for a target; each is assembled once.
fn check(target: &Target) {
    let assemblers = assemblers();
    let (Some(newest), backend) = (assemblers.last(), back::for_target(target).unwrap()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut seen = HashSet::new();
    let most = target.gpu().map_or(1, Gpu::most_tokens);
    let of_zoo = |(name, shape): (String, Synthetic)| {
        [quant::F16, quant::Q8_0]
            .map(|kv| (name.clone(), kernels::table(&shape.model(), target, &[1, most], kv).kernels))
    };
    let attentions = attention::rows()
        .filter(|row| row.head.is_multiple_of(8))
        .map(|row| (format!("{row:?}"), row.kernels(1, target)));
    for (name, kernels) in zoo_for(target).into_iter().flat_map(of_zoo).chain(attentions) {
        let mut module = backend.prefix(target).unwrap();
        let before = module.len();
        for k in kernels.iter().filter(|k| seen.insert(k.hash.clone())) {
            module.extend(backend.emit(&k.kernel, target, false).unwrap_or_else(|e| panic!("{name}: {e}")).code);
        }
        if module.len() == before {
            continue;
        }
        let ptx = dir.path().join("module.ptx");
        std::fs::write(&ptx, &module).unwrap();
        for ptxas in &assemblers {
            check_resources(ptxas, target, &ptx, &name);
            let code = (ptxas == newest).then(|| disassemble(&ptx.with_extension("cubin"))).flatten();
            check_code(&name, target, &code.unwrap_or_default());
        }
    }
}

#[test]
fn sm_80() {
    check(Target::by_name("sm_80").unwrap());
}

#[test]
fn sm_89() {
    check(Target::by_name("sm_89").unwrap());
}

#[test]
fn sm_90() {
    check(Target::by_name("sm_90").unwrap());
}

#[test]
fn sm_120() {
    check(Target::by_name("sm_120").unwrap());
}

/// Rows and columns of a product of a large model.
const WIDE: usize = 8192;

/// A large product of a step.
fn product(format: Format, tokens: usize) -> Graph {
    let x = match tokens {
        1 => format!("%1 = param 1 : f32[1,{WIDE}]\n%2 = quantize %1 : q8[1,{WIDE}]\n"),
        _ => format!("%2 = param 1 : q8[{tokens},{WIDE}]\n"),
    };
    let body = format!(
        "%0 = param 0 : {format}[{WIDE},{WIDE}]@rows32\n{x}%3 = matmul %0, %2 : f32[{tokens},{WIDE}]\n\
         %4 = param 2 : f32[{tokens},{WIDE}]\n%5 = add %3, %4 : f32[{tokens},{WIDE}]\noutput \"out\" %5\n"
    );
    body.parse().unwrap()
}

/// The inner loops of large products of each integer format.
#[test]
fn inner_loops_stay_within_their_budgets() {
    let assemblers = assemblers();
    let Some(newest) = assemblers.last() else { return };
    let target = Target::by_name(BUDGETED).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut over = Vec::new();
    let formats = quant::ALL.iter().map(|f| Format(f)).filter(|f| f.dot.wants_int8());
    for (format, tokens) in formats.flat_map(|format| [(format, 1), (format, 8)]) {
        let spec = KernelSpec::new("linear", product(format, tokens), tokens, target);
        let made = schedule::choose(&spec, target, &[]).unwrap();
        let kernel = TableKernel::new(spec, made, 0).unwrap();
        let Schedule::Gpu(GpuSchedule { chunk, .. }) = kernel.schedule else { panic!("{}", kernel.schedule) };
        let backend = back::for_target(target).unwrap();
        let mut module = backend.prefix(target).unwrap();
        module.extend(backend.emit(&kernel.kernel, target, false).unwrap().code);
        let ptx = dir.path().join("module.ptx");
        std::fs::write(&ptx, &module).unwrap();
        check_resources(newest, target, &ptx, format.name);
        let Some(text) = disassemble(&ptx.with_extension("cubin")) else { return };
        let costs = assembly::sass(&text).into_iter().filter_map(|code| match tokens {
            1 => code.per_32_weights(),
            _ => code.per_32_weights_of_chunks(chunk as usize),
        });
        let cost = costs.reduce(f64::max).unwrap_or(f64::INFINITY);
        let budget = BUDGETS.iter().find(|(name, ..)| *name == format.name);
        let budget = budget.map_or(0.0, |&(_, one, eight)| if tokens == 1 { one } else { eight });
        eprintln!(
            "{format}, {tokens} tokens: {cost:.1} instructions for 32 weights, {budget} are allowed; {}",
            kernel.schedule
        );
        if cost > budget {
            over.push(format!("{format}, {tokens} tokens: {cost:.1} > {budget}"));
        }
    }
    assert!(over.is_empty(), "{over:?}");
}

/// A GPU target that no test above names.
#[test]
fn every_gpu_target_is_checked() {
    let names: Vec<&str> = target::ALL.iter().filter(|t| t.gpu().is_some()).map(|t| t.name).collect();
    assert_eq!(names, ["sm_80", "sm_89", "sm_90", "sm_120"]);
}
