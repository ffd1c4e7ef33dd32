//! `rigc emulate`: runs kernels of case folders in the PTX emulator, and compares.

use crate::{failure, output};
use anyhow::Result;
use emu::case::{self, Case, Outcome};
use emu::{Fault, Options, Schedule};
use serde::Serialize;
use std::fmt::Write;
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
    /// Print one JSON array, an object for each case and target
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    case: String,
    target: String,
    /// pass, difference, fault, no_fault or refused.
    outcome: &'static str,
    /// The same in words.
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Box<Fault>>,
}

#[derive(Serialize)]
struct Difference {
    buffer: String,
    index: u64,
    got: String,
    expected: String,
}

impl Line {
    fn new(case: &str, target: &str, outcome: Outcome) -> Line {
        let (case, target, text) = (case.to_owned(), target.to_owned(), outcome.to_string());
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
        Line { case, target, outcome, text, difference, fault }
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let unreadable = |e: case::CaseError| failure::usage(e.to_string());
    let options =
        Options { schedule: Schedule { seed: args.seed }, approx_seed: args.approx_seed, ..Options::default() };
    let mut cases = Vec::new();
    for dir in &args.dirs {
        for folder in case::find(dir).map_err(unreadable)? {
            cases.push(Case::read(&folder).map_err(unreadable)?);
        }
    }
    let mut lines = Vec::new();
    for case in &cases {
        for (target, ptx) in &case.ptx {
            let line = Line::new(&case.name, target, case.run(ptx, &options));
            if !args.json {
                output::print(&format!("{} {}: {}\n", line.case, line.target, line.text))?;
            }
            lines.push(line);
        }
    }
    let misses = lines.iter().filter(|l| l.outcome != "pass").count();
    let mut end = String::new();
    if args.json {
        writeln!(end, "{}", serde_json::to_string(&lines)?)?;
    } else {
        writeln!(end, "{} of {} pass", lines.len() - misses, lines.len())?;
    }
    output::print(&end)?;
    Ok(if misses == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
