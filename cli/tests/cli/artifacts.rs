//! `rigc compile` and `rigc inspect`: artifacts on disk and printed stages.

use crate::harness::{check_refused, names, rigc, shared, small};
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
    let o = rigc(dir, &["inspect", "m.gguf", "--json"]).json();
    assert_eq!((&o["config"]["layers"], &o["shards"]), (&1.into(), &1.into()));
    assert!(o["tensors"].as_array().is_some_and(|t| !t.is_empty()));
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
        let grids =
            manifest.split("ctas: ").skip(1).map(|rest| rest.split(',').next().unwrap().parse::<u32>().unwrap());
        let target = ir::target::Target::by_name("sm_120").and_then(|t| t.with_card(card)).unwrap();
        assert_eq!(grids.max(), target.gpu().map(|gpu| gpu.card.sms), "{card}");
    }
    check_refused(dir, &["run", "rtx5070ti.rig", "x", "--card", "rtx5090"], &["--card rtx5070ti", "rtx5090"]);
}
