//! `rigc run`: prompt in, text out; with `--chat`, messages in and replies out (`chat`).

use crate::chat::{self, ChatArgs};
use crate::failure::{INTERRUPTED, usage};
use crate::interrupt::Interrupt;
use crate::model::{self, CompileArgs, Loaded};
use crate::output::{self, note};
use crate::{machine, progress, text};
use anyhow::{Context, Result};
use runtime::ModelFile;
use runtime::executor::{Executor, Options};
use runtime::generate::{self, Generation, StopReason};
use runtime::sampler::{Sampler, SamplerConfig};
use runtime::tokenizer::{Tokenizer, Vocab};
use serde::Serialize;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Generate text with a model; without MODEL, with the built-in demo model
#[derive(Debug, clap::Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "The first argument is MODEL if it exists as a path or ends in .gguf or .rig, else it is PROMPT.\n\
Without a prompt, standard input is read if it is no terminal; with --chat, each of its lines is a message."
)]
pub struct Args {
    /// GGUF file or artifact (.rig)
    #[arg(value_name = "MODEL")]
    first: Option<String>,
    /// Text to continue
    #[arg(value_name = "PROMPT")]
    second: Option<String>,
    /// Prompt; may start with a dash
    #[arg(short, long, value_name = "PROMPT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Token ids as the prompt, as they are
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_ids: Option<Vec<u32>>,
    /// Text of special tokens in the prompt is plain text
    #[arg(long)]
    no_special: bool,
    /// Most tokens to generate [default: 256; with --chat: until the reply ends]
    #[arg(short = 'n', long = "tokens", value_name = "N")]
    tokens: Option<usize>,
    /// Temperature; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temp: f32,
    /// Sample from the K likeliest tokens; 0: from all
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,
    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Leave out tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    min_p: f32,
    /// Divide the logits of recent tokens by this; 1: off
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repeat_penalty: f32,
    /// Seed of the sampler [default: random; the summary prints it]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Go on after tokens that end a text
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    compile: CompileArgs,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Device: auto, cpu, or emu (emulates a GPU: slow, and checks every access)
    #[arg(long, default_value = "auto")]
    device: String,
    /// With --device emu, errors of approximate instructions as large as the PTX ISA allows: 0 is none, every other number
    /// a choice
    #[arg(long, default_value_t = 0, value_name = "N")]
    approx_seed: u64,
    /// Print one JSON object instead of text; with --chat, one for each reply
    #[arg(long)]
    json: bool,
    /// With --json, report the K largest logits after the prompt
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_logits: usize,
}

/// Most tokens to generate where neither the user nor the end of a reply says.
const TOKENS: usize = 256;

/// A prompt as given.
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// Sorts the arguments into a model and a prompt: with `--chat` there may be none.
fn sort(args: &Args) -> Result<(Option<PathBuf>, Option<Prompt>)> {
    let (model, positional) = match (&args.first, &args.second) {
        (Some(first), second) if model::is_model(first) => (Some(PathBuf::from(first)), second.clone()),
        (Some(first), None) => (None, Some(first.clone())),
        (Some(first), Some(_)) => {
            return Err(usage(format!("'{first}' is no file; give a model and a prompt, or put one prompt in quotes")));
        }
        (None, _) => (None, None),
    };
    let mut given: Vec<Prompt> = Vec::new();
    given.extend(positional.map(Prompt::Text));
    given.extend(args.prompt.clone().map(Prompt::Text));
    if let Some(path) = &args.file {
        given.push(Prompt::Text(text::file(path)?));
    }
    given.extend(args.prompt_ids.clone().map(Prompt::Ids));
    if given.len() > 1 {
        return Err(usage("more than one prompt is given; use one of PROMPT, -p, -f and --prompt-ids"));
    }
    if let Some(prompt) = given.pop().map(Some).or(args.chat.on().then_some(None)) {
        return Ok((model, prompt));
    }
    if std::io::stdin().is_terminal() {
        return Err(usage("no prompt is given; type one, as in: rigc run \"ROMEO:\""));
    }
    Ok((model, Some(Prompt::Text(text::read(std::io::stdin().lock(), Path::new("standard input"))?))))
}

/// A seed that differs from run to run.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() & 0xffff_ffff
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    device: &'a str,
    target: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    text: &'a str,
    stop_reason: &'static str,
    timings: &'a ReportTimings,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logits: Option<&'a [(u32, f32)]>,
}

#[derive(Serialize)]
struct ReportTimings {
    load_ms: f64,
    prefill_tokens: usize,
    prefill_ms: f64,
    decode_ms: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    weight_gb_per_second: f64,
}

