//! The structure of the source: which crate may use which, where unsafe code and names may stand, lists that agree with
//! folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every Rust file under `dir`, as paths from the root with their text.
fn sources(dir: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(dir)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let place = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((place, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The crates whose code ships.
const SHIPPED: &[&str] = &["ir", "kernels-gen", "codegen", "microkernels", "runtime", "emu", "emu/driver", "cli"];

/// The lines of shipped code that are neither comments nor tests, with their places.
fn code() -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for (place, text) in SHIPPED.iter().flat_map(|c| sources(&format!("{c}/src"))) {
        if place.ends_with("/tests.rs") || place.contains("/tests/") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        lines.extend(code.lines().filter(is_code).map(|line| (place.clone(), line.to_owned())));
    }
    lines
}

/// The string literals of a line, roughly.
fn literals(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

/// The words of a text: letters, digits and underscores.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// Names in a list `name! { a, b, c }`.
fn listed(path: &str, name: &str) -> BTreeSet<String> {
    let text = read(path);
    let (_, list) = text.rsplit_once(&format!("\n{name}! {{")).unwrap_or_else(|| panic!("{path} has no list {name}!"));
    let (list, _) = list.split_once('}').unwrap();
    let first = |entry: &str| entry.split_whitespace().next().map(str::to_owned);
    list.split(',').filter_map(first).collect()
}

/// Names in a folder, without endings, but for those in `others`.
fn in_folder(path: &str, others: &[&str]) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let stems =
        entries.map(|e| e.unwrap().path().with_extension("").file_name().unwrap().to_string_lossy().into_owned());
    // Target names have no dots of their own.
    stems.filter(|n| !others.contains(&n.as_str())).collect()
}

/// A crate, the crates of this workspace that it may use, and the others (`None`: any).
type Edges<'a> = (&'a str, &'a [&'a str], Option<&'a [&'a str]>);

#[test]
fn crates_depend_only_on_what_they_may() {
    let table: &[Edges] = &[
        ("ir", &[], Some(&["half", "serde", "sha2", "thiserror"])),
        ("kernels-gen", &["ir"], Some(&["ron", "serde"])),
        ("codegen", &["ir", "kernels-gen"], None),
        ("microkernels", &["ir"], Some(&["half"])),
        ("runtime", &["ir", "microkernels", "emu"], None),
        ("emu", &[], Some(&["serde", "serde_json", "thiserror"])),
        ("emu/driver", &["emu"], Some(&["cudarc", "libc", "serde_json", "sha2", "thiserror"])),
        ("cli", &["ir", "codegen", "microkernels", "runtime", "emu"], None),
    ];
    let internal = ["ir", "kernels-gen", "codegen", "microkernels", "runtime", "emu", "cli", "tests", "benches"];
    for (name, own, foreign) in table {
        let path = format!("{name}/Cargo.toml");
        if !root().join(&path).exists() {
            continue;
        }
        let text = read(&path);
        let (_, rest) = text.split_once("\n[dependencies]\n").unwrap();
        let section = rest.split("\n[").next().unwrap();
        for line in section.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
            let dependency = line.split(['.', ' ', '=']).next().unwrap();
            if internal.contains(&dependency) {
                assert!(own.contains(&dependency), "{name} may not depend on {dependency}");
            } else if let Some(foreign) = foreign {
                assert!(foreign.contains(&dependency), "{name} may not depend on {dependency}");
            }
            assert!(dependency != "anyhow" || *name == "cli", "{name} may not depend on anyhow");
        }
        // Not in tests either: the artifact is all that passes between them.
        let shared = |l: &&str| l.starts_with("codegen") || l.starts_with("kernels-gen");
        assert!(*name != "runtime" || text.lines().filter(shared).count() == 0, "runtime may not see the compiler");
    }
}

