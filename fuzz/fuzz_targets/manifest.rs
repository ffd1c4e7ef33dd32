//! The manifest of an artifact, up to a model that is loaded with it. Nothing of it runs: kernels are trusted code.
#![no_main]

use ir::artifact::{Artifact, Manifest};
use libfuzzer_sys::fuzz_target;
use runtime::{ModelFile, artifact};
use std::sync::LazyLock;
use tests::run;

static TOY: LazyLock<(ModelFile, Artifact)> = LazyLock::new(rigc_fuzz::toy);

/// Manifests that want more memory than this are not loaded: how much there is, is the machine's matter.
const MEMORY: u64 = 64 << 20;

/// Bytes that loading takes besides the weights.
fn needs(m: &Manifest) -> u64 {
    let states = m.states.iter().map(|s| s.bytes);
    let arenas = m.entries.iter().flat_map(|e| &e.plan.needs).map(|n| n.arena_bytes);
    let scratch = m.kernels.iter().map(|k| k.scratch_bytes);
    states.chain(arenas).chain(scratch).fold(0, u64::saturating_add)
}

fuzz_target!(|text: &[u8]| {
    let check = |what: &str| assert!(what.len() < 1000 && !what.contains('\n'), "{what}");
    if let Err(what) = artifact::parse(text) {
        check(&what);
    }
    let Ok(text) = str::from_utf8(text) else { return };
    let (file, good) = &*TOY;
    match artifact::parse(artifact::sealed(text).as_bytes()) {
        Err(what) => check(&what),
        Ok(manifest) if needs(&manifest) < MEMORY => {
            let artifact = Artifact { manifest, modules: good.modules.clone() };
            if let Err(e) = run::load(file, artifact, 1) {
                check(&e.to_string());
            }
        }
        Ok(_) => {}
    }
});
