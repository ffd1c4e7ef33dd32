//! `rigc doctor`: what this machine is, and what is wrong with it, a line each.

use crate::device::{DeviceArgs, of_card};
use crate::failure::{INTERRUPTED, usage};
use crate::interrupt::Interrupt;
use crate::sampling::random_seed;
use crate::{machine, model, output, progress};
use anyhow::{Context, Result};
use runtime::device::{self, Card, Options};
use runtime::measure::{FileRate, Machine};
use runtime::sys::{memory, thread};
use runtime::{artifact, conform};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// Tell what this machine can run, and what is wrong with it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 if a line is an error.\n\nFILE: up to 2 GiB of it, from all over it, are read as weights are, \
for up to 4 s; what is in the page cache says nothing of the disk and is left out.\n\n--verify: each kernel of the artifact \
runs on the device, for steps of all its tokens and of half of them, at the start of the context and at its end, with random \
operands, with the largest codes and scales of zero, and with numbers that are not finite; what it computes is compared with \
the interpreter's result of its meaning, which the artifact keeps. Its model file is not needed. The seed repeats a run."
)]
pub struct Args {
    /// File, such as a model, whose disk is measured
    file: Option<PathBuf>,
    /// Run every kernel of this artifact on the device instead, and compare it with what it is to compute
    #[arg(long, value_name = "NAME.rig", conflicts_with = "file")]
    verify: Option<PathBuf>,
    /// With --verify, seed of the operands [default: random]
    #[arg(long, value_name = "N", requires = "verify")]
    seed: Option<u64>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Error,
}

/// A line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    about: String,
    status: Status,
    /// What was found.
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// The figures in it, by name.
    #[serde(flatten)]
    figures: serde_json::Map<String, serde_json::Value>,
}

impl Finding {
    fn ok(about: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding {
            about: about.into(),
            status: Status::Ok,
            found: found.into(),
            advice: None,
            figures: Default::default(),
        }
    }

    fn bad(self, status: Status, advice: impl Into<String>) -> Finding {
        Finding { status, advice: Some(advice.into()), ..self }
    }

    fn with(mut self, name: &str, figure: impl Into<serde_json::Value>) -> Finding {
        self.figures.insert(name.into(), figure.into());
        self
    }
}

/// The PTX ISA that a driver takes, by the CUDA version that it implements (both times 10, newest first).
const PTX: &[(i32, u32)] = &[
    (135, 95),
    (134, 94),
    (133, 93),
    (132, 92),
    (131, 91),
    (130, 90),
    (129, 88),
    (128, 87),
    (127, 86),
    (125, 85),
    (124, 84),
    (123, 83),
    (122, 82),
    (121, 81),
    (120, 80),
];

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let findings = match &args.verify {
        Some(path) => match verify(path, &args)? {
            Some(findings) => findings,
            None => return Ok(ExitCode::from(INTERRUPTED)),
        },
        None => {
            let mut findings = cards();
            findings.extend(cpu()?);
            findings.extend(args.file.as_deref().map(disk).transpose()?);
            findings
        }
    };
    if args.json {
        let report = serde_json::json!({ "findings": &findings });
        output::print(&(serde_json::to_string(&report).context("the report")? + "\n"))?;
    } else {
        let width = findings.iter().map(|f| f.about.len()).max().unwrap_or(0).max(10);
        for Finding { about, status, found, advice, .. } in &findings {
            let status = match status {
                Status::Ok => "ok",
                Status::Warning => "warning",
                Status::Error => "error",
            };
            let advice = advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
            output::print(&format!("{status:<8} {about:<width$} {found}{advice}\n"))?;
        }
    }
    let failed = findings.iter().any(|f| f.status == Status::Error);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Driver and cards. That there is none is no error: models run on the CPU.
