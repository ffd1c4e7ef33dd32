//! `rigc perplexity` against llama-perplexity, and what it refuses.

mod common;

use common::{demo, json, refused, rigc, succeeds};

/// llama-perplexity's figures for heldout.txt in chunks of 256: the table of the models' README.
const EXPECTED: &[(&str, f64, f64)] = &[
    ("bard-f16", 140.0376, 7.39686),
    ("bard-q8_0", 140.1829, 7.40755),
    ("bard-q4_k_m", 140.3896, 7.41732),
    ("bard-q4_0", 139.9810, 7.37384),
    ("bard-iq4_xs", 139.3799, 7.35146),
    ("bard-q3_k_m", 139.7375, 7.40148),
    ("bard-draft-q8_0", 117.1821, 5.33916),
    ("bardq3-q4_k_m", 137.5380, 5.82780),
];

#[test]
fn agrees_with_llama_perplexity() {
    let Some(dir) = tests::shared_dir("models") else { return };
    for &(model, perplexity, error) in EXPECTED {
        let model = dir.join(format!("{model}.gguf"));
        let report = json(rigc(["perplexity", "--json"]).args([&model, &dir.join("heldout.txt")]));
        assert_eq!((&report["chunks"], &report["scored"]), (&23.into(), &2921.into()), "{}", model.display());
        let near = |field: &str, expected: f64| {
            let got = report[field].as_f64().unwrap();
            assert!((got / expected - 1.0).abs() < 2e-3, "{}: {field} {got}, expected {expected}", model.display());
        };
        near("perplexity", perplexity);
        near("standard_error", error);
    }
}

#[test]
fn any_chunk_size() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "Now is the winter of our discontent made glorious summer.\n".repeat(8)).unwrap();
    let at = |ctx: &str| {
        let line = succeeds(rigc(["perplexity", "--threads", "1", "--ctx", ctx]).args([&demo(), &text]));
        assert!(line.starts_with("perplexity ") && line.ends_with(&format!("chunks of {ctx})\n")), "{line}");
    };
    // Odd chunks, chunks below the largest step, steps of one.
    ["4", "9", "33", "64"].into_iter().for_each(at);
}

#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "Short.").unwrap();
    let run = |more: &[&str]| refused(rigc(["perplexity"]).args([&demo(), &text]).args(more));
    assert!(run(&[]).contains("tokens, but two chunks need 512"));
    assert!(run(&["--ctx", "100000"]).contains("context"));
    std::fs::write(&text, b"\xff\xfe").unwrap();
    assert!(run(&[]).contains("is not UTF-8"));
    std::fs::remove_file(&text).unwrap();
    assert!(run(&[]).contains("text.txt"));
}
