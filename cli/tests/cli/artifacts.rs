//! `rigc compile` and `rigc inspect`: artifacts on disk and printed stages.

use crate::harness::{Outcome, check_refused, command, names, rigc, shared, small, wait};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Once;
use tests::synthetic::Synthetic;

#[test]
fn stages() {
    for (stage, word) in [
        ("graph", "matmul"),
        ("fused", "fusion"),
        ("kernel", "schedule"),
        ("plan", "arena"),
        ("clif", "function"),
        ("asm", "ret"),
    ] {
        let o = rigc(shared(), &["compile", "m.gguf", "--emit", stage]);
        assert_eq!((o.code, o.err.as_str()), (Some(0), ""), "{stage}");
        assert!(o.text().starts_with(&format!("== {stage} ")), "{stage}: {}", &o.text()[..200]);
        assert!(o.text().to_lowercase().contains(word), "'{word}' is not in stage {stage}");
    }
    let o = rigc(shared(), &["compile", "m.gguf", "--emit", "plan,graph"]);
    assert!(o.text().starts_with("== graph decode") && o.text().contains("\n== plan decode"), "stages are in order");
}

#[test]
fn written_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("m.gguf"), small().gguf()).unwrap();
    std::fs::create_dir(dir.join("full.rig")).unwrap();
    std::fs::write(dir.join("full.rig/mine.txt"), "mine").unwrap();
    std::fs::write(dir.join("file.rig"), "mine").unwrap();
    let before = names(dir);
    for (path, words) in [
        ("nowhere/m.rig", &["nowhere"][..]),
        ("m.gguf/m.rig", &["m.gguf"]),
        ("full.rig", &["full.rig exists and is no artifact"]),
        ("file.rig", &["file.rig exists and is no artifact"]),
        ("/proc/m.rig", &["/proc"]),
    ] {
        check_refused(dir, &["compile", "m.gguf", "-o", path], words);
        assert_eq!(names(dir), before, "-o {path}");
    }
    assert_eq!(names(&dir.join("full.rig")), ["mine.txt"]);
    // A manifest makes an artifact, but does not make all else part of it.
    std::fs::create_dir_all(dir.join("p.rig/src")).unwrap();
    std::fs::write(dir.join("p.rig/manifest.ron"), "a").unwrap();
    std::fs::write(dir.join("p.rig/src/t"), "b").unwrap();
    check_refused(dir, &["compile", "m.gguf", "-o", "p.rig"], &["p.rig holds 'src'", "move it away"]);
    std::fs::remove_dir_all(dir.join("p.rig/src")).unwrap();
    std::fs::create_dir(dir.join("p.rig/cpu.bin")).unwrap();
    check_refused(dir, &["compile", "m.gguf", "-o", "p.rig"], &["p.rig holds 'cpu.bin'"]);
    std::fs::remove_dir_all(dir.join("p.rig")).unwrap();
    let mut files = Vec::new();
    for _ in 0..2 {
        let o = rigc(dir, &["compile", "m.gguf"]);
        assert_eq!((o.code, o.out.len()), (Some(0), 0), "{}", o.err);
        assert!(o.err.contains("m.rig") && o.err.lines().count() == 1, "{}", o.err);
        let all = names(&dir.join("m.rig"));
        files.push(all.iter().map(|f| std::fs::read(dir.join("m.rig").join(f)).unwrap()).collect::<Vec<_>>());
    }
    assert!(files[0] == files[1], "compiling twice gives other bytes");
    let after = names(dir);
    assert_eq!(after.iter().filter(|n| !before.contains(n)).collect::<Vec<_>>(), ["m.rig"]);
}

/// Several writers of one name, and a reader: each writer succeeds, and what is read is what one of them wrote.
#[test]
fn writers_and_readers_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("m.gguf"), small().gguf()).unwrap();
    let compile = |target: &str| command(dir, &["compile", "m.gguf", "--target", target]).spawn().unwrap();
    for round in 0..3 {
        let writers: Vec<_> = ["x86-64", "sm_90", "x86-64", "sm_120"].map(compile).into();
        if round > 0 {
            for _ in 0..200 {
                let artifact = runtime::artifact::read(&dir.join("m.rig")).unwrap();
                assert_eq!(artifact.modules.len(), 1);
            }
        }
        for writer in writers {
            let o = wait(writer);
            assert_eq!(o.code, Some(0), "{}", o.err);
        }
        assert_eq!(names(dir), ["m.gguf", "m.rig"]);
        assert_eq!(names(&dir.join("m.rig")).len(), 2);
    }
}

