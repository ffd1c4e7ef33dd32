//! Mistakes planted in our own GPU kernels, one at a time: the emulator or the comparison with the interpreter reports each, as
//! what it is, and never the kernel without it.

use codegen::TableKernel;
use ir::graph::Op;
use ir::quant;
use ir::spec::{GpuSchedule, Schedule};
use ir::target::Target;
use tests::attention::Row;
use tests::kernels::{self, Draw, Trial};
use tests::synthetic::{Synthetic, format};

/// Schedules of the emulator that a mistake has to show in, at least in one.
const SCHEDULES: usize = 6;

/// What is done to a line of a kernel's PTX.
#[derive(Debug, Clone, Copy)]
enum Edit {
    /// It and the lines after it go, so many in all.
    Drop(usize),
    /// A part of it is replaced.
    Swap(&'static str, &'static str),
    /// Its last operand is replaced.
    Last(&'static str),
    /// Its address is so many bytes further.
    Further(i64),
    /// It becomes this, where `{n}` is its operand number n and `<n>` that of another line, with its number among those with a
    /// text.
    Becomes(&'static str, (&'static str, usize)),
}

/// A mistake.
#[derive(Debug)]
struct Mistake {
    what: &'static str,
    kernel: &'static str,
    /// The line: number `nth` of those with this text.
    find: &'static str,
    nth: usize,
    edit: Edit,
    /// What the report has to name.
    found: &'static str,
}