/// The modules at the top of a crate that its code names after `crate::`, for each of them.
fn module_edges(krate: &str) -> BTreeMap<String, BTreeSet<String>> {
    let source = format!("{krate}/src/");
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (place, line) in code() {
        let Some(path) = place.strip_prefix(&source) else { continue };
        let module = path.split(['/', '.']).next().unwrap();
        let text = texts.entry(module.to_owned()).or_default();
        text.push_str(&line);
        text.push('\n');
    }
    let of = |module: &String, text: &String| {
        let named = text.split("crate::").skip(1).flat_map(|path| match path.strip_prefix('{') {
            Some(list) => words(list.split(';').next().unwrap()).collect::<Vec<_>>(),
            None => words(path).take(1).collect(),
        });
        let others = named.filter(|n| *n != module && texts.contains_key(*n));
        (module.clone(), others.map(str::to_owned).collect())
    };
    texts.iter().map(|(module, text)| of(module, text)).collect()
}

#[test]
fn modules_use_each_other_in_no_circle() {
    for krate in SHIPPED {
        let mut edges = module_edges(krate);
        assert!(edges.len() > 1, "{krate} has no modules");
        // Modules that use none that is left are in no circle.
        loop {
            let left: BTreeSet<String> = edges.keys().cloned().collect();
            edges.retain(|_, used| !used.is_disjoint(&left));
            if edges.len() == left.len() {
                break;
            }
        }
        assert!(edges.is_empty(), "modules of {krate} use each other in a circle, or need one: {edges:?}");
    }
}

#[test]
fn unsafe_code_stands_where_it_may() {
    for (path, unsafe_free) in [
        ("ir/src/lib.rs", true),
        ("kernels-gen/src/lib.rs", true),
        ("codegen/src/lib.rs", true),
        ("emu/src/lib.rs", true),
        ("emu/driver/src/lib.rs", false),
        ("cli/src/main.rs", true),
        ("tests/src/lib.rs", true),
        ("microkernels/src/lib.rs", false),
        ("runtime/src/lib.rs", false),
    ] {
        let text = read(path);
        assert!(!unsafe_free || text.contains("\n#![forbid(unsafe_code)]"), "{path} does not forbid unsafe code");
        let library = path.ends_with("lib.rs") && !path.starts_with("tests");
        assert!(!library || text.contains("\n#![deny(missing_docs)]"), "{path} does not ask for docs");
    }
    // `emu/driver` is a library for C: in these files it follows pointers of the program, calls functions of it by their
    // addresses, exports functions under fixed names, and ends the process.
    let driver = ["abi", "api/occupancy", "api/stream", "call", "finding", "memory", "state", "submit"];
    let driver = driver.map(|file| format!("emu/driver/src/{file}.rs"));
    for (place, line) in code() {
        let may = ["runtime/src/sys/", "runtime/src/device/", "microkernels/"].iter().any(|p| place.starts_with(p));
        let may = may || driver.contains(&place);
        // A type of pointers to unsafe functions is no unsafe code.
        let types = ["unsafe extern \"C\" fn(", "unsafe extern \"C-unwind\" fn(", "unsafe fn("];
        let is_type = types.iter().any(|ty| line.contains(ty));
        assert!(may || is_type || words(&line).all(|w| w != "unsafe"), "{place} has unsafe code: {line}");
    }
}

#[test]
fn lists_and_folders_agree() {
    let names = |list: &[&str]| list.iter().map(|n| n.to_string()).collect::<BTreeSet<_>>();
    let formats: Vec<&str> = ir::quant::ALL.iter().map(|f| f.name).collect();
    let targets: Vec<&str> = ir::target::ALL.iter().map(|t| t.name).collect();
    let ops: Vec<&str> = kernels_gen::ops::ALL.iter().map(|op| op.name).collect();
    let backends: Vec<&str> = codegen::back::ALL.iter().map(|b| b.name()).collect();
    let folder = |path, others| in_folder(path, others);
    for (what, list, folder) in [
        ("formats", names(&formats), folder("ir/src/quant", &["mod", "ggml", "grid", "unpack"])),
        (
            "architectures",
            listed("ir/src/front/models/mod.rs", "architectures"),
            folder("ir/src/front/models", &["mod"]),
        ),
        ("fused ops", names(&ops), folder("kernels-gen/src/ops", &["mod"])),
        ("backends", names(&backends), folder("codegen/src/back", &["mod"])),
        ("schedules", names(&targets), folder("kernels-gen/schedules", &[])),
        ("emitting targets", names(&targets), targets_with_backend()),
    ] {
        assert_eq!(list, folder, "{what}: the list and the folder differ");
    }
    assert_eq!(names(&ops), listed("kernels-gen/src/ops/mod.rs", "ops"));
}

