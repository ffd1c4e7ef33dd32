//! Tables of schedules: a row is used as it is, or refused with its file, its number and what is allowed.

use crate::harness::{check_refused, rigc, shared};
use std::fs;
use tests::synthetic::{Synthetic, format};

/// A row for the products of the FFN of `m.gguf`, which are f32 of 64 columns, with this in place of `from`.
fn row(from: &str, to: &str) -> String {
    let row = "(op: \"linear\", tokens: (1, 1), columns: (64, 64), rows: (1, 4096), format: \"f32\", \
               schedule: Gpu((ctas: 4, warps: 8, streams: 8, chunk: 64, depth: 1)))";
    assert!(row.contains(from), "{from}");
    row.replace(from, to)
}

const CPU: &str = "Cpu((prologue: Shared, unit_tiles: 1, query_tokens: 1, split: 0))";
const GPU: &str = "Gpu((ctas: 4, warps: 8, streams: 8, chunk: 64, depth: 1))";

/// A CPU row for attention with this in place of `from`.
fn attention(from: &str, to: &str) -> String {
    let row = format!("(op: \"attention\", tokens: (1, 16), columns: (0, 0), schedule: {CPU})");
    assert!(row.contains(from), "{from}");
    row.replace(from, to)
}

#[test]
fn bad_rows_are_named() {
    let dir = shared();
    let good = row("", "");
    let table: &[(&str, String, &[&str])] = &[
        // What no model has.
        ("sm_120", row("linear", "line-ar"), &["row 1 of t.ron", "there is no op 'line-ar'", "linear, rows"]),
        ("sm_120", row("f32", "q9"), &["row 1 of t.ron", "there is no format 'q9'"]),
        ("sm_120", row("schedule:", "card: \"rtx9\", schedule:"), &["row 1 of t.ron", "there is no card 'rtx9'"]),
        ("sm_120", row("tokens: (1, 1)", "tokens: (2, 1)"), &["row 1 of t.ron", "tokens are (2, 1)"]),
        ("sm_120", row("op:", "opp:"), &["t.ron", "schedule table", "opp"]),
        ("sm_120", row("depth: 1", "depth: 1.5"), &["t.ron", "schedule table", "1:"]),
        // What this model has not.
        (
            "sm_120",
            row("columns: (64, 64)", "columns: (1, 63)"),
            &["row 1 of t.ron", "no kernel", "op: \"linear\", tokens: (1, 1), columns: (64, 64)", "rigc schedules"],
        ),
        ("sm_120", row("f32", "q4_k"), &["row 1 of t.ron", "no kernel of this model matches"]),
        ("sm_120", row("f32", "f32+q4_k"), &["row 1 of t.ron", "no kernel of this model matches"]),
        ("sm_120", row("tokens: (1, 1)", "tokens: (17, 99)"), &["row 1 of t.ron", "no kernel of this model matches"]),
        ("sm_120", format!("{good}, {good}"), &["row 2 of t.ron", "rows before it match all"]),
        ("x86-64", row("linear", "repack"), &["row 1 of t.ron", "no kernel repack for x86-64"]),
        // Figures.
        ("sm_120", row(GPU, CPU), &["row 1 of t.ron", "a Cpu schedule is not for sm_120"]),
        ("x86-64", row("", ""), &["row 1 of t.ron", "a Gpu schedule is not for x86-64"]),
        ("sm_120", row("ctas: 4", "ctas: 0"), &["row 1 of t.ron", "ctas is 0, 1 to 65535 are allowed"]),
        ("sm_120", row("warps: 8", "warps: 33"), &["row 1 of t.ron", "warps is 33, 1 to 32 are allowed"]),
        ("sm_120", row("streams: 8", "streams: 9"), &["row 1 of t.ron", "streams is 9, 1 to 8 are allowed"]),
        ("sm_120", row("streams: 8", "streams: 0"), &["row 1 of t.ron", "streams is 0, 1 to 8 are allowed"]),
        ("sm_120", row("chunk: 64", "chunk: 300"), &["row 1 of t.ron", "chunk is 300, which is no power of two"]),
        ("sm_120", row("chunk: 64", "chunk: 8192"), &["row 1 of t.ron", "chunk is 8192, 1 to 4096 are allowed"]),
        ("sm_120", row("chunk: 64", "chunk: 256"), &["row 1 of t.ron", "chunk is 256", "of 64 then: write that"]),
        ("sm_120", row("depth: 1", "depth: 3"), &["row 1 of t.ron", "depth is 3, which is no power of two"]),
        ("sm_120", row("depth: 1", "depth: 64"), &["row 1 of t.ron", "depth is 64, 0 to 32 are allowed"]),
        ("sm_89", row("", ""), &["row 1 of t.ron", "depth is 1, 0 to 0 are allowed"]),
        ("x86-64", attention("unit_tiles: 1", "unit_tiles: 0"), &["unit_tiles is 0, 1 to 1024 are allowed"]),
        ("x86-64", attention("query_tokens: 1", "query_tokens: 129"), &["query_tokens is 129, 1 to 128"]),
        ("x86-64", attention("split: 0", "split: 63"), &["split is 63, 0 and multiples of 64"]),
        ("x86-64", attention("Shared", "PerWorker"), &["prologue is PerWorker", "one token, not for 2"]),
    ];
    for (target, rows, words) in table {
        fs::write(dir.join("t.ron"), format!("[{rows}]")).unwrap();
        let args = ["compile", "m.gguf", "--target", target, "--schedules", "t.ron", "-o", "t.rig"];
        check_refused(dir, &args, words);
    }
    assert!(!dir.join("t.rig").exists());
    for rows in [
        good,
        row("schedule:", "card: \"rtx5080\", schedule:"),
        row("linear", "linear").replace(", format: \"f32\"", ""),
    ] {
        fs::write(dir.join("t.ron"), format!("[{rows}]")).unwrap();
        let o = rigc(dir, &["compile", "m.gguf", "--target", "sm_120", "--schedules", "t.ron", "--emit", "plan"]);
        assert_eq!(o.code, Some(0), "{}", o.err);
    }
}

