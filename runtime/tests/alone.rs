//! Timing single kernels: what is replayed, on which buffers.
#![cfg(target_arch = "x86_64")]

mod fixture;

use fixture::watched::Watched;
use fixture::{VOCAB, next};
use ir::artifact::kernels_hash;
use ir::plan::{Buffer, Place, Step};
use runtime::device::{Command, Launch};
use runtime::{Executor, ModelFile};
use std::time::Duration;

/// The launches among commands, each as if it had to wait.
fn launches(commands: &[Command]) -> Vec<Launch> {
    let launches = commands.iter().filter_map(|c| match c {
        Command::Launch(launch) => Some(Launch { early: false, ..launch.clone() }),
        Command::Copy { .. } => None,
    });
    launches.collect()
}

/// The toy model as if it had three layers of two kernels: logits and largest logits lie elsewhere in each layer, and
/// the first weight takes the place of the second in the last one.
#[test]
fn launches_of_all_layers_share_the_activations_of_the_first() {
    let model = ModelFile::from_static("toy", fixture::gguf(0).leak()).unwrap();
    let mut artifact = fixture::artifact(model.identity(), 0);
    // Of one token, both kernels write one row.
    let kernels = &mut artifact.manifest.kernels;
    kernels[1].params = kernels[0].params.clone();
    artifact.manifest.modules[0].kernels = kernels_hash(&*kernels);
    let plan = &mut artifact.manifest.entries[0].plan;
    let buffers = plan.steps[0].launch().unwrap().1.to_vec();
    plan.steps.clear();
    for layer in 0..3 {
        let mut own = buffers.clone();
        for b in &mut own[4..] {
            let moved = |b: &Buffer| match b.place {
                Place::Arena { offset } => Place::Arena { offset: offset + layer * 4096 },
                _ => panic!("no activations"),
            };
            let old = plan.buffers[*b as usize].clone();
            *b = plan.buffers.len() as u32;
            plan.buffers.push(Buffer { place: moved(&old), ..old });
        }
        let mut other = own.clone();
        if layer == 2 {
            other.swap(2, 3);
        }
        plan.steps.push(Step::Launch { kernel: 0, buffers: own });
        plan.steps.push(Step::Launch { kernel: 1, buffers: other });
    }
    plan.needs[0].arena_bytes += 3 * 4096;
    let (device, seen) = Watched::shared(2);
    let mut e = Executor::on_devices(&[device], artifact, &model, &mut |_, _| ()).unwrap();
    e.step(&[5]).unwrap();
    let whole = launches(&seen.lock().unwrap().recorded[0].1);
    assert_eq!(whole.len(), 6);

    for kernel in 0..2 {
        for round in 0..2 {
            let seconds = e.time_kernel(0, kernel as u32, &[7], Duration::from_micros(200)).unwrap();
            let seen = &mut *seen.lock().unwrap();
            let (recorded, replayed) = (std::mem::take(&mut seen.recorded), std::mem::take(&mut seen.replayed));
            let recorded: Vec<_> = recorded.into_iter().map(|(r, commands)| (r, launches(&commands))).collect();
            if round == 0 {
                // All that was recorded when loading comes first, then what the length of a replay is found with.
                let [.., (first, a), (_, once), (alone, all)] = &recorded[..] else { panic!("{recorded:?}") };
                assert_eq!(a, &whole[..kernel]);
                for (layer, launch) in once.iter().enumerate() {
                    let own = &whole[2 * layer + kernel];
                    assert_eq!((launch.kernel, &launch.buffers[..4]), (own.kernel, &own.buffers[..4]));
                    assert_eq!(launch.buffers[4..], whole[kernel].buffers[4..], "activations of layer {layer}");
                }
                assert_eq!(once.len(), 3);
                assert!(all.len() >= 3 && all.chunks(3).all(|part| part == once));
                let at = replayed.iter().rposition(|r| r == first).unwrap();
                assert!(replayed.len() > at + 1 && replayed[at + 1..].iter().all(|r| r == alone));
            } else {
                assert!(recorded.is_empty(), "a kernel is recorded once");
            }
            assert!(seconds > 0.0 && seconds.is_finite());
            assert_eq!(e.position(), 1);
        }
    }
    assert!(e.logits().is_err(), "those of no step");
    for (kernel, tokens) in [(0, &[7, 7][..]), (0, &[]), (0, &[VOCAB as u32]), (2, &[7])] {
        assert!(e.time_kernel(0, kernel, tokens, Duration::ZERO).is_err());
    }
    assert!(e.time_kernel(3, 0, &[7], Duration::ZERO).is_err());
    assert!(e.time_kernel(1, 0, &[7], Duration::ZERO).is_err(), "a kernel of other entry points");
    e.set_position(0).unwrap();
    e.step(&[3, 4]).unwrap();
    let logits = e.logits().unwrap();
    assert_eq!(logits[next(&[3, 4]) as usize], 0.0);
}