#[test]
fn inspected() {
    let dir = shared();
    for (args, words) in [
        (&["inspect"][..], &["bard-q4_k_m.gguf", "llama", "3 layers", "q4_k"][..]),
        (&["inspect", "m.gguf"], &["m.gguf", "1 layers", "token_embd.weight"]),
        (&["inspect", "demo.rig"], &["demo.gguf", "context 512", "decode", "launches"]),
        (&["inspect", "m.gguf", "--verify"], &["sha256"]),
    ] {
        let o = rigc(dir, args);
        assert_eq!((o.code, o.err.as_str()), (Some(0), ""), "{args:?}");
        for word in words {
            assert!(o.text().contains(word), "'{word}' is not in {}", o.text());
        }
    }
    // Layers are one line, unless all tensors are asked for.
    let (few, all) = (rigc(dir, &["inspect", "demo.gguf"]), rigc(dir, &["inspect", "demo.gguf", "--tensors"]));
    assert!(few.text().contains("blk.*.attn_q.weight") && few.text().contains("3 x ["), "{}", few.text());
    assert!(!few.text().contains("blk.0.") && all.text().contains("blk.2.attn_q.weight"), "{}", all.text());
    assert!(few.text().contains("KV cache: ") && few.text().contains("chat template: yes"), "{}", few.text());
    let o = rigc(dir, &["inspect", "m.gguf", "--json"]).json();
    assert_eq!((&o["config"]["layers"], &o["shards"]), (&1.into(), &1.into()));
    assert!(o["tensors"].as_array().is_some_and(|t| !t.is_empty()));
}

#[test]
fn commented_ptx() {
    let o = rigc(shared(), &["compile", "m.gguf", "--target", "sm_120", "--emit", "ptx"]);
    let kernels: Vec<&str> = o.text().split("== ptx ").skip(1).collect();
    assert!(kernels.len() > 5, "{}", o.err);
    for text in kernels {
        let (name, _) = text.split_once('\n').unwrap();
        let (comment, entry) = text.split_once(".visible .entry").unwrap();
        assert!(entry.starts_with(&format!(" {name}(")), "{name}");
        for word in [
            "// spec ",
            " target sm_120",
            "// %0 = param 0",
            "// schedule ",
            "// parameters in0, ",
            " bytes of weights",
        ] {
            assert!(comment.contains(word), "'{word}' is not in {comment}");
        }
    }
}