/// A ring that does not fit, and the deepest that does.
#[test]
fn shared_memory_of_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let shape = Synthetic { width: 32, ffn: 28_672, layers: 1, format: format("q4_0"), ..Synthetic::default() };
    shape.sparse(&dir.join("deep.gguf")).unwrap();
    let args = ["compile", "deep.gguf", "--target", "sm_120", "--schedules", "t.ron", "--emit", "plan"];
    let table = |depth| {
        let schedule = format!("Gpu((ctas: 170, warps: 8, streams: 8, chunk: 256, depth: {depth}))");
        let row = format!("(op: \"linear\", tokens: (1, 1), columns: (28672, 28672), schedule: {schedule})");
        fs::write(dir.join("t.ron"), format!("[{row}]")).unwrap();
    };
    table(4);
    let words =
        ["row 1 of t.ron", "needs", "bytes of shared memory, a CTA of rtx5090 has 101376: take a depth of at most 1"];
    check_refused(dir, &args, &words);
    table(1);
    assert_eq!(rigc(dir, &args).code, Some(0));
}

/// `--emit schedule` is a table that gives the same kernels.
#[test]
fn printed_rows_are_a_table() {
    let dir = shared();
    for target in ["x86-64", "x86-64-v3", "sm_80", "sm_120"] {
        for model in ["m.gguf", "demo.gguf"] {
            let compile = |more: &[&str]| rigc(dir, &[&["compile", model, "--target", target], more].concat());
            let o = compile(&["--emit", "schedule"]);
            let (head, rows) = o.text().split_once('\n').unwrap();
            assert_eq!(head, format!("== schedule {target}"));
            fs::write(dir.join("rows.ron"), rows).unwrap();
            let kernels = |more: &[&str]| compile(&[&["--emit", "kernel"], more].concat()).text().to_owned();
            let (own, given) = (kernels(&[]), kernels(&["--schedules", "rows.ron"]));
            assert!(!own.is_empty() && own == given, "{model} {target}");
        }
    }
}