fn targets_with_backend() -> BTreeSet<String> {
    let covered = ir::target::ALL.iter().filter(|t| codegen::back::for_target(t).is_ok());
    covered.map(|t| t.name.to_owned()).collect()
}

/// Where the names of tokenizers stand.
const TOKENIZERS: &[&str] = &["runtime/src/tokenizer/pre.rs", "runtime/src/tokenizer/vocab.rs"];

#[test]
fn formats_ops_and_architectures_are_named_in_their_own_files() {
    // Types of Rust have these names too.
    let formats: Vec<String> = ir::quant::ALL
        .iter()
        .map(|f| f.name.to_lowercase())
        .filter(|n| !["f32", "f16", "bf16"].contains(&n.as_str()))
        .collect();
    let architectures = listed("ir/src/front/models/mod.rs", "architectures");
    let ops: Vec<&str> = kernels_gen::ops::ALL.iter().map(|op| op.name).collect();
    // Primitives have these names too, and figures of schedules and metadata some.
    let primitives = [
        "embed",
        "rope_angles",
        "position_scale",
        "attention",
        "short_conv",
        "delta_rule",
        "route",
        "expert_sum",
        "top_k",
        "repack",
    ];
    for (place, line) in code() {
        let within = |folder: &str| place.starts_with(folder);
        for word in words(&line).map(str::to_lowercase).filter(|w| formats.contains(w)) {
            let own = within("ir/src/quant/") || place == "ir/src/kv.rs";
            assert!(own, "{place} names the format {word}: {line}");
        }
        for literal in literals(&line) {
            // Words of their own in scalings of rotary angles, in the text of graphs and in schedules.
            let word = match literal {
                "linear" => ["ir/src/front/parts/rope.rs", "kernels-gen/src/schedule.rs"].contains(&&*place),
                "rows" => ["ir/src/graph/text.rs", "kernels-gen/src/schedule.rs"].contains(&&*place),
                _ => false,
            };
            let op = !word && ops.contains(&literal) && (within("kernels-gen/") || !primitives.contains(&literal));
            assert!(!op || within("kernels-gen/src/ops/"), "{place} names the fused op {literal}: {line}");
            // Programs (llama.cpp, llama-perplexity) are named after models, and so are tokenizers.
            let mut names = literal.split(|c: char| !(c.is_alphanumeric() || "_-.".contains(c)));
            let architecture = names.any(|n| architectures.contains(n));
            let own = within("ir/src/front/models/") || TOKENIZERS.contains(&place.as_str());
            assert!(!architecture || own, "{place} names an architecture: {line}");
        }
    }
}

#[test]
fn only_the_command_line_prints_and_reads_the_environment() {
    for (place, line) in code().iter().filter(|(place, _)| !place.starts_with("cli/")) {
        for forbidden in ["print!(", "println!(", "eprint!(", "eprintln!(", "env::var", "is_x86_feature_detected!"] {
            // The run side looks at the CPU before it runs code on it.
            let may = forbidden.starts_with("is_x86") && place.starts_with("microkernels/");
            // A library that takes the place of another has no other way to be told or to tell something.
            let may = may || forbidden == "env::var" && place == "emu/driver/src/state.rs";
            let may = may || line.contains("eprint") && place == "emu/driver/src/finding.rs";
            assert!(may || !line.contains(forbidden), "{place} has {forbidden}: {line}");
        }
    }
}

#[test]
fn files_are_of_readable_length_and_finished() {
    // Spelt so that this file does not find itself.
    let unfinished = ["ignore", "ignore ="].map(|s| format!("#[{s}")).into_iter();
    let unfinished: Vec<String> =
        unfinished.chain(["todo", "unimplemented", "dbg"].map(|s| format!("{s}!("))).collect();
    for (place, text) in SHIPPED.iter().chain(&["tests", "benches"]).flat_map(|c| sources(c)) {
        assert!(text.lines().count() <= 800, "{place} has {} lines", text.lines().count());
        for word in &unfinished {
            assert!(!text.contains(word.as_str()), "{place} contains {word}");
        }
    }
}