fn cards() -> Vec<Finding> {
    let first = match Card::first() {
        Ok(Some(card)) => card,
        Ok(None) => return vec![Finding::ok("cards", "none; models run on the CPU")],
        Err(e) => {
            let found = Finding::ok("driver", e.to_string());
            return vec![found.bad(Status::Error, "until then models run on the CPU")];
        }
    };
    let version = first.driver / 1000 * 10 + first.driver % 1000 / 10;
    let ptx = PTX.iter().find(|(cuda, _)| *cuda <= version).map_or(0, |(_, ptx)| *ptx);
    let found = format!("CUDA {}.{}, takes PTX up to {}.{}", version / 10, version % 10, ptx / 10, ptx % 10);
    let mut findings = vec![Finding::ok("driver", found).with("cuda", first.driver).with("ptx", f64::from(ptx) / 10.0)];
    if !first.has_assembler() {
        let found = Finding::ok("assembler", "libnvidia-ptxjitcompiler.so.1 is missing");
        findings.push(found.bad(Status::Error, "install it; it comes with the driver, but not into every container"));
    }
    let mut ordinal = 0;
    while let Ok(card) = Card::find(ordinal) {
        findings.extend(card_lines(&card, ptx));
        ordinal += 1;
    }
    findings
}

/// What is found of a card.
fn card_lines(card: &Card, ptx: u32) -> Vec<Finding> {
    let about = format!("cuda:{}", card.ordinal);
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let (major, minor) = (card.sm / 10, card.sm % 10);
    let found = format!("{}, compute capability {major}.{minor}, {} multiprocessors", card.name, card.sms);
    let line = Finding::ok(&about, found).with("name", &*card.name).with("sm", card.sm).with("sms", card.sms);
    let target = of_card(card);
    let mut lines = vec![match target.as_ref().and_then(|target| target.gpu()) {
        None => line.bad(Status::Warning, "rigc has no code for it: models run on the CPU"),
        Some(gpu) if gpu.ptx.0 * 10 + gpu.ptx.1 > ptx => {
            line.bad(Status::Error, format!("its code is PTX {}.{}: install a newer driver", gpu.ptx.0, gpu.ptx.1))
        }
        Some(gpu) => {
            let (target, known) = (target.map_or("", |t| t.name), gpu.card.name);
            Finding { found: format!("{}; models are compiled for {target} ({known})", line.found), ..line }
        }
    }];
    let total = card.memory_bytes;
    let memory = |found| Finding::ok(&about, found).with("memory_bytes", total);
    lines.push(match card.free_bytes() {
        Ok(free) => {
            let found = format!("memory: {:.1} GiB, of which {:.1} GiB are free", gib(total), gib(free));
            let line = memory(found).with("free_bytes", free);
            match free < total / 10 * 9 {
                true => line.bad(Status::Warning, "other programs use it: nvidia-smi lists them"),
                false => line,
            }
        }
        Err(e) => memory(format!("memory: {:.1} GiB; {e}", gib(total))).bad(Status::Error, "models run on the CPU"),
    });
    if let Some(link) = card.link() {
        let found = format!("PCIe {} x{}", link.generation, link.width);
        let line = Finding::ok(&about, found).with("pcie_generation", link.generation).with("pcie_width", link.width);
        let (generation, width) = (link.most_generation, link.most_width);
        lines.push(match link.width < width {
            // An idle card lowers its generation by itself.
            true => line.bad(Status::Warning, format!("it could have PCIe {generation} x{width}: use another slot")),
            false => line,
        });
    }
    lines
}

/// CPU and memory.
fn cpu() -> Result<Vec<Finding>> {
    let (target, isa) = machine::native()?;
    let cores = thread::cores();
    let found = format!("{cores} threads; models are compiled for {}", target.name);
    let mut lines = vec![Finding::ok("cpu", found).with("threads", cores).with("target", target.name)];
    let available = memory::available();
    let mut threads = 1;
    let mut rates = Vec::new();
    loop {
        let mut machine = match Machine::new(isa, threads) {
            Ok(machine) => machine,
            Err(e) => {
                lines.push(Finding::ok("memory", e.to_string()).bad(Status::Warning, "bandwidth was not measured"));
                return Ok(lines);
            }
        };
        let rate = (0..3).map(|_| machine.read_bytes_per_second()).fold(0.0, f64::max);
        rates.push((threads, rate / 1e9));
        if threads == cores {
            break;
        }
        threads = (2 * threads).min(cores);
    }
    let list: Vec<String> = rates.iter().map(|(n, rate)| format!("{rate:.0} GB/s by {n}")).collect();
    let free = available.map(|free| format!("{:.1} GiB free, ", free as f64 / f64::from(1 << 30))).unwrap_or_default();
    let figures: Vec<_> =
        rates.iter().map(|(n, rate)| serde_json::json!({"threads": n, "gb_per_second": rate})).collect();
    lines.push(Finding::ok("memory", format!("{free}read at {}", list.join(", "))).with("read", figures));
    Ok(lines)
}