const fn mistake(
    kernel: &'static str,
    (find, nth): (&'static str, usize),
    edit: Edit,
    found: &'static str,
    what: &'static str,
) -> Mistake {
    Mistake { what, kernel, find, nth, edit, found }
}

use Edit::{Becomes, Drop, Further, Last, Swap};

/// Tokens of the kernels of a step of several, whose names end in `@3`.
const STEP: usize = 3;

/// For [`Edit::Becomes`] that needs no other line: any.
const HERE: (&str, usize) = (".reg", 0);

/// The chunks of these kernels are 1152 bytes, and their rings have two slots. The logits are two segments of `top_k`. `masked` is [`masked`].
const MISTAKES: &[Mistake] = &[
    mistake("linear", ("mbarrier.init", 0), Drop(1), "mbarrier", "no mbarrier is made"),
    mistake(
        "linear",
        ("mbarrier.init", 0),
        Swap(", 1;", ", 2;"),
        "deadlock",
        "an mbarrier expects an arrival too many",
    ),
    mistake("linear", ("fence.proxy", 0), Drop(1), "proxy_fence", "a copy may not see its mbarrier"),
    mistake("linear", ("griddepcontrol.wait", 0), Drop(1), "race_global", "the launch before is not waited for"),
    mistake("attention", ("griddepcontrol.wait", 0), Drop(1), "race_global", "nor is it in attention"),
    mistake("linear", ("bar.warp.sync", 0), Drop(1), "race_shared", "a copy may start before its mbarrier is made"),
    mistake("linear", ("try_wait", 0), Drop(2), "async_copy", "a slot is read before its chunk is there"),
    mistake("linear", ("try_wait", 0), Last("0"), "async_copy", "the wait is for the wrong phase"),
    mistake("linear", ("expect_tx", 0), Last("1168"), "mbarrier_tx", "the first chunks expect too many bytes"),
    mistake("linear", ("expect_tx", 1), Last("1136"), "mbarrier_tx", "later chunks expect too few bytes"),
    mistake("linear", ("expect_tx", 1), Drop(1), "deadlock", "nobody arrives for a chunk"),
    mistake("linear", ("cp.async.bulk", 0), Drop(1), "mbarrier_tx", "the first chunks are not copied"),
    mistake("linear", ("cp.async.bulk", 1), Swap(", 1152,", ", 1136,"), "mbarrier_tx", "a copy is 16 bytes short"),
    mistake("linear", ("cp.async.bulk", 1), Further(16), "mbarrier", "a copy lands 16 bytes too far"),
    mistake("linear", ("cp.async.bulk", 1), Further(8), "misaligned", "a copy lands where none can"),
    mistake("linear", ("cp.async.bulk", 1), Swap("+0], 1", "+1152], 1"), "oob_global", "a copy brings the next chunk"),
    mistake("linear", ("bar.warp.sync", 1), Drop(1), "race_shared", "a slot is filled while others read it"),
    mistake("linear", ("elect.sync", 1), Drop(2), "mbarrier_arrival", "every lane starts the copy"),
    mistake("linear", ("bar.sync", 0), Drop(1), "race_shared", "codes are read before all are written"),
    mistake("qkv", ("bar.warp.sync", 2), Drop(1), "race_global", "a stream arrives before its lanes' sums are there"),
    mistake("linear", ("bar.warp.sync", 2), Drop(1), "race_global", "lanes read sums that only the first knows of"),
    mistake("linear", ("atom.", 0), Swap(".acq_rel", ".relaxed"), "race_global", "an arrival without order"),
    mistake("linear", ("atom.", 0), Swap(", 1;", ", 2;"), "counter", "an arrival counts twice"),
    mistake("linear", ("st.global.b32", 0), Drop(1), "counter", "a counter is not set back"),
    mistake("linear", ("setp.ge.u32", 3), Swap(".ge", ".gt"), "mbarrier_arrival", "a stream takes a chunk too many"),
    mistake("linear", ("ld.shared.v4.b32", 0), Further(4), "misaligned", "a vector is loaded from between two"),
    mistake("linear", ("ld.shared.u16", 0), Further(576), "wrong", "a scale is that of the next block"),
    mistake("linear", ("st.shared.b32", 0), Drop(1), "uninit_shared", "codes are not written"),
    mistake("linear", ("st.global.f32", 0), Drop(1), "NaN", "partial sums are not written"),
    mistake("linear", ("st.global.f32", 0), Further(4), "NaN", "partial sums are a float too far"),
    mistake("linear", ("shfl.sync.bfly", 0), Swap(", 4, 31", ", 8, 31"), "wrong", "lanes of two blocks share a scale"),
    mistake(
        "linear",
        ("bar.sync", 0),
        Swap("bar.sync 0", "bar.sync 0, 32"),
        "race_shared",
        "a barrier counts one warp",
    ),
    mistake("qkv", ("bar.warp.sync", 5), Drop(1), "race_shared", "a head is rotated before it is normalised"),
    mistake("qkv", ("bar.warp.sync", 6), Drop(1), "race_shared", "a head is stored before it is rotated"),
    mistake("qkv", ("cp.async.bulk", 0), Further(1152), "mbarrier", "a chunk lands in the next slot"),
    mistake("linear", ("cp.async.bulk", 1), Last("[%r0+0]"), "mbarrier", "a copy names no mbarrier"),
    mistake("attention", ("bar.sync", 0), Drop(1), "race_shared", "queries are read before all are there"),
    mistake("attention", ("bar.sync", 1), Drop(1), "race_shared", "warps are combined before they end"),
    mistake("attention", ("bar.sync", 2), Drop(1), "race_global", "a CTA arrives before its results are there"),
    mistake("attention", ("atom.", 0), Swap(".acq_rel", ".relaxed"), "race_global", "a CTA arrives without order"),
    mistake("attention", ("add.s32", 0), Swap(", 1;", ", 2;"), "wrong", "a position too many"),
    mistake("masked", ("min.u32", 0), Last("301"), "wrong", "a window begins a position too early"),
    mistake("masked", ("min.u32", 0), Last("299"), "wrong", "a window begins a position too late"),
    mistake(
        "masked",
        ("add.s32", 11),
        Becomes("mov.b32 {0}, {1};", HERE),
        "wrong",
        "all lanes take one key of a block",
    ),
    mistake(
        "masked",
        ("add.s32", 18),
        Becomes("mov.b32 {0}, {1};", HERE),
        "wrong",
        "values are those of its first position",
    ),
    mistake(
        "masked",
        ("0f3FC00000", 0),
        Becomes("mov.f32 {0}, <1>;", ("0f3FAAAAAB", 0)),
        "wrong",
        "the scores of a query head have no cap",
    ),
    mistake(
        "masked",
        ("0fFF800000", 0),
        Swap("0fFF800000", "0fBFC00000"),
        "wrong",
        "a position that is not there has the least score of all",
    ),
    mistake(
        "masked",
        ("fma.rn.f32", 37),
        Becomes("fma.rn.f32 {0}, {1}, {2}, {3};\nadd.rn.f32 {0}, {0}, {3};", HERE),
        "wrong",
        "a sink is added twice",
    ),
    mistake(
        "masked",
        ("fma.rn.f32", 37),
        Becomes("mul.rn.f32 {0}, {1}, {2};", HERE),
        "wrong",
        "ranges are combined without the weight of the sink",
    ),
    mistake("masked", ("sub.rn.f32", 11), Becomes("mov.f32 {0}, {1};", HERE), "wrong", "a sink ignores the maximum"),
    mistake("masked", ("ex2.approx", 9), Becomes("mov.f32 {0}, 0f3F800000;", HERE), "wrong", "ranges ignore it"),
    mistake(
        "masked",
        ("4, %d9;", 1),
        Becomes("mad.wide.u32 {0}, <0>, {2}, {3};", ("mul.lo.s32", 21)),
        "wrong",
        "a sink is that of the first head that shares the keys",
    ),
    mistake("masked", ("ld.global.f32", 6), Further(4), "oob_global", "a sink is that of the next head"),
    mistake("top_k", ("bar.sync", 1), Drop(1), "race_shared", "elements are compared before the others are in order"),
    mistake("top_k", ("bar.sync", 5), Drop(1), "race_", "a CTA arrives before its largest are there"),
    mistake("top_k", ("bar.sync", 6), Drop(1), "uninit_shared", "who is last is read before it is known"),
    mistake("top_k", ("atom.", 0), Swap(".acq_rel", ".relaxed"), "race_global", "it arrives without order"),
    mistake("top_k", ("st.global.b32", 0), Drop(1), "counter", "its counter is not set back"),
    mistake("top_k", ("st.global.f32", 2), Drop(1), "NaN", "the sum of a segment is not written"),
    mistake("top_k", ("setp.lt.f32", 0), Swap(".lt", ".ltu"), "element is NaN", "NaN counts as a number"),
    mistake(
        "top_k",
        ("setp.lt.f32", 3),
        Swap(".lt", ".gt"),
        "an output element is -inf",
        "of two elements the smaller is kept",
    ),
    mistake("top_k", ("sub.s32", 2), Swap("sub", "add"), "_shared", "blocks are not mirrored"),
    mistake("linear@3", ("ld.shared.b32", 0), Further(4), "wrong", "a lane has the codes of the next"),
    mistake("linear@3", ("ld.shared.u16", 0), Further(2), "wrong", "a scale is that of the next row"),
    mistake("linear@3", ("ld.global.v4.f32", 0), Further(16), "NaN", "scales are those of the next tokens"),
    mistake("linear@3", ("ld.global.v4.b32", 0), Further(16), "wrong", "sums of codes are those of the next tokens"),
    mistake("linear@3", ("ld.global.v4.f32", 1), Further(64), "oob_global", "biases are those of the next blocks"),
    mistake("linear@3", ("ld.global.v4.b32", 1), Further(16), "wrong", "codes are those of the next lane"),
    mistake("linear@3", ("ld.global.v4.b32", 1), Further(8), "misaligned", "codes are loaded from between two blocks"),
    mistake("linear@3", (", -8;", 0), Last("-7"), "wrong", "an offset is too small"),
    mistake("linear@3", ("mma.sync", 1), Swap(".u8.s8", ".u8.u8"), "wrong", "codes of activations have no sign"),
    mistake(
        "linear@3",
        ("bar.warp.sync", 3),
        Drop(1),
        "race_global",
        "lanes read sums of others before they are there",
    ),
    mistake("linear@3", ("st.global.f32", 0), Drop(1), "NaN", "sums of a cut are not left"),
    mistake("linear@3", ("st.global.f32", 1), Further(4), "race_global", "sums of a cut are left at the next row"),
    mistake("linear@3", ("atom.", 0), Swap(".acq_rel", ".relaxed"), "race_global", "cuts arrive without order"),
    mistake("linear@3", ("+4];", 0), Further(-4), "oob_global", "the position is taken for the number of tokens"),
    mistake("step_codes@3", (", 4, 31", 2), Swap(", 4, 31", ", 8, 31"), "wrong", "lanes of two blocks share a scale"),
    mistake("step_codes@3", (", 2, 31", 3), Swap(", 2, 31", ", 4, 31"), "numbers of block", "a sum has other lanes"),
    mistake("step_codes@3", ("st.global.b32", 0), Further(4), "race_global", "codes lie a word too far"),
    mistake("step_codes@3", ("st.global.b32", 1), Drop(1), "orders of codes", "codes in turn are not written"),
    mistake("step_codes@3", ("st.global.f32", 1), Drop(1), "numbers of block", "biases are not written"),
    mistake(
        "step_codes@3",
        ("mul.lo.s32", 0),
        Becomes("mov.b32 {0}, 0;", HERE),
        "wrong",
        "all tokens have the first row",
    ),
    mistake("embed@3", ("ld.global", 1), Further(4), "oob_global", "ids are those of the next tokens"),
    mistake("repack", ("st.global", 0), Further(16), "race_global", "a unit is a lane too far"),
    mistake("repack", ("ld.global", 0), Further(2), "bytes", "codes are those of the next"),
];

/// An attention with a window, a cap and sinks, whose KV heads are split over two CTAs.
fn masked() -> TableKernel {
    let (window, cap) = (Some(300), Some(1.5));
    let row = Row { heads: 4, kv_heads: 2, head: 16, value: 16, context: 600, window, cap, sinks: true };
    let spec = row.spec(1, quant::F16, (false, None), target());
    let schedule = Schedule::Gpu(GpuSchedule { ctas: 6, warps: 8, streams: 2, chunk: 64, depth: 0 });
    let made = kernels_gen::generate(&spec, &schedule, target()).unwrap();
    TableKernel::new(spec, (schedule, made), 0).unwrap()
}

/// The kernels, by what mistakes call them.
fn table() -> Vec<(String, TableKernel)> {
    let target = target();
    let shape = Synthetic {
        width: 512,
        heads: 4,
        kv_heads: 2,
        head: 80,
        ffn: 1024,
        context: 600,
        layers: 1,
        vocab: 2500,
        architecture: "qwen3",
        qk_norm: true,
        format: format("q4_0"),
        ..Synthetic::default()
    };
    let kernels = kernels::table(&shape.model(), target, &[1, STEP], quant::Q8_0).kernels;
    let again = |k: TableKernel| {
        let multiplies = k.spec.body.nodes().iter().any(|n| n.op == Op::MatMul);
        let warps = if multiplies { 2 } else { 8 };
        let schedule = Schedule::Gpu(GpuSchedule { ctas: 3, warps, streams: 2, chunk: 64, depth: 2 });
        let made = kernels_gen::generate(&k.spec, &schedule, target).unwrap();
        TableKernel::new(k.spec, (schedule, made), 0).unwrap()
    };
    let name = |k: &TableKernel| match k.spec.tokens {
        1 => k.spec.kind.clone(),
        tokens => format!("{}@{tokens}", k.spec.kind),
    };
    let named = kernels.into_iter().map(|k| (name(&k), again(k)));
    named.chain([("masked".into(), masked())]).collect()
}

fn target() -> &'static Target {
    Target::by_name("sm_90").unwrap()
}

