//! A conversation and what of it the KV cache holds.
//!
//! Each turn renders all messages anew; of the tokens, those that the executor's states already hold at their place stay
//! there, and only the rest is processed. A model with recurrent states leaves a checkpoint where the messages end, as what
//! follows, the beginning of an answer and the answer itself, is often rendered another way in the next turn. Text of messages
//! becomes no control token. Invariant: the tokens that the states hold are those of `cached`.

use super::{ChatTemplate, Message, channels};
use crate::Executor;
use crate::error::{Error, Result};
use crate::generate::{self, Generation, StopReason, Watch};
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;
use serde_json::Value as Json;

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
    pub fn reply(
        &mut self,
        message: Message,
        executor: &mut Executor,
        tokenizer: &Tokenizer,
        sampler: &mut Sampler,
        options: &generate::Options,
        watch: &mut Watch<'_>,
    ) -> Result<Reply> {
        self.messages.push(message);
        let result = self.answer(executor, tokenizer, sampler, options, watch);
        match &result {
            Ok(Reply { generation, .. }) if said_something(generation) => {
                self.messages.push(channels::message(tokenizer.without_prefix(&generation.text)));
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
        watch: &mut Watch<'_>,
    ) -> Result<Reply> {
        let mark = unused_mark(&self.messages);
        let guarded = guarded(&self.messages, tokenizer, mark);
        let text = self.template.render(&guarded, true, None)?;
        let have = executor.context();
        // Text that cannot fit takes much memory until its tokens can be counted.
        let prompt_ids = match tokenizer.fewest(text.len()) {
            fewest if fewest > have => Err(fewest),
            _ => Ok(tokenizer.encode_rendered(&text, mark)?),
        };
        let prompt_ids = prompt_ids.and_then(|ids| if ids.len() > have { Err(ids.len()) } else { Ok(ids) });
        let prompt_ids = prompt_ids.map_err(|need| Error::Limit {
            what: "the conversation with this message".into(),
            need: need as u64,
            have: have as u64,
        })?;
        let need = prompt_ids.len();
        let alike = self.cached.iter().zip(&prompt_ids).take_while(|(a, b)| a == b).count();
        // The last token is always processed: it gives the logits.
        let kept = executor.set_position(alike.min(need.saturating_sub(1)))?;
        self.cached.truncate(kept);
        if executor.needs_checkpoints() {
            executor.checkpoint_at(self.lasting(&guarded, tokenizer, mark, &prompt_ids).min(need.saturating_sub(1)));
        }
        let new = prompt_ids.get(kept..).unwrap_or_default();
        match generate::generate(executor, tokenizer, sampler, new, options, watch) {
            Ok(generation) => {
                self.cached.extend(new.iter().chain(&generation.ids));
                // The last token generated is not in the cache, nor the rest of an interrupted prompt.
                self.cached.truncate(executor.position());
                Ok(Reply { prompt_ids, generation })
            }
            Err(e) => {
                let kept = executor.set_position(kept).unwrap_or(0);
                self.cached.truncate(kept);
                Err(e)
            }
        }
    }

    /// How many tokens of the prompt are those of the `guarded` messages, without the beginning of an answer; 0 if the template does not
    /// say.
    fn lasting(&self, guarded: &[Message], tokenizer: &Tokenizer, mark: char, prompt_ids: &[u32]) -> usize {
        let text = self.template.render(guarded, false, None);
        let ids = text.and_then(|text| tokenizer.encode_rendered(&text, mark));
        ids.map_or(0, |ids| ids.iter().zip(prompt_ids).take_while(|(a, b)| a == b).count())
    }
}

/// Whether an answer is to be kept: an empty one is, if the model itself ended it.
fn said_something(generation: &Generation) -> bool {
    !generation.ids.is_empty() || generation.stop_reason != StopReason::Interrupted
}

/// The first of the characters that no text is supposed to have which none of these messages has.
fn unused_mark(messages: &[Message]) -> char {
    let used = |mark: char| messages.iter().any(|m| m.0.values().any(|value| contains(value, mark)));
    ('\u{fdd0}'..='\u{fdef}').chain('\u{e000}'..='\u{f8ff}').find(|mark| !used(*mark)).unwrap_or('\u{fdd0}')
}

fn contains(value: &Json, mark: char) -> bool {
    match value {
        Json::String(text) => text.contains(mark),
        Json::Array(values) => values.iter().any(|value| contains(value, mark)),
        Json::Object(fields) => fields.values().any(|value| contains(value, mark)),
        _ => false,
    }
}

/// The messages with every text but a role guarded: what a message spells is text, and only the template writes structure.
fn guarded(messages: &[Message], tokenizer: &Tokenizer, mark: char) -> Vec<Message> {
    let mut guarded = messages.to_vec();
    for message in &mut guarded {
        message.0.iter_mut().filter(|(key, _)| *key != "role").for_each(|(_, value)| guard(value, tokenizer, mark));
    }
    guarded
}

fn guard(value: &mut Json, tokenizer: &Tokenizer, mark: char) {
    match value {
        Json::String(text) => *text = tokenizer.guard(text, mark),
        Json::Array(values) => values.iter_mut().for_each(|value| guard(value, tokenizer, mark)),
        Json::Object(fields) => {
            // The kind of a part is a word that the template compares, as a role is.
            fields.iter_mut().filter(|(key, _)| *key != "type").for_each(|(_, value)| guard(value, tokenizer, mark));
        }
        _ => {}
    }
}
