//! `rigc run --chat`: a conversation, line by line or one message.
//!
//! On a terminal, an error in one message is reported and the conversation goes on; a script that pipes its lines in gets
//! the exit code of the first error.

use crate::failure::{self, INTERRUPTED, usage};
use crate::interrupt::Interrupt;
use crate::output::{self, note};
use crate::session::Session;
use crate::temporary::Temporary;
use crate::text;
use anyhow::{Context, Result};
use ir::gguf::Metadata;
use ir::quote;
use runtime::chat::{ChatTemplate, Conversation, Message, Renderer, Reply, SYSTEM, SpecialTexts, USER};
use runtime::generate::StopReason;
use runtime::tokenizer::Tokenizer;
use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// This program, for the process that renders templates.
const SELF: &str = "/proc/self/exe";
/// The argument that makes it one.
pub const RENDERER: &str = "--render-chat-template";

/// Flags of a conversation.
#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// Chat: the prompt is a message; without one, each line is
    #[arg(long, conflicts_with_all = ["prompt_ids", "no_special"])]
    chat: bool,
    /// With --chat: how the model is to behave
    #[arg(long, value_name = "TEXT", requires = "chat", allow_hyphen_values = true)]
    system: Option<String>,
    /// With --chat: a Jinja chat template, instead of the model's
    #[arg(long, value_name = "FILE", requires = "chat")]
    template: Option<PathBuf>,
}

/// A conversation and what it begins with.
pub struct Chat {
    conversation: Conversation,
    opening: Vec<Message>,
    /// Whether the last reply was interrupted.
    stopped: bool,
    /// Whether it was said that replies end after so many tokens.
    told_length: bool,
}

impl ChatArgs {
    /// Whether there is to be a conversation.
    pub fn on(&self) -> bool {
        self.chat
    }