fn edited(code: &str, m: &Mistake) -> String {
    let mut lines: Vec<String> = code.lines().map(String::from).collect();
    let find = |(find, nth): (&str, usize)| {
        let at = (0..lines.len()).filter(|&i| lines[i].contains(find)).nth(nth);
        at.unwrap_or_else(|| panic!("{}: no such line in\n{code}", m.what))
    };
    let at = find((m.find, m.nth));
    match m.edit {
        Drop(count) => drop(lines.drain(at..at + count)),
        Swap(from, to) => {
            assert!(lines[at].contains(from), "{}: {}", m.what, lines[at]);
            lines[at] = lines[at].replacen(from, to, 1);
        }
        Further(by) => {
            let (head, tail) = lines[at].split_once("+").unwrap();
            let (offset, tail) = tail.split_once("]").unwrap();
            lines[at] = format!("{head}+{}]{tail}", offset.parse::<i64>().unwrap() + by);
        }
        Becomes(text, other) => {
            let operands = |line: &str| {
                let (_, list) = line.trim().trim_end_matches(';').split_once(' ').unwrap();
                list.split(", ").map(String::from).collect::<Vec<_>>()
            };
            let (own, others) = (operands(&lines[at]), operands(&lines[find(other)]));
            let filled = own.iter().enumerate().fold(text.to_owned(), |t, (i, o)| t.replace(&format!("{{{i}}}"), o));
            lines[at] = others.iter().enumerate().fold(filled, |t, (i, o)| t.replace(&format!("<{i}>"), o));
        }
        Last(to) => {
            let (head, _) = lines[at].rsplit_once(", ").unwrap();
            lines[at] = format!("{head}, {to};");
        }
    }
    lines.join("\n") + "\n"
}