/// A tool that prints a text.
pub fn fake(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(dir.join(format!("{name}.txt")), text).unwrap();
    std::fs::write(&path, "#!/bin/sh\ncat \"$0.txt\"\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The report on the kernels of `m120.rig`, with these tools.
fn kernels(args: &[&str], [ptxas, nvdisasm]: [&str; 2]) -> Outcome {
    static COMPILED: Once = Once::new();
    let dir = shared();
    COMPILED.call_once(|| {
        let o = rigc(dir, &["compile", "m.gguf", "--target", "sm_120", "--ctx", "40", "-o", "m120.rig"]);
        assert_eq!(o.code, Some(0), "{}", o.err);
    });
    let mut command = command(dir, &[&["inspect", "m120.rig", "--kernels"], args].concat());
    wait(command.env("RIGC_PTXAS", ptxas).env("RIGC_NVDISASM", nvdisasm).spawn().unwrap())
}

#[test]
fn costs_of_kernels_without_tools() {
    let o = kernels(&[], ["/nowhere/ptxas", "/nowhere/nvdisasm"]);
    assert_eq!((o.code, o.err.lines().count()), (Some(0), 1), "{}", o.err);
    assert!(o.err.contains("/nowhere/ptxas") && o.err.contains("RIGC_PTXAS"), "{}", o.err);
    for word in
        ["sm_120 (rtx5090), decode at position 39", "by PTX", "qkv_1_", "attn_q+k+v", "f32", " c64 d1", "tok/s", "gain"]
    {
        assert!(o.text().contains(word), "'{word}' is not in {}", o.text());
    }
    let lines: Vec<&str> = o.text().lines().skip(2).take_while(|l| !l.is_empty()).collect();
    assert!(lines.len() > 5 && lines.iter().all(|l| l.len() == lines[0].len()), "not aligned: {}", o.text());
    assert!(lines[0].len() <= 120, "{}", lines[0]);

    let report = |args: &[&str]| kernels(&[args, &["--json"]].concat(), ["/nowhere", "/nowhere"]).json();
    let json = report(&[]);
    let rows = json["kernels"].as_array().unwrap();
    let sum = |key: &str| rows.iter().map(|r| r[key].as_f64().unwrap() * r["launches"].as_f64().unwrap()).sum::<f64>();
    assert!((json["step"]["microseconds"].as_f64().unwrap() - sum("microseconds")).abs() < 1e-6);
    assert_eq!(json["step"]["bytes"].as_f64().unwrap(), sum("bytes"));
    // What is multiplied is all weights but the embedding table, of which a row is read.
    let weights: u64 = rows.iter().map(|r| r["weight_bytes"].as_u64().unwrap() * r["launches"].as_u64().unwrap()).sum();
    let tensors = rigc(shared(), &["inspect", "m.gguf", "--json"]).json();
    let tensors = tensors["tensors"].as_array().unwrap().iter();
    let bytes = tensors.filter(|t| t["name"] != "token_embd.weight").map(|t| t["bytes"].as_u64().unwrap());
    let all: u64 = bytes.sum();
    assert!((all..all + all / 20).contains(&weights), "{weights} bytes of weights, the file has {all}");
    for row in rows {
        let share = row["share_of_roofline"].as_f64().unwrap();
        assert!(row["registers"].is_null() && row["spill_bytes"].is_null() && (0.0..1.0).contains(&share), "{row}");
        let multiplies = ["qkv", "linear"].iter().any(|op| row["name"].as_str().unwrap().starts_with(op));
        assert_eq!(row["instructions_per_32_weights"].is_number(), multiplies, "{row}");
    }
    assert_eq!(json["memory"]["card_bytes"], 32u64 << 30);
    let memory = json["memory"]["weight_bytes"].as_u64();
    assert!(
        memory > Some(weights) && o.text().contains("the card has 32 GiB, of which 31.4 are free\n"),
        "{memory:?} {}",
        o.text()
    );
    // The KV cache grows with the position, and a card with half of the bandwidth takes twice the time for bytes.
    let first = report(&["--position", "0"]);
    assert!(first["step"]["bytes"].as_u64() < json["step"]["bytes"].as_u64());
    let slow = report(&["--card", "rtx5070ti"]);
    assert_eq!(slow["card"], "rtx5070ti");
    let roofline = |report: &serde_json::Value| {
        report["step"]["microseconds"].as_f64().unwrap() * report["step"]["share_of_roofline"].as_f64().unwrap()
    };
    assert!((roofline(&slow) / roofline(&json) - 2.0).abs() < 1e-9, "{slow}");
}

#[test]
fn costs_of_kernels_with_tools() {
    let dir = tempfile::tempdir().unwrap();
    let json = kernels(&["--json"], ["/nowhere", "/nowhere"]).json();
    let find = |json: &serde_json::Value, role: &str| {
        json["kernels"].as_array().unwrap().iter().find(|k| k["role"] == role).unwrap().clone()
    };
    let name = find(&json, "ffn_down")["name"].as_str().unwrap().to_owned();
    let said = format!(
        "ptxas info    : Compiling entry function '{name}' for 'sm_120'\n    16 bytes stack frame, 8 bytes spill stores, \
         4 bytes spill loads\nptxas info    : Used 77 registers, used 1 barriers\n"
    );
    let tools = [fake(dir.path(), "ptxas", &said), fake(dir.path(), "nvdisasm", &sass(&name))];
    // Of a list of assemblers the last, the newest, is taken.
    let list = format!("/nowhere:{}", tools[0]);
    let o = kernels(&["--json"], [&list, &tools[1]]);
    assert_eq!(o.err, "");
    let (json, row) = (o.json(), find(&o.json(), "ffn_down"));
    assert_eq!((&json["instructions"], &row["name"]), (&"sass".into(), &name.as_str().into()));
    assert_eq!((&row["registers"], &row["spill_bytes"]), (&77.into(), &12.into()));
    assert_eq!(row["instructions_per_32_weights"], 40.0);
    assert!(find(&json, "attn_output")["registers"].is_null());
    let o = kernels(&[], [&tools[0], "/nowhere"]);
    assert!(o.err.lines().count() == 1 && o.err.contains("RIGC_NVDISASM"), "{}", o.err);
    let spills = format!("\n{name} spills 12 bytes");
    assert!(o.text().contains(&spills) && o.text().contains("by PTX"), "{}", o.text());
    let o = kernels(&[], ["/bin/false", "/nowhere"]);
    assert!(o.code == Some(0) && o.err.contains("/bin/false fails"), "{}", o.err);
}

/// What a disassembler says of a kernel whose loop has five instructions for four weights.
fn sass(kernel: &str) -> String {
    let code = "        /*0010*/  FFMA R1, R2, R3, R1 ;\n".repeat(4);
    format!(
        "\t.section .text.{kernel}\n.text.{kernel}:\n.L_x_1:\n{code}        /*0020*/  @P0 BRA `(.L_x_1) ;\n\t.section x\n"
    )
}

/// Stages of one kernel, and machine code.
#[test]
fn stages_of_a_kernel() {
    let dir = shared();
    let emit = |more: &[&str], [ptxas, nvdisasm]: [&str; 2]| {
        let mut command = command(dir, &[&["compile", "m.gguf", "--target", "sm_120", "--emit"], more].concat());
        wait(command.env("RIGC_PTXAS", ptxas).env("RIGC_NVDISASM", nvdisasm).spawn().unwrap())
    };
    let none = ["/nowhere/ptxas", "/nowhere/nvdisasm"];
    let all = emit(&["ptx"], none);
    let name = all.text().lines().filter_map(|l| l.strip_prefix("== ptx ")).find(|n| n.starts_with("qkv")).unwrap();
    let o = emit(&["schedule,kernel,ptx", "--kernel", name], none);
    let heads: Vec<&str> = o.text().lines().filter(|l| l.starts_with("== ")).collect();
    assert_eq!(heads, ["== schedule sm_120", &format!("== kernel {name}"), &format!("== ptx {name}")], "{}", o.err);
    assert_eq!(o.text().matches("(op: ").count(), 1, "{}", o.text());
    assert!(o.text().contains(&format!(".visible .entry {name}(")) && o.text().matches(".visible .entry").count() == 1);

    let tools = tempfile::tempdir().unwrap();
    let [ptxas, nvdisasm] =
        [("ptxas", String::new()), ("nvdisasm", sass(name))].map(|(n, s)| fake(tools.path(), n, &s));
    let o = emit(&["sass", "--kernel", name], [&ptxas, &nvdisasm]);
    let expected = sass(name).lines().skip(2).take(6).fold(format!("== sass {name}\n"), |all, l| all + l + "\n");
    assert_eq!((o.text(), o.code), (&*expected, Some(0)), "{}", o.err);
    for (tools, words) in [
        (none, ["--emit sass: /nowhere/ptxas", "RIGC_PTXAS"]),
        ([&*ptxas, none[1]], ["/nowhere/nvdisasm", "RIGC_NVDISASM"]),
    ] {
        let o = emit(&["sass"], tools);
        assert!(o.code == Some(2) && words.iter().all(|word| o.err.contains(word)), "{}", o.err);
    }
    check_refused(dir, &["compile", "m.gguf", "--emit", "sass"], &["no stage 'sass'", "the stages are"]);
    check_refused(dir, &["compile", "m.gguf", "--emit", "plan", "--kernel", name], &["plan is of whole steps"]);
    check_refused(
        dir,
        &["compile", "m.gguf", "--emit", "kernel", "--kernel", "x"],
        &["no kernel 'x'", "the kernels are"],
    );
    check_refused(dir, &["compile", "m.gguf", "--kernel", "x"], &["--emit"]);
}

#[test]
fn models_that_fit_no_card() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let shape = Synthetic { width: 8192, heads: 64, kv_heads: 8, head: 128, ffn: 16384, layers: 16, ..small() };
    shape.sparse(&dir.join("huge.gguf")).unwrap();
    assert_eq!(rigc(dir, &["compile", "huge.gguf", "--target", "sm_120", "--card", "rtx5080"]).code, Some(0));
    let o = rigc(dir, &["inspect", "huge.rig", "--kernels"]);
    assert!(o.text().contains("the card has 16 GiB, of which 15.4 are free, too little"), "{}", o.text());
    let o = rigc(dir, &["inspect", "huge.rig", "--kernels", "--card", "rtxpro6000"]);
    assert!(o.text().contains("the card has 96 GiB, of which 95.4 are free\n"), "{}", o.text());
}

#[test]
fn costs_of_kernels_of_cpus() {
    let o = rigc(shared(), &["inspect", "demo.rig", "--kernels"]);
    assert_eq!((o.code, o.err.as_str()), (Some(0), ""));
    assert!(o.text().contains("decode at position 511") && !o.text().contains("tok/s"), "{}", o.text());
    let mut table = o.text().lines().skip(2).take_while(|l| !l.is_empty());
    let head: Vec<&str> = table.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["n", "kernel", "role", "format", "schedule", "bytes"]);
    assert!(table.clone().any(|l| l.contains(" ffn_gate+up ") && l.contains(" q4_k ")), "{}", o.text());
    let bytes: Vec<u64> = table
        .map(|l| {
            let [n, .., bytes] = l.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{l}") };
            n.parse::<u64>().unwrap() * bytes.parse::<u64>().unwrap()
        })
        .collect();
    assert!(bytes.is_sorted_by(|a, b| a >= b), "{}", o.text());
    // Steps of several tokens have kernels of their own.
    let o = rigc(shared(), &["inspect", "demo.rig", "--kernels", "--tokens", "5"]);
    assert!(o.text().contains("batch@8 at position 504\n") && o.text().contains("_8_"), "{}", o.text());
    check_refused(shared(), &["inspect", "demo.rig", "--kernels", "--tokens", "500"], &["steps of up to 128 tokens"]);
    check_refused(
        shared(),
        &["inspect", "demo.rig", "--kernels", "--tokens", "2", "--position", "511"],
        &["up to 510"],
    );
    let json = rigc(shared(), &["inspect", "demo.rig", "--kernels", "--json"]).json();
    assert!(json["step"]["bytes"].as_u64() > Some(4_000_000) && json["step"]["tokens_per_second"].is_null(), "{json}");
}