/// The disk of a file.
fn disk(path: &Path) -> Result<Finding> {
    /// Bytes that tell a rate.
    const ENOUGH: u64 = 16 << 20;
    let rate = FileRate::measure(path)?;
    let (gb, percent) = (rate.bytes as f64 / 1e9, rate.cached * 100.0);
    let of = path.display();
    let line = |found| {
        Finding::ok("disk", found)
            .with("file", path.to_string_lossy())
            .with("bytes", rate.bytes)
            .with("cached", rate.cached)
    };
    if rate.bytes < ENOUGH {
        let found = line(format!("{of} is in the page cache by {percent:.0} %, which says nothing of its disk"));
        return Ok(if rate.cached > 0.0 {
            found
        } else {
            Finding { found: format!("{of} is too short to tell"), ..found }
        });
    }
    let gb_per_second = gb / rate.seconds;
    let found =
        format!("{of} is read at {gb_per_second:.2} GB/s ({gb:.2} GB; {percent:.0} % of it is in the page cache)");
    let line = line(found).with("gb_per_second", gb_per_second);
    /// What any SSD reaches.
    const SLOW: f64 = 0.3;
    Ok(match gb_per_second < SLOW {
        true => line.bad(Status::Warning, "models load no faster: put them on a faster disk"),
        false => line,
    })
}

/// Every kernel of an artifact on the device; `None` if interrupted.
fn verify(path: &Path, args: &Args) -> Result<Option<Vec<Finding>>> {
    if !model::is_artifact(path) {
        let path = path.display();
        return Err(usage(format!(
            "--verify takes an artifact, which {path} is not; rigc compile makes one of a model"
        )));
    }
    let interrupt = Interrupt::new();
    let artifact = artifact::read(path)?;
    let [part] = &artifact.manifest.devices[..] else {
        return Err(usage("the artifact is for several devices, and this version checks kernels of one"));
    };
    let options = Options { assembling: Some(progress::assembly(args.json)), ..args.device.given()? };
    let device = device::open(part, &options)?;
    let seed = args.seed.unwrap_or_else(random_seed);
    let bar = progress::count("kernels", args.json);
    let mut findings = Vec::new();
    let mut wrong = 0;
    conform::check(&artifact, &device, seed, usize::MAX, &mut |verdict| {
        let share = verdict.error * 100.0;
        let found = format!("{} comparisons, at most {share:.1} % of what is tolerated", verdict.trials);
        let line =
            |found| Finding::ok(&verdict.kernel, found).with("trials", verdict.trials).with("error", verdict.error);
        findings.push(match &verdict.wrong {
            None => line(found),
            Some(what) => {
                wrong += 1;
                line(what.clone()).bad(Status::Error, "it computes something else: do not use it on this device")
            }
        });
        progress::start(&bar, artifact.manifest.kernels.len() as u64);
        bar.inc(1);
        !interrupt.flag().load(Ordering::Relaxed)
    })?;
    bar.finish_and_clear();
    if interrupt.flag().load(Ordering::Relaxed) {
        return Ok(None);
    }
    let (all, checked) = (artifact.manifest.kernels.len(), findings.len());
    let name = device.get().info().name.clone();
    let found = format!("{} of {all} kernels agree on {name} ({}), seed {seed}", checked - wrong, part);
    let line = Finding::ok("artifact", found).with("device", name).with("seed", seed).with("kernels", all);
    findings.push(match checked - wrong == all {
        true => line,
        false => line.bad(Status::Error, "compile the model again; if that changes nothing, report it"),
    });
    Ok(Some(findings))
}