    /// The conversation that the flags ask for with a model of this header.
    pub fn conversation(&self, metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Chat> {
        let (special, now) = (SpecialTexts::from(tokenizer), runtime::sys::time::local());
        let renderer = Renderer::new(SELF, [RENDERER]);
        let template = match &self.template {
            None => ChatTemplate::from_metadata(metadata, special, now, renderer)?,
            Some(path) => {
                let name = path.display();
                ChatTemplate::from_text(&text::file(path)?, name.to_string(), special, now, renderer)?
            }
        };
        let opening: Vec<_> = self.system.iter().map(|text| Message::new(SYSTEM, text)).collect();
        let chat = Chat {
            conversation: Conversation::new(template, opening.clone()),
            opening,
            stopped: false,
            told_length: false,
        };
        Ok(chat)
    }
}

/// What `/help` prints.
const HELP: &str = "\
/help        this list
/clear       forget the conversation, but for --system
/save FILE   write the conversation to FILE as JSON
/load FILE   go on from a conversation in FILE
//TEXT       the message /TEXT
Ctrl-C stops a reply, Ctrl-D leaves.
";

/// The line of piped input at which a hint is due: who pipes a text may not expect that each of its lines is answered.
const HINT_AT: usize = 8;

/// Has `message` answered, or all lines that come.
pub fn run(mut session: Session, mut chat: Chat, message: Option<String>, interrupt: &Interrupt) -> Result<ExitCode> {
    if let Some(text) = message {
        let reply = chat.answer(&text, &mut session, interrupt)?;
        return Ok(session.finish(&reply.generation));
    }
    let mut lines = Lines::new()?;
    if lines.interactive() {
        let context = session.executor.context();
        note!("{}, context {context}, seed {}; /help lists commands", session.name, session.seed());
    }
    let mut count = 0;
    while let Some(line) = lines.next()? {
        count += 1;
        if count == HINT_AT && !lines.interactive() {
            note!("rigc: each line of standard input is a message; with -f - all of it is one");
        }
        let done = chat.line(&line, &mut session, interrupt);
        // At a terminal Ctrl-C only ends a reply.
        if interrupt.is_ending() || (chat.stopped && !lines.interactive()) {
            done?;
            return Ok(ExitCode::from(INTERRUPTED));
        }
        match done {
            Ok(note) if lines.interactive() => output::tell(format_args!("{note}")),
            Err(e) if lines.interactive() && !failure::is_broken_pipe(&e) => {
                failure::report(&e);
            }
            result => drop(result?),
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Chat {
    /// Does what a line asks for, and tells what that was where it does not show.
    fn line(&mut self, line: &str, session: &mut Session, interrupt: &Interrupt) -> Result<String> {
        let Some(command) = line.strip_prefix('/').filter(|rest| !rest.starts_with('/')) else {
            if !line.trim().is_empty() {
                self.answer(line.strip_prefix('/').unwrap_or(line), session, interrupt)?;
            }
            return Ok(String::new());
        };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, rest.trim()) {
            ("help", "") => Ok(HELP.to_owned()),
            ("clear", "") => {
                self.conversation.set_messages(self.opening.clone());
                session.restart_sampler()?;
                Ok("the conversation is forgotten\n".to_owned())
            }
            ("save", file) if !file.is_empty() => {
                let messages = self.conversation.messages();
                save(Path::new(file), messages)?;
                Ok(format!("{} messages are in {file}\n", messages.len()))
            }
            ("load", file) if !file.is_empty() => {
                let messages = load(Path::new(file))?;
                let note = format!("{} messages are from {file}\n", messages.len());
                self.conversation.set_messages(messages);
                session.restart_sampler()?;
                Ok(note)
            }
            ("save" | "load", _) => Err(usage(format!("/{name} needs a file: /{name} FILE"))),
            ("help" | "clear", _) => Err(usage(format!("/{name} takes nothing after it"))),
            _ => {
                let (name, command) = (quote::plain(name, 40), quote::plain(command, 40));
                Err(usage(format!("/{name} is no command; /help lists them, and //{command} is a message")))
            }
        }
    }

    /// Prints the answer to a message, and on stderr why it is not whole.
    fn answer(&mut self, text: &str, session: &mut Session, interrupt: &Interrupt) -> Result<Reply> {
        let conversation = &mut self.conversation;
        let reply = session.generate(interrupt.flag(), |s, watch| {
            let Session { executor, tokenizer, sampler, options, .. } = s;
            let message = Message::new(USER, text);
            conversation.reply(message, executor, tokenizer, sampler, options, watch)
        });
        interrupt.rest();
        let context = session.executor.context();
        let reply = match reply {
            Err(e) => match e.downcast_ref::<runtime::Error>() {
                Some(runtime::Error::Limit { need, .. }) => {
                    return Err(usage(format!(
                        "the conversation with this message has {need} tokens, but the context holds {context}; the \
                         message was left out: /clear starts anew, or give a larger --ctx"
                    )));
                }
                _ => return Err(e),
            },
            Ok(reply) => reply,
        };
        let generation = &reply.generation;
        self.stopped = generation.stop_reason == StopReason::Interrupted;
        session.print_end(&reply.prompt_ids, generation)?;
        match generation.stop_reason {
            StopReason::Context => note!(
                "rigc: the context of {context} tokens is full, so the reply ends here; /clear starts anew, or give a \
                 larger --ctx"
            ),
            StopReason::Length if !self.told_length => {
                self.told_length = true;
                note!("rigc: the reply ends here after the {} tokens of -n", generation.ids.len())
            }
            StopReason::Interrupted if generation.ids.is_empty() => {
                note!("rigc: stopped before the reply began; the message was left out");
            }
            _ => {}
        }
        Ok(reply)
    }
}

/// Writes messages as JSON; the file is whole or as it was, and keeps its permissions. Through a link, the file that it
/// names is written.
fn save(path: &Path, messages: &[Message]) -> Result<()> {
    let text = serde_json::to_string_pretty(messages).context("the conversation")? + "\n";
    let io = |e| runtime::Error::io(path, e);
    let old = match std::fs::canonicalize(path) {
        Err(e) if e.kind() == ErrorKind::NotFound && !path.is_symlink() => None,
        old => Some(old.map_err(io)?),
    };
    let mode = old.as_ref().map(std::fs::metadata).transpose().map_err(io)?;
    if mode.as_ref().is_some_and(|old| !old.is_file()) {
        return Err(usage(format!("{} is not a regular file; choose another name", path.display())));
    }
    let target = old.as_deref().unwrap_or(path);
    let write = || {
        let temporary = if mode.is_some() { Temporary::beside(target) } else { Temporary::public(target) }?;
        temporary.file().write_all(text.as_bytes())?;
        if let Some(old) = &mode {
            temporary.file().set_permissions(old.permissions())?;
        }
        temporary.replace(target)
    };
    Ok(write().map_err(io)?)
}

/// Reads messages that [`save`] has written, or others of that form.
fn load(path: &Path) -> Result<Vec<Message>> {
    let text = text::file(path)?;
    let form = "a JSON list of {\"role\": …, \"content\": …}";
    serde_json::from_str(&text).map_err(|e| usage(format!("{} is not {form}: {e}", path.display())))
}

/// Where lines come from.
enum Lines {
    Terminal(Box<DefaultEditor>),
    Pipe(std::io::StdinLock<'static>),
}

impl Lines {
    fn new() -> Result<Lines> {
        let stdin = std::io::stdin();
        Ok(if stdin.is_terminal() {
            // The prompt goes to the terminal even where standard output does not.
            let config = Config::builder().behavior(Behavior::PreferTerm).build();
            Lines::Terminal(Box::new(DefaultEditor::with_config(config).map_err(terminal)?))
        } else {
            Lines::Pipe(stdin.lock())
        })
    }

    fn interactive(&self) -> bool {
        matches!(self, Lines::Terminal(_))
    }

    /// The next line without its end; `None` after the last.
    fn next(&mut self) -> Result<Option<String>> {
        match self {
            Lines::Terminal(editor) => loop {
                match editor.readline("> ") {
                    Ok(line) => {
                        editor.add_history_entry(&line).map_err(terminal)?;
                        return Ok(Some(line));
                    }
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(ReadlineError::Interrupted) => note!("Ctrl-D leaves"),
                    Err(ReadlineError::Io(e)) if e.kind() == ErrorKind::InvalidData => {
                        note!("rigc: the line is not UTF-8 and was left out");
                    }
                    Err(e) => return Err(terminal(e)),
                }
            },
            Lines::Pipe(input) => {
                let line = text::line(input, "a line of standard input")?;
                Ok(line.map(|line| line.trim_end_matches(['\n', '\r']).to_owned()))
            }
        }
    }
}

fn terminal(error: ReadlineError) -> anyhow::Error {
    usage(format!("the terminal: {error}"))
}
