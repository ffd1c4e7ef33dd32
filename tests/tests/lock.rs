//! `kernels.lock`: the hash of every kernel of the model zoo for every target, so that a refactoring shows that it moved
//! none, and a change of schedules which.
//!
//! `RIGC_UPDATE_LOCK=1 cargo test -p rigc-tests --test lock` writes it again. A line is: start of the hash of the kernel's
//! spec and schedule, target, op, capacity, start of the hash of its machine code.

use codegen::back;
use ir::quant;
use ir::spec::hex;
use ir::target::{self, Target};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use tests::kernels;
use tests::synthetic::zoo;

/// Capacities: decode, verification, prefill.
const TOKENS: [usize; 3] = [1, 4, 40];

/// By spec and schedule, what follows on the line.
type Lines = BTreeMap<String, String>;

/// The kernels of all models for a target.
fn collect(target: &Target, lines: &mut Lines) {
    let backend = back::for_target(target).unwrap();
    for (name, shape) in zoo() {
        for k in &kernels::table(&shape.model(), target, &TOKENS, quant::F16).kernels {
            lines.entry(k.hash[..16].to_owned()).or_insert_with(|| {
                let code = backend.emit(&k.kernel, target, false).unwrap_or_else(|e| panic!("{name}: {e}")).code;
                format!("{} {} {} {}", target.name, k.spec.kind, k.spec.tokens, &hex(&Sha256::digest(&code))[..16])
            });
        }
    }
}

#[test]
fn kernels_are_those_of_the_lock_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels.lock");
    let mut found = Lines::new();
    for target in target::ALL {
        collect(target, &mut found);
    }
    if std::env::var_os("RIGC_UPDATE_LOCK").is_some() {
        // By target and op, so that differences stand together.
        let mut lines: Vec<String> = found.iter().map(|(hash, rest)| format!("{hash} {rest}\n")).collect();
        lines.sort_by(|a, b| a[17..].cmp(&b[17..]).then(a.cmp(b)));
        std::fs::write(&path, lines.concat()).unwrap();
        return;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut locked: Lines =
        text.lines().filter_map(|l| l.split_once(' ')).map(|(hash, rest)| (hash.into(), rest.into())).collect();
    let mut moved = Vec::new();
    for (hash, line) in &found {
        match locked.remove(hash) {
            Some(old) if old == *line => {}
            Some(old) => moved.push(format!("other code  {hash} {line} (was {old})")),
            None => moved.push(format!("new         {hash} {line}")),
        }
    }
    moved.extend(locked.iter().map(|(hash, line)| format!("gone        {hash} {line}")));
    assert!(
        moved.is_empty(),
        "{} kernels differ from {}; if that is meant, run this test with RIGC_UPDATE_LOCK=1:\n{}",
        moved.len(),
        path.display(),
        moved.join("\n")
    );
}
