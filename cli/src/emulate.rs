//! `rigc emulate`: runs kernels of case folders in the PTX emulator, and compares.

use crate::{failure, output};
use anyhow::Result;
use emu::case::{self, Case, Outcome};
use emu::{Counters, Fault, Options, Schedule};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run the kernels of case folders in the PTX emulator and compare their outputs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Case folders (with a case.json), or folders of them
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Who runs when: 0 is round robin, every other number an adversary
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Errors of approximate instructions, as large as the ISA allows: 0 is none, every other number a choice
    #[arg(long, default_value_t = 0, value_name = "N")]
    approx_seed: u64,
    /// Most instructions of warps that a kernel may execute
    #[arg(long, default_value_t = Options::default().max_steps, value_name = "N")]
    limit: u64,
    /// Print one JSON object a line, for each case and target
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    case: String,
    target: String,
    /// pass, difference, fault, no_fault or refused.
    outcome: &'static str,
    /// Of a fault: its kind, and the line of the PTX if it has one.
    kind: Option<String>,
    line: Option<u32>,
    /// Of a kernel that ran to its end.
    counters: Option<Counts>,
    /// The outcome in words.
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Box<Fault>>,
}

#[derive(Serialize)]
struct Counts {
    /// Thread-instructions of all classes.
    instructions: u64,
    /// 32-byte sectors of global memory, read or written.
    global_sectors: u64,
    #[serde(flatten)]
    all: Counters,
}

impl Counts {
    fn new(all: Counters) -> Counts {
        let global_sectors = all.sectors_read + all.sectors_written;
        Counts { instructions: all.instructions(), global_sectors, all }
    }
}

#[derive(Serialize)]
struct Difference {
    buffer: String,
    index: u64,
    got: String,
    expected: String,
}

impl Line {
    fn new(case: &str, target: &str, (outcome, counters): (Outcome, Option<Counters>)) -> Line {
        let text = outcome.to_string();
        let (mut difference, mut fault) = (None, None);
        let outcome = match outcome {
            Outcome::Pass => "pass",
            Outcome::Difference { buffer, index, got, expected } => {
                difference = Some(Difference { buffer, index, got, expected });
                "difference"
            }
            Outcome::Fault(f) => {
                fault = Some(f);
                "fault"
            }
            Outcome::NoFault(_) => "no_fault",
            Outcome::Refused(_) => "refused",
        };
        Line {
            case: case.to_owned(),
            target: target.to_owned(),
            outcome,
            kind: fault.as_ref().map(|f| f.kind.name()),
            line: fault.as_ref().map(|f| f.line).filter(|&line| line > 0),
            counters: counters.map(Counts::new),
            text,
            difference,
            fault,
        }
    }

    /// For people: names and texts of files in one line, and what a kernel had better not do.
    fn words(&self) -> String {
        let mut words = format!("{} {}: {}", self.case, self.target, self.text);
        let loads = self.counters.as_ref().map_or(0, |c| c.all.plain_cas_loads);
        if loads > 0 {
            words += &format!(" (warning: {loads} plain loads of words that cas exchanges)");
        }
        escaped(&words)
    }
}

/// A text without control characters.
fn escaped(text: &str) -> String {
    let one = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(one).collect()
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let unreadable = |e: case::CaseError| failure::usage(escaped(&e.to_string()));
    let options = Options {
        schedule: Schedule { seed: args.seed },
        max_steps: args.limit,
        approx_seed: args.approx_seed,
        ..Options::default()
    };
    let mut cases = Vec::new();
    for dir in &args.dirs {
        for folder in case::find(dir).map_err(unreadable)? {
            cases.push(Case::read(&folder).map_err(unreadable)?);
        }
    }
    let (mut passed, mut all) = (0, 0);
    for case in &cases {
        for (target, ptx) in &case.ptx {
            let line = Line::new(&case.name, target, case.run_counted(ptx, &options));
            all += 1;
            passed += usize::from(line.outcome == "pass");
            let text = if args.json { serde_json::to_string(&line)? } else { line.words() };
            output::print(&format!("{text}\n"))?;
        }
    }
    if !args.json {
        output::print(&format!("{passed} of {all} pass\n"))?;
    }
    Ok(if passed == all { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
