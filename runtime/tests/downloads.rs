//! What comes from the device to the host: only what is asked for, and once for each step.
#![cfg(target_arch = "x86_64")]

mod fixture;

use fixture::watched::Watched;
use fixture::{TOP, VOCAB};
use runtime::{Executor, ModelFile};

#[test]
fn a_step_brings_only_what_is_asked_for() {
    let model = ModelFile::from_static("toy", fixture::gguf(0).leak()).unwrap();
    let (device, seen) = Watched::shared(2);
    let artifact = fixture::artifact(model.identity(), 0);
    let mut e = Executor::on_devices(&[device], artifact, &model, &mut |_, _| ()).unwrap();
    let came = || std::mem::take(&mut seen.lock().unwrap().downloaded);
    came();
    for token in 0..3 {
        e.step(&[token]).unwrap();
        assert_eq!(came(), 0);
        e.top(1).unwrap().unwrap();
        assert!(e.top(TOP + 1).unwrap().is_none());
        assert_eq!(came(), 0);
        for expected in [VOCAB as u64 * 4, 0] {
            e.logits().unwrap();
            assert_eq!(came(), expected);
        }
    }
}
