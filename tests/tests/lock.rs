//! `kernels.lock`: the hash of every kernel of the model zoo for every target, so that a refactoring shows that it moved
//! none, and a change of schedules which.
//!
//! `RIGC_UPDATE_LOCK=1 cargo test -p rigc-tests --test lock` writes it again. A line is: start of the hash of what the kernel
//! computes and how, the targets that have it so, op, capacity, start of the hash of its code. GPUs have the card of
//! [`tests::card`].

use codegen::back;
use ir::quant;
use ir::spec::hex;
use ir::target::{self, Target};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use tests::card::on_test_card;
use tests::kernels;
use tests::synthetic::zoo_for;

/// Capacities: decode, verification, prefill.
const TOKENS: [usize; 3] = [1, 4, 40];

/// By the hash of spec and schedule, and of the code: op and capacity, and the targets.
type Kernels = BTreeMap<(String, String), (String, Vec<&'static str>)>;

/// By the hash of spec and schedule and the targets, what follows on the line.
type Lines = BTreeMap<String, String>;

fn start_of_hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..8])
}

/// The kernels of all models for a target.
fn collect(target: &Target, kernels: &mut Kernels) {
    let (backend, target) = (back::for_target(target).unwrap(), &on_test_card(target));
    let mut seen = HashSet::new();
    for (name, shape) in zoo_for(target) {
        for k in &kernels::table(&shape.model(), target, &TOKENS, quant::F16).kernels {
            if !seen.insert(k.hash.clone()) {
                continue;
            }
            let code = backend.emit(&k.kernel, target, false).unwrap_or_else(|e| panic!("{name}: {e}")).code;
            let what = format!("{} {}", k.spec.kind, k.spec.tokens);
            // Without the target, so that those that have the same code share a line.
            let key = start_of_hash(format!("{what}\n{}{}", k.spec.body, k.schedule).as_bytes());
            let targets = &mut kernels.entry((key, start_of_hash(&code))).or_insert_with(|| (what, Vec::new())).1;
            targets.push(target.name);
        }
    }
}

fn lines(kernels: Kernels) -> Lines {
    let line = |((key, code), (what, targets)): ((String, String), (String, Vec<&str>))| {
        (format!("{key} {}", targets.join(",")), format!("{what} {code}"))
    };
    kernels.into_iter().map(line).collect()
}

#[test]
fn kernels_are_those_of_the_lock_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels.lock");
    let mut found = Kernels::new();
    for target in target::ALL {
        collect(target, &mut found);
    }
    let found = lines(found);
    if std::env::var_os("RIGC_UPDATE_LOCK").is_some() {
        // By target and op, so that differences stand together.
        let mut lines: Vec<String> = found.iter().map(|(key, rest)| format!("{key} {rest}\n")).collect();
        lines.sort_by(|a, b| a[17..].cmp(&b[17..]).then(a.cmp(b)));
        std::fs::write(&path, lines.concat()).unwrap();
        return;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let line = |l: &str| l.match_indices(' ').nth(1).map(|(at, _)| (l[..at].to_owned(), l[at + 1..].to_owned()));
    let mut locked: Lines = text.lines().filter_map(line).collect();
    let mut moved = Vec::new();
    for (key, line) in &found {
        match locked.remove(key) {
            Some(old) if old == *line => {}
            Some(old) => moved.push(format!("other code  {key} {line} (was {old})")),
            None => moved.push(format!("new         {key} {line}")),
        }
    }
    moved.extend(locked.iter().map(|(key, line)| format!("gone        {key} {line}")));
    assert!(
        moved.is_empty(),
        "{} kernels differ from {}; if that is meant, run this test with RIGC_UPDATE_LOCK=1:\n{}",
        moved.len(),
        path.display(),
        moved.join("\n")
    );
}
