//! A conversation and what of it the KV cache holds.
//!
//! Each turn renders all messages anew; of the tokens, those that the cache already holds at their place stay there,
//! and only the rest is processed. Invariant: the cache's tokens are those of `cached`.

use super::{ASSISTANT, ChatTemplate, Message};
use crate::Executor;
use crate::error::{Error, Result};
use crate::generate::{self, Generation, StopReason};
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;
use std::sync::atomic::AtomicBool;

/// Messages, the template that renders them, and what the executor has seen of them.
#[derive(Debug)]
pub struct Conversation {
    template: ChatTemplate,
    messages: Vec<Message>,
    cached: Vec<u32>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Tokens of the whole conversation up to the answer.
    pub prompt_ids: Vec<u32>,
    /// The answer; its timings count only what was not in the cache.
    pub generation: Generation,
}

impl Conversation {
    /// Begins with `messages`, on an executor that holds nothing.
    pub fn new(template: ChatTemplate, messages: Vec<Message>) -> Self {
        Conversation { template, messages, cached: Vec::new() }
    }

    /// What was said so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Goes on from other messages; the cache is used as far as they begin alike.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
    }

    /// Has the model answer `message`. Both are then part of the conversation, an interrupted answer as far as it came;
    /// without a single token of an answer, and after an error, neither is.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render`] and [`generate::generate`]; [`Error::Limit`] if the conversation does not fit
    /// in the context, before anything is computed.
    #[expect(clippy::too_many_arguments, reason = "those of `generate`, and the message")]
    pub fn reply(
        &mut self,
        message: Message,
        executor: &mut Executor,
        tokenizer: &Tokenizer,
        sampler: &mut Sampler,
        options: &generate::Options,
        on_text: &mut dyn FnMut(&str),
        interrupted: &AtomicBool,
    ) -> Result<Reply> {
        self.messages.push(message);
        let result = self.answer(executor, tokenizer, sampler, options, on_text, interrupted);
        match &result {
            Ok(Reply { generation, .. }) if said_something(generation) => {
                self.messages.push(Message::new(ASSISTANT, tokenizer.without_prefix(&generation.text)));
            }
            _ => drop(self.messages.pop()),
        }
        result
    }

    fn answer(
        &mut self,
        executor: &mut Executor,
        tokenizer: &Tokenizer,
        sampler: &mut Sampler,
        options: &generate::Options,
        on_text: &mut dyn FnMut(&str),
        interrupted: &AtomicBool,
    ) -> Result<Reply> {
        let prompt_ids = tokenizer.encode_rendered(&self.template.render(&self.messages, true, None)?);
        let (need, have) = (prompt_ids.len(), executor.context());
        if need > have {
            return Err(Error::Limit {
                what: "the conversation with this message".into(),
                need: need as u64,
                have: have as u64,
            });
        }
        let alike = self.cached.iter().zip(&prompt_ids).take_while(|(a, b)| a == b).count();
        // The last token is always processed: it gives the logits.
        let kept = alike.min(need.saturating_sub(1));
        executor.set_position(kept)?;
        self.cached.truncate(kept);
        let new = prompt_ids.get(kept..).unwrap_or_default();
        match generate::generate(executor, tokenizer, sampler, new, options, on_text, interrupted) {
            Ok(generation) => {
                self.cached.extend(new.iter().chain(&generation.ids));
                // The last token generated is not in the cache, nor the rest of an interrupted prompt.
                self.cached.truncate(executor.position());
                Ok(Reply { prompt_ids, generation })
            }
            Err(e) => {
                executor.set_position(kept)?;
                Err(e)
            }
        }
    }
}

/// Whether an answer is to be kept: an empty one is, if the model itself ended it.
fn said_something(generation: &Generation) -> bool {
    !generation.ids.is_empty() || generation.stop_reason != StopReason::Interrupted
}
