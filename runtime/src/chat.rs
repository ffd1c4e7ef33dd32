//! Chat templates: a conversation becomes the text that the model was trained on.
//!
//! A template is a Jinja program from the GGUF header or from a file; `jinja` renders it as Hugging Face's renderer does,
//! with the messages in the form that it takes (`forms`). Invariant: a missing template and one that fails are errors, as
//! is one that leaves out a message, and no other format is ever used in its place. A template is not trusted: it is
//! compiled and rendered in a process of its own, which `renderer` starts and limits. Next hop: `conversation` has a model
//! answer.

mod channels;
mod clock;
mod conversation;
pub mod forms;
pub mod jinja;
mod json;
mod methods;
pub mod renderer;

pub use crate::sys::time::DateTime;
pub use conversation::{Conversation, Reply};
pub use renderer::Renderer;

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use ir::gguf::Metadata;
use renderer::{Ask, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::borrow::Cow;

/// The metadata key of a model's template.
pub const KEY: &str = "tokenizer.chat_template";
/// Longest source, in bytes.
const SOURCE_MAX: usize = 1 << 20;

/// The role of who asks.
pub const USER: &str = "user";
/// The role of the model.
pub const ASSISTANT: &str = "assistant";
/// The role of what says how to behave.
pub const SYSTEM: &str = "system";

/// What one side says: a JSON object with a `role`, and with a `content` and other fields, such as `tool_calls`, as the
/// template reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Json>")]
pub struct Message(Map<String, Json>);

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let field = |name: &str, text: String| (name.to_owned(), Json::String(text));
        Message(Map::from_iter([field("role", role.into()), field("content", content.into())]))
    }

    /// Who says it: `system`, `user` or `assistant`, or what else the template knows.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Json::as_str).unwrap_or_default()
    }
}

impl TryFrom<Map<String, Json>> for Message {
    type Error = &'static str;

    fn try_from(fields: Map<String, Json>) -> std::result::Result<Self, Self::Error> {
        match fields.get("role") {
            Some(Json::String(_)) => Ok(Message(fields)),
            _ => Err("a message has no `role` that is a text"),
        }
    }
}

/// The texts of special tokens, variables of a template. One that is `None` is undefined.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpecialTexts {
    /// Begins a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// Ends a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Stands for what no token covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unk_token: Option<String>,
    /// Pads a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token: Option<String>,
}

impl From<&Tokenizer> for SpecialTexts {
    fn from(t: &Tokenizer) -> Self {
        let text = |id: Option<u32>| id.and_then(|id| t.token_text(id)).map(String::from);
        SpecialTexts {
            bos_token: text(t.bos()),
            eos_token: text(t.eos()),
            unk_token: text(t.unk()),
            pad_token: text(t.pad()),
        }
    }
}

/// A template, and the process that renders it.
#[derive(Debug)]
pub struct ChatTemplate {
    renderer: Renderer,
    source: String,
    /// Where it is from, for messages.
    origin: String,
    special: SpecialTexts,
    now: DateTime,
}

impl ChatTemplate {
    /// The template of a GGUF header.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none, and as [`ChatTemplate::from_text`].
    pub fn from_metadata(
        metadata: &Metadata,
        special: SpecialTexts,
        now: DateTime,
        renderer: Renderer,
    ) -> Result<Self> {
        let Some(source) = metadata.opt_str(KEY)? else {
            return Err(Error::input(format!(
                "the model has no chat template ({KEY}); give one with --template, or leave out --chat"
            )));
        };
        Self::from_text(source, "of the model", special, now, renderer)
    }

    /// A template from its source; `origin` says in messages where it is from, and `now` what it takes for the time.
    ///
    /// # Errors
    /// [`Error::Input`] if it is no template or too long.
    pub fn from_text(
        source: &str,
        origin: impl Into<String>,
        special: SpecialTexts,
        now: DateTime,
        renderer: Renderer,
    ) -> Result<Self> {
        let origin = origin.into();
        if source.len() > SOURCE_MAX {
            let (what, need) = (format!("the chat template {origin}"), source.len() as u64);
            return Err(Error::Limit { what, need, have: SOURCE_MAX as u64 });
        }
        let template = ChatTemplate { renderer, source: source.to_owned(), origin, special, now };
        match template.answer(None) {
            Ok(_) => Ok(template),
            Err(e) => Err(Error::input(format!("the chat template {} is not valid: {e}", template.origin))),
        }
    }

    /// The text of a conversation, with the begin of the assistant's turn if `add_generation_prompt`; `tools` is a list
    /// of what the model may call. It has the text of every message, in the form that the template takes (`forms`).
    ///
    /// # Errors
    /// [`Error::Input`] if the template refuses the conversation, leaves out a message, fails or exceeds its limits.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool, tools: Option<&Json>) -> Result<String> {
        let ask = Ask { messages: Cow::Borrowed(messages), add_generation_prompt, tools: tools.map(Cow::Borrowed) };
        let text = self.answer(Some(ask));
        text.map_err(|e| Error::input(format!("the chat template {} fails on this conversation: {e}", self.origin)))
    }

    fn answer(&self, ask: Option<Ask<'_>>) -> Result<String, String> {
        let (source, special) = (Cow::Borrowed(&*self.source), Cow::Borrowed(&self.special));
        self.renderer.answer(&Request { source, special, now: self.now, ask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_json() {
        let text = r#"[{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[{"name":"f"}]}]"#;
        let messages: Vec<Message> = serde_json::from_str(text).unwrap();
        assert_eq!((&messages[0], messages[1].role()), (&Message::new(USER, "a"), ASSISTANT));
        assert_eq!(serde_json::to_string(&messages).unwrap(), text);
        for bad in [r#"[{"content":"a"}]"#, r#"[{"role":1,"content":"a"}]"#, r#"["a"]"#] {
            assert!(serde_json::from_str::<Vec<Message>>(bad).is_err(), "{bad}");
        }
    }
}