#[test]
fn help_has_the_format() {
    let o = rigc(shared(), &["help", "schedules"]);
    for words in [
        "(op: \"linear\", tokens: (1, 1)",
        "card: \"rtx5090\"",
        "Gpu((ctas: 170",
        "Cpu((prologue:",
        "ctas         most thread blocks; fewer run where there is less work: 1 to 65535\n",
        "powers of two, 1 to 4096\n",
        "0 and powers of two up to 32\n",
        "0 and multiples of 64 up to 16777216\n",
        "PerWorker (one token only) or Shared\n",
    ] {
        assert!(o.text().contains(words), "{words} is not in {}", o.text());
    }
}

/// `rigc schedules` prints a table that gives the same kernels, with what may stand there instead.
#[test]
fn schedules_of_a_model() {
    let dir = shared();
    for target in ["x86-64-v3", "sm_80", "sm_120"] {
        for model in ["m.gguf", "demo.gguf"] {
            let o = rigc(dir, &["schedules", model, "--target", target]);
            assert_eq!((o.code, &*o.err), (Some(0), ""), "{model} {target}");
            fs::write(dir.join("printed.ron"), o.text()).unwrap();
            let compile = |more: &[&str]| {
                let args = [&["compile", model, "--target", target, "--emit", "kernel"], more].concat();
                rigc(dir, &args).text().to_owned()
            };
            let (own, given) = (compile(&[]), compile(&["--schedules", "printed.ron"]));
            assert!(!own.is_empty() && own == given, "{model} {target}");
        }
    }
    let o = rigc(dir, &["schedules", "demo.gguf", "--card", "rtx5070ti"]);
    assert!(o.text().starts_with("// demo.gguf for sm_120 (rtx5070ti);"), "{}", o.text());
    let rows: Vec<&str> = o.text().lines().filter(|l| l.trim_start().starts_with('(')).collect();
    assert!(rows.iter().all(|row| row.contains("card: \"rtx5070ti\"")), "{}", o.text());
    // What is said of a product holds: the deepest ring is taken, a deeper one and another chunk are not.
    let comment = o.text().lines().find(|l| l.contains("ffn_gate+up")).unwrap();
    let (name, rest) = comment.trim().trim_start_matches("// ").split_once(", ").unwrap();
    let (_, chunks) = rest.split_once("chunk ").unwrap();
    let (chunk, rest) = chunks.split_once(" (depth up to ").unwrap();
    let deepest: u32 = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let o = rigc(dir, &["schedules", "demo.gguf", "--card", "rtx5070ti", "--kernel", name]);
    let row = o.text().lines().find(|l| l.trim_start().starts_with('(')).unwrap();
    assert_eq!(o.text().lines().filter(|l| l.trim_start().starts_with('(')).count(), 1, "{}", o.text());
    let with = |chunk: &str, depth: u32| {
        let (head, rest) = row.split_once("chunk:").unwrap();
        let end = rest.split_once(')').unwrap().1;
        fs::write(dir.join("deep.ron"), format!("[{head}chunk:{chunk},depth:{depth}){end}]")).unwrap();
        let args = ["compile", "demo.gguf", "--card", "rtx5070ti", "--schedules", "deep.ron", "--emit", "schedule"];
        rigc(dir, &args)
    };
    assert_eq!(with(chunk, deepest).code, Some(0), "{}", with(chunk, deepest).err);
    if deepest < 32 {
        assert!(with(chunk, 2 * deepest).err.contains("bytes of shared memory"), "{}", with(chunk, 2 * deepest).err);
    }
    assert!(with("4096", 0).err.contains("write that"), "{}", with("4096", 0).err);
    check_refused(dir, &["schedules", "demo.gguf", "--kernel", "nothing"], &["no kernel 'nothing'", "the kernels are"]);
    check_refused(dir, &["schedules", "demo.rig"], &["demo.rig is an artifact", "GGUF"]);
}
