//! Every kernel of an artifact, on a device, against the meaning that the manifest keeps of it.

use super::{Buffer, Case, Draw, Subject, Trial, launch, launches};
use crate::device::{Held, Shared};
use crate::{Error, Result, device};
use ir::artifact::{Artifact, KernelEntry, Manifest};
use ir::plan::{Place, Step};
use ir::spec;

/// Most products of a trial, for the interpreter's sake: kernels of more are checked with fewer tokens, but one.
const MOST_PRODUCTS: u64 = 1 << 31;

/// What was found of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Its name.
    pub kernel: String,
    /// How often it was compared.
    pub trials: usize,
    /// The largest difference of an output, as a share of what is tolerated.
    pub error: f32,
    /// What is wrong with it.
    pub wrong: Option<String>,
}

/// Checks every kernel of an artifact for one device, each in up to `most` trials; operands are those of `seed`. `tell` hears of each and says whether to
/// go on. After a kernel that the device fails at, no other is checked.
///
/// # Errors
/// [`Error::Ir`] for a damaged manifest, [`Error::Device`] if the device does not load the code.
pub fn check(
    artifact: &Artifact,
    device: &Shared,
    seed: u64,
    most: usize,
    tell: &mut dyn FnMut(&Verdict) -> bool,
) -> Result<()> {
    let manifest = artifact.manifest.clone().verify()?;
    let [code] = &artifact.modules[..] else {
        return Err(Error::device(format!(
            "the artifact is for {} devices; this version checks kernels of one",
            manifest.devices.len()
        )));
    };
    let mut held = Held::new(device.clone());
    held.unsettled = false;
    let loaded = held.load(code, &manifest.kernels.iter().collect::<Vec<_>>())?;
    for (number, (entry, kernel)) in manifest.kernels.iter().zip(loaded).enumerate() {
        let mut verdict = Verdict { kernel: entry.name.clone(), trials: 0, error: 0.0, wrong: None };
        let lost = check_kernel(&manifest, number as u32, device, kernel, (seed, most), &mut verdict);
        let (wrong, failed) = match lost {
            Ok(()) => (None, false),
            Err(Wrong::Kernel(what)) => (Some(what), false),
            Err(Wrong::Device(e)) => (Some(e.to_string()), true),
        };
        verdict.wrong = wrong;
        if !tell(&verdict) || failed {
            break;
        }
    }
    Ok(())
}

/// What is wrong.
enum Wrong {
    Kernel(String),
    Device(Error),
}

impl From<String> for Wrong {
    fn from(what: String) -> Wrong {
        Wrong::Kernel(what)
    }
}

/// Checks kernel `number` in up to so many trials of a seed.
fn check_kernel(
    manifest: &Manifest,
    number: u32,
    device: &Shared,
    kernel: device::Kernel,
    (seed, most): (u64, usize),
    verdict: &mut Verdict,
) -> Result<(), Wrong> {
    let entry = &manifest.kernels[number as usize];
    if spec::hash(&entry.text) != entry.hash {
        return Err(Wrong::Kernel("the manifest's text of it is not the one that it was compiled from".into()));
    }
    let spec = spec::parse(&entry.text).map_err(|e| e.to_string())?;
    let buffers = buffers(manifest, number, entry);
    let subject = Subject { name: &entry.name, body: &spec.body, buffers: &buffers };
    let first = u64::from_str_radix(entry.hash.get(..16).unwrap_or_default(), 16).unwrap_or_default();
    let tokens = (MOST_PRODUCTS / entry.work.products.max(1)).max(1);
    let capacity = spec.tokens.min(usize::try_from(tokens).unwrap_or(usize::MAX));
    let trials = Trial::list(capacity, manifest.context as usize, first ^ seed);
    for trial in trials.take(most) {
        let case = Case::new(subject, trial)?;
        let times = launches(entry.grid.is_some());
        let after = launch(device, kernel, times, &buffers, &case.before, trial.control()).map_err(Wrong::Device)?;
        for (i, d) in case.compare(&after)?.into_iter().enumerate() {
            if d.error > d.bound {
                let what = format!("output {i} is off by {}, of which {} is tolerated; {trial:?}", d.error, d.bound);
                return Err(Wrong::Kernel(what));
            }
            verdict.error = verdict.error.max(if d.error > 0.0 { d.error / d.bound } else { 0.0 });
        }
        verdict.trials += 1;
    }
    Ok(())
}

/// The buffers that a kernel takes; those that have to be zero are where plans say so.
fn buffers(manifest: &Manifest, number: u32, entry: &KernelEntry) -> Vec<Buffer> {
    let zeroed = |i: usize| {
        manifest.entries.iter().any(|e| {
            e.plan.steps.iter().filter_map(Step::launch).any(|(kernel, buffers)| {
                let buffer = buffers.get(i).and_then(|&b| e.plan.buffers.get(b as usize));
                kernel == number && buffer.is_some_and(|b| matches!(b.place, Place::Zeroed { .. }))
            })
        })
    };
    entry.params.iter().enumerate().map(|(i, p)| Buffer { bytes: p.bytes, zeroed: zeroed(i) }).collect()
}

impl Trial {
    /// The trials of a kernel of steps of up to `capacity` tokens: in full and in part, at the start of the context and at
    /// its end, with operands of every kind.
    pub fn list(capacity: usize, context: usize, seed: u64) -> impl Iterator<Item = Trial> {
        let steps = [(capacity, [Draw::Usual, Draw::Edges]), (capacity.div_ceil(2), [Draw::NotFinite, Draw::Usual])];
        let trials = steps.into_iter().flat_map(move |(tokens, draws)| {
            [0, context.saturating_sub(tokens)]
                .into_iter()
                .zip(draws)
                .map(move |(position, draw)| (tokens, position, draw))
        });
        trials.zip(1..).map(move |((tokens, position, draw), n)| Trial {
            position,
            tokens,
            seed: seed.wrapping_add(n),
            draw,
        })
    }
}
