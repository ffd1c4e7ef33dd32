//! `rigc perplexity` against llama-perplexity, and what it refuses.

use crate::harness::{check_refused, rigc, shared};

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
        let report = rigc(&dir, &["perplexity", "--json", &format!("{model}.gguf"), "heldout.txt"]).json();
        assert_eq!((&report["chunks"], &report["scored"]), (&23.into(), &2921.into()), "{model}");
        let near = |field: &str, expected: f64| {
            let got = report[field].as_f64().unwrap();
            assert!((got / expected - 1.0).abs() < 2e-3, "{model}: {field} {got}, expected {expected}");
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
    let text = text.to_str().unwrap();
    // Odd chunks, chunks below the largest step, steps of one.
    for ctx in ["4", "9", "33", "64"] {
        let o = rigc(shared(), &["perplexity", "--threads", "1", "--ctx", ctx, "demo.gguf", text]);
        assert_eq!((o.code, o.err.as_str()), (Some(0), ""));
        let line = o.text();
        assert!(line.starts_with("perplexity ") && line.ends_with(&format!("chunks of {ctx})\n")), "{line}");
    }
    // An artifact's context need not be that of the chunks.
    let artifact = rigc(shared(), &["perplexity", "--json", "--ctx", "33", "demo.rig", text]).json();
    let model = rigc(shared(), &["perplexity", "--json", "--ctx", "33", "demo.gguf", text]).json();
    assert_eq!(artifact["perplexity"], model["perplexity"]);
}

#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    let text = path.to_str().unwrap();
    std::fs::write(&path, "Short.").unwrap();
    let refused = |ctx: &str, words: &[&str]| {
        check_refused(shared(), &["perplexity", "demo.gguf", text, "--ctx", ctx], words);
    };
    refused("256", &["text.txt", "tokens, but two chunks need 512"]);
    refused("100000", &["context", "100000"]);
    check_refused(shared(), &["perplexity", "demo.rig", text, "--ctx", "513"], &["holds 512 tokens", "--ctx 513"]);
    std::fs::write(&path, b"\xff\xfe").unwrap();
    refused("256", &["text.txt is not UTF-8"]);
    std::fs::remove_file(&path).unwrap();
    refused("256", &["text.txt"]);
}