/// Work is split over the multiprocessors of the card, which the artifact names.
#[test]
fn cards() {
    let dir = shared();
    // An output matrix with work for more multiprocessors than there are.
    std::fs::write(dir.join("tall.gguf"), Synthetic { vocab: 48_000, ..small() }.gguf()).unwrap();
    for (card, flags) in [("rtx5090", &[][..]), ("rtx5070ti", &["--card", "rtx5070ti"])] {
        let artifact = format!("{card}.rig");
        let o = rigc(dir, &[&["compile", "tall.gguf", "--target", "sm_120", "-o", &artifact], flags].concat());
        assert_eq!(o.code, Some(0), "{}", o.err);
        assert!(o.err.contains(&format!("sm_120 ({card})")), "{}", o.err);
        assert_eq!(rigc(dir, &["inspect", &artifact, "--json"]).json()["artifact"]["card"], card);
        let manifest = std::fs::read_to_string(dir.join(&artifact).join("manifest.ron")).unwrap();
        // The products of one token; how attention is split has nothing to do with the card.
        let products = manifest.split("name: \"linear_1_").skip(1);
        let grid = |kernel: &str| {
            let (_, rest) = kernel.split_once("ctas: ").unwrap();
            rest.split(',').next().unwrap().parse::<u32>().unwrap()
        };
        let target = ir::target::Target::by_name("sm_120").and_then(|t| t.with_card(card)).unwrap();
        assert_eq!(products.map(grid).max(), target.gpu().map(|gpu| gpu.card.sms), "{card}");
    }
    // A card alone stands for its target.
    let o = rigc(dir, &["compile", "m.gguf", "--card", "rtx4090", "-o", "card.rig"]);
    assert!(o.code == Some(0) && o.err.contains("sm_89 (rtx4090)"), "{}", o.err);
    // Cards that differ only in bandwidth and memory have the same kernels.
    let module = |card: &str| {
        let artifact = format!("{card}.rig");
        rigc(dir, &["compile", "m.gguf", "--target", "sm_80", "--card", card, "-o", &artifact]);
        std::fs::read(dir.join(artifact).join("gpu.ptx")).unwrap()
    };
    assert!(module("a100") == module("a100-80gb"));
    check_refused(dir, &["run", "rtx5070ti.rig", "x", "--card", "rtx5090"], &["--card rtx5070ti", "rtx5090"]);
}