/// What is reported of a kernel with its code edited, in the first of all schedules that shows anything.
fn report(kernel: &TableKernel, edit: impl Fn(&str) -> String) -> Option<String> {
    (0..SCHEDULES).find_map(|workers| {
        let trial = Trial { position: 500, tokens: kernel.spec.tokens, workers, seed: 5, draw: Draw::Usual };
        let edit = |code: &Vec<u8>| edit(std::str::from_utf8(code).unwrap()).into_bytes();
        match kernels::attempt(kernel, target(), trial, edit) {
            Err(e) => Some(e),
            Ok(all) => all.iter().find(|d| d.error > d.bound).map(|d| format!("wrong result: off by {}", d.error)),
        }
    })
}

#[test]
fn every_planted_mistake_is_reported() {
    let kernels = table();
    for (name, k) in &kernels {
        assert_eq!(report(k, |code| code.into()), None, "{name}");
    }
    let mut missed = Vec::new();
    for m in MISTAKES {
        let (_, kernel) = kernels.iter().find(|(name, _)| name == m.kernel).unwrap();
        let found = report(kernel, |code| edited(code, m));
        eprintln!("{} ({}): {}", m.what, m.kernel, found.as_deref().unwrap_or("-"));
        if !found.as_ref().is_some_and(|f| f.contains(m.found)) {
            missed.push((m.what, found));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Ops whose kernels read nothing that a launch before writes. They wait for it for the sake of the launches after, which the
/// verifier of kernels checks: run twice, they write the same bytes twice.
const WAITING_FOR_OTHERS: &[&str] = &["embed", "rope_angles", "step_codes", "repack"];

/// No wait is there in vain: without any one of them a kernel is wrong. (`qkv` waits for what some heads do not need.)
#[test]
fn every_wait_is_needed() {
    let mut idle = Vec::new();
    let waits = ["bar.warp.sync", "bar.sync", "try_wait", "fence.", "griddepcontrol.wait"];
    for (_, kernel) in table().into_iter().filter(|(name, _)| !name.starts_with("qkv")) {
        let back = codegen::back::for_target(target()).unwrap();
        let code = String::from_utf8(back.emit(&kernel.kernel, target(), false).unwrap().code).unwrap();
        for find in waits {
            if find == "griddepcontrol.wait" && WAITING_FOR_OTHERS.contains(&kernel.spec.kind.as_str()) {
                continue;
            }
            for nth in 0..code.matches(find).count() {
                let lines = if find == "try_wait" { 2 } else { 1 };
                let m = mistake("", (find, nth), Drop(lines), "", "a wait is left out");
                if report(&kernel, |code| edited(code, &m)).is_none() {
                    idle.push(format!("{}: {find} {nth}", kernel.kernel.name));
                }
            }
        }
    }
    assert!(idle.is_empty(), "{idle:#?}");
}
