//! `rigc`: compiles a model's kernels and runs them.
//!
//! The only crate that prints, reads the environment or looks at this machine's CPU. Each command is a file; each gives
//! its exit code, and each failure is one sentence on stderr.
#![forbid(unsafe_code)]

mod bench;
mod chat;
mod compile;
mod device;
mod doctor;
mod emulate;
mod failure;
mod inspect;
mod interrupt;
mod machine;
mod model;
mod output;
mod perplexity;
mod places;
mod progress;
mod run;
mod sampling;
mod schedules;
mod session;
mod synth;
mod temporary;
mod text;
mod tools;

use clap::{Parser, Subcommand};
use runtime::sys::signals;
use std::process::ExitCode;

/// A kernel compiler and runtime for transformer models in GGUF files.
#[derive(Debug, Parser)]
#[command(name = "rigc", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Generate text with a model
    Run(Box<run::Args>),
    /// Compile a model's kernels into an artifact
    Compile(compile::Args),
    /// Print the schedules of a model's kernels as a table to edit, and what may stand in it
    Schedules(schedules::Args),
    /// Print a model's or an artifact's shapes, formats, bytes and kernels
    Inspect(inspect::Args),
    /// Measure speed, and compare it with the machine's bounds and with llama.cpp
    Bench(bench::Args),
    /// Measure how well a model predicts a text
    Perplexity(perplexity::Args),
    /// Tell what this machine can run, and what is wrong with it
    Doctor(doctor::Args),
    /// Make a model file of random weights
    Synth(synth::Args),
    /// Run the kernels of case folders in the PTX emulator and compare their outputs
    Emulate(emulate::Args),
}

/// What `rigc` alone prints.
const GUIDE: &str = "\
rigc compiles a model's kernels for this machine and runs them.

  rigc run \"ROMEO:\"                    text from the built-in demo model
  rigc run MODEL.gguf \"Once upon\"       text from a GGUF file
  rigc run MODEL.gguf --chat           a conversation with a model
  rigc compile MODEL.gguf              keep the compiled kernels: MODEL.rig
  rigc inspect MODEL.gguf              what is in a file
  rigc bench MODEL.gguf                how fast a model runs
  rigc perplexity MODEL.gguf TEXT.txt  how well a model predicts a text
  rigc doctor                          what this machine can run
  rigc emulate DIR                     run PTX test cases on the CPU, with checks
  rigc help                            all commands; rigc help run: all flags of one
";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == chat::RENDERER) {
        return runtime::chat::renderer::serve();
    }
    output::show_warnings();
    signals::on_lost_file(failure::lost_file);
    signals::file_limit_is_an_error();
    let result = match Cli::try_parse() {
        Ok(cli) => command(cli),
        Err(e) if e.use_stderr() => Err(failure::usage(sentence(&e))),
        Err(help) => output::print(&help.render().to_string()).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|e| failure::report(&e))
}

fn command(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        None => output::print(GUIDE).map(|()| ExitCode::SUCCESS),
        Some(Command::Run(args)) => run::run(*args),
        Some(Command::Compile(args)) => compile::run(args),
        Some(Command::Schedules(args)) => schedules::run(args),
        Some(Command::Inspect(args)) => inspect::run(args),
        Some(Command::Bench(args)) => bench::run(args),
        Some(Command::Perplexity(args)) => perplexity::run(args),
        Some(Command::Doctor(args)) => doctor::run(args),
        Some(Command::Synth(args)) => synth::run(args),
        Some(Command::Emulate(args)) => emulate::run(args),
    }
}

/// What the argument parser says, up to its first empty line, and its tip, as one sentence.
fn sentence(error: &clap::Error) -> String {
    // Flags of llama.cpp that would read as `-n gl`.
    if std::env::args_os().skip(2).any(|arg| arg == "-ngl" || arg == "--n-gpu-layers") {
        return "rigc has no -ngl: a model runs on one device whole; --device chooses it".into();
    }
    let text = error.render().to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let hint = tip.filter(|tip| tip.contains("similar")).unwrap_or("rigc help lists commands and flags");
    format!("{}; {hint}", lines.join(" ").trim_start_matches("error: "))
}
