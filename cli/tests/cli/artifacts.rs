//! `rigc compile` and `rigc inspect`: artifacts on disk and printed stages.

use crate::harness::{check_refused, names, rigc, shared, small};

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