fn milliseconds(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

impl ReportTimings {
    fn new(load: Duration, g: &Generation, weight_bytes: u64) -> Self {
        let t = &g.timings;
        ReportTimings {
            load_ms: milliseconds(load),
            prefill_tokens: t.prefill_tokens,
            prefill_ms: milliseconds(t.prefill),
            decode_ms: milliseconds(t.decode),
            prefill_tokens_per_second: t.prefill_tokens_per_second(),
            decode_tokens_per_second: t.decode_tokens_per_second(),
            weight_gb_per_second: t.decode_tokens_per_second() * weight_bytes as f64 / 1e9,
        }
    }
}

/// A loaded model and how to sample from it.
pub struct Session {
    /// The model.
    pub executor: Executor,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    /// The next to sample with.
    pub sampler: Sampler,
    /// When to stop.
    pub options: generate::Options,
    /// File name of the model.
    pub name: String,
    /// What the sampler's randomness starts from.
    pub seed: u64,
    file: ModelFile,
    config: SamplerConfig,
    load: Duration,
    json: bool,
}

impl Session {
    fn new(args: &Args, loaded: Loaded, tokenizer: Tokenizer, start: Instant) -> Result<Session> {
        let Loaded { artifact, file, name } = loaded;
        let seed = args.seed.unwrap_or_else(random_seed);
        let config = SamplerConfig {
            temperature: args.temp,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repeat_penalty: args.repeat_penalty,
            seed,
        };
        let sampler = Sampler::new(config.clone(), artifact.manifest.config.vocab)?;
        let bar = progress::bytes("loading", args.json);
        let options = Options {
            threads: args.threads.map_or(0, usize::from),
            device: machine::device(&args.device)?,
            approx_seed: args.approx_seed,
        };
        let executor = Executor::new(artifact, &file, &options, &mut progress::callback(&bar))?;
        bar.finish_and_clear();
        let options = generate::Options {
            max_tokens: args.tokens.or((!args.chat.on()).then_some(TOKENS)),
            ignore_eos: args.ignore_eos,
            stops: args.stop.clone(),
            top_logits: args.top_logits,
        };
        let (load, json) = (start.elapsed(), args.json);
        Ok(Session { executor, tokenizer, sampler, options, name, seed, file, config, load, json })
    }

    /// Samples from now on as at the start.
    pub fn restart_sampler(&mut self) -> Result<()> {
        self.sampler = Sampler::new(self.config.clone(), self.executor.manifest().config.vocab)?;
        Ok(())
    }

    /// Generates by `generate`, which gets the session, where text goes and what interrupts. Text is printed as it comes,
    /// unless all is to be JSON.
    pub fn generate<T>(
        &mut self,
        interrupted: &AtomicBool,
        generate: impl FnOnce(&mut Session, &mut dyn FnMut(&str), &AtomicBool) -> runtime::Result<T>,
    ) -> Result<T> {
        let json = self.json;
        let mut failed = None;
        let mut on_text = |text: &str| {
            if !json
                && failed.is_none()
                && let Err(e) = output::print(text)
            {
                failed = Some(e);
                interrupted.store(true, Ordering::Relaxed);
            }
        };
        let result = generate(self, &mut on_text, interrupted)?;
        if let Some(e) = failed {
            return Err(e);
        }
        self.file.check_unchanged()?;
        Ok(result)
    }

    /// Ends what was printed of a generation after all of `prompt_ids`, or prints all of it as JSON.
    pub fn print_end(&self, prompt_ids: &[u32], generation: &Generation) -> Result<()> {
        if !self.json {
            return output::print("\n");
        }
        let report = Report {
            model: &self.name,
            device: &self.executor.device().name,
            target: &self.executor.device().target,
            prompt_ids,
            ids: &generation.ids,
            text: &generation.text,
            stop_reason: generation.stop_reason.name(),
            timings: &self.timings(generation),
            top_logits: (self.options.top_logits > 0).then_some(&generation.top_logits),
        };
        output::print(&(serde_json::to_string(&report).context("the report")? + "\n"))
    }

    fn timings(&self, generation: &Generation) -> ReportTimings {
        ReportTimings::new(self.load, generation, self.executor.weight_bytes())
    }

    /// What a whole run took, on stderr; its exit code.
    pub fn finish(&self, g: &Generation) -> ExitCode {
        let (t, info) = (self.timings(g), self.executor.device());
        note!(
            "\n{} ({}, {} threads): load {:.2} s; prefill {} tokens in {:.2} s, {:.1} tok/s; decode {} tokens in {:.2} s, \
             {:.1} tok/s, {:.1} GB/s of weights; stopped by {}; seed {}",
            info.name,
            info.target,
            info.workers,
            t.load_ms / 1e3,
            t.prefill_tokens,
            t.prefill_ms / 1e3,
            t.prefill_tokens_per_second,
            g.ids.len(),
            t.decode_ms / 1e3,
            t.decode_tokens_per_second,
            t.weight_gb_per_second,
            g.stop_reason,
            self.seed,
        );
        ExitCode::from(if g.stop_reason == StopReason::Interrupted { INTERRUPTED } else { 0 })
    }
}

/// Runs the command.
pub fn run(mut args: Args) -> Result<ExitCode> {
    args.compile.default_target = machine::default_target(machine::device(&args.device)?);
    let interrupt = Interrupt::new();
    let (path, prompt) = sort(&args)?;
    let start = Instant::now();
    let loaded = model::load(path.as_deref().map(Path::new), &args.compile)?;
    let tokenizer = Tokenizer::new(Vocab::from_gguf(loaded.file.metadata())?)?;
    if args.chat.on() {
        let chat = args.chat.conversation(loaded.file.metadata(), &tokenizer)?;
        let session = Session::new(&args, loaded, tokenizer, start)?;
        let message = prompt.and_then(|p| if let Prompt::Text(text) = p { Some(text) } else { None });
        return chat::run(session, chat, message, &interrupt);
    }
    let prompt_ids = match prompt {
        Some(Prompt::Text(text)) => tokenizer.encode_prompt(&text, !args.no_special),
        Some(Prompt::Ids(ids)) => ids,
        None => Vec::new(),
    };
    if prompt_ids.is_empty() {
        return Err(usage("the prompt has no tokens; give some text"));
    }
    let mut session = Session::new(&args, loaded, tokenizer, start)?;
    let generation = session.generate(interrupt.flag(), |s, on_text, interrupted| {
        let Session { executor, tokenizer, sampler, options, .. } = s;
        generate::generate(executor, tokenizer, sampler, &prompt_ids, options, on_text, interrupted)
    })?;
    session.print_end(&prompt_ids, &generation)?;
    Ok(session.finish(&generation))
}
