//! `rigc run`: prompt in, text out; with `--chat`, messages in and replies out (`chat`).

use crate::chat::{self, ChatArgs};
use crate::device::DeviceArgs;
use crate::failure::usage;
use crate::interrupt::Interrupt;
use crate::model::{self, CompileArgs};
use crate::output::note;
use crate::sampling::SamplingArgs;
use crate::session::{Session, Settings};
use crate::text;
use anyhow::Result;
use ir::gguf::Metadata;
use runtime::device;
use runtime::generate;
use runtime::sys::stdin;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Generate text with a model; without MODEL, with the built-in demo model
#[derive(Debug, clap::Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "The first argument is MODEL if it exists as a path or ends in .gguf or .rig, else it is PROMPT.\n\n\
A prompt is continued as it is; --chat has a model that was trained for conversations answer it.\n\n\
Without a prompt, standard input is read if it is no terminal. With one, what a file or a pipe on standard input has \
ready when the model is read comes after it, on a new line. With --chat and no prompt, each line of standard input is a \
message or a command; -f - makes all of it one message.\n\n\
At a terminal and without a prompt, a model with a chat template opens a conversation."
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
    /// Read the prompt from a file; -: from standard input
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
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Stop before this text, which may have names of special tokens in it; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Go on after tokens that end a text
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    compile: CompileArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Tell all figures of the run, a line each
    #[arg(long)]
    verbose: bool,
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

/// Sorts the arguments into a model and a prompt, if one is given.
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
    Ok((model, given.pop()))
}

/// A prompt with what comes through standard input after it, or that alone.
fn with_input(prompt: Option<Prompt>) -> Result<Prompt> {
    Ok(match prompt {
        None => Prompt::Text(text::input()?),
        Some(Prompt::Text(prompt)) if stdin::has_more() => match text::input()? {
            more if more.is_empty() => Prompt::Text(prompt),
            more => Prompt::Text(format!("{prompt}\n{more}")),
        },
        Some(prompt) => prompt,
    })
}

/// What the flags and the model's file say about generation; `chat`: of replies.
fn settings(args: &Args, executor: device::Options, metadata: &Metadata, chat: bool) -> Settings {
    let options = generate::Options {
        max_tokens: args.tokens.or((!chat).then_some(TOKENS)),
        ignore_eos: args.ignore_eos,
        stops: args.stop.clone(),
        top_logits: args.top_logits,
    };
    let sampling = args.sampling.choose(metadata);
    Settings { sampling, options, executor, json: args.json, verbose: args.verbose }
}

/// Runs the command.
pub fn run(mut args: Args) -> Result<ExitCode> {
    let interrupt = Interrupt::new();
    let (path, mut prompt) = sort(&args)?;
    let compiles = !path.as_deref().is_some_and(model::is_artifact);
    let device = args.device.choose(&mut args.compile, compiles)?;
    let terminal = std::io::stdin().is_terminal();
    if prompt.is_none() && !args.chat.on() && !terminal {
        prompt = Some(with_input(None)?);
    }
    let start = Instant::now();
    let loaded = model::load(path.as_deref().map(Path::new), &args.compile)?;
    let tokenizer = model::tokenizer(&loaded.file)?;
    let templated = loaded.file.metadata().get(runtime::chat::KEY).is_some();
    if prompt.is_none() && !args.chat.on() && !templated {
        return Err(usage("no prompt is given; type one, as in: rigc run \"ROMEO:\""));
    }
    let chat = args.chat.on() || prompt.is_none();
    let settings = settings(&args, device, loaded.file.metadata(), chat);
    let prompt = prompt.map(|p| with_input(Some(p))).transpose()?;
    if chat {
        let chat = args.chat.conversation(loaded.file.metadata(), &tokenizer)?;
        let session = Session::new(loaded, tokenizer, settings, start)?;
        let message = prompt.and_then(|p| if let Prompt::Text(text) = p { Some(text) } else { None });
        return chat::run(session, chat, message, &interrupt);
    }
    let context = loaded.artifact.manifest.context as usize;
    let prompt_ids = match prompt {
        Some(Prompt::Text(text)) => {
            // A text that cannot fit takes much memory until its tokens can be counted.
            let fewest = tokenizer.fewest(text.len());
            if fewest > context {
                let what = "tokens or more, but the context holds";
                return Err(usage(format!("the prompt has {fewest} {what} {context}; give less, or a larger --ctx")));
            }
            tokenizer.encode_prompt(&text, !args.no_special)?
        }
        Some(Prompt::Ids(ids)) => ids,
        None => Vec::new(),
    };
    if prompt_ids.is_empty() {
        return Err(usage("the prompt has no tokens; give some text"));
    }
    let hint = templated && !args.json && args.prompt_ids.is_none();
    let mut session = Session::new(loaded, tokenizer, settings, start)?;
    let generation = session.generate(interrupt.flag(), |s, watch| {
        let Session { executor, tokenizer, sampler, options, .. } = s;
        generate::generate(executor, tokenizer, sampler, &prompt_ids, options, watch)
    })?;
    session.print_end(&prompt_ids, &generation)?;
    let code = session.finish(&generation);
    if hint {
        note!("The prompt was continued as it is; with --chat this model answers it.");
    }
    Ok(code)
}
