//! Answers in channels: `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`.
//!
//! Templates of such models take what was thought and what was said in fields of their own.

use super::{ASSISTANT, Message};

const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
/// What ends the text of a channel.
const ENDS: &[&str] = &["<|end|>", "<|start|>", CHANNEL];
/// The channel of what is thought.
const ANALYSIS: &str = "analysis";

/// The message of an answer: the text of the channel `analysis` is its `thinking`, that of the others its `content`. An
/// answer without channels is its content.
pub(super) fn message(answer: &str) -> Message {
    let Some((before, channels)) = answer.split_once(CHANNEL) else { return Message::new(ASSISTANT, answer) };
    let (mut thinking, mut content) = (String::new(), before.to_owned());
    for channel in channels.split(CHANNEL) {
        // One that was interrupted in its head has no text.
        let Some((head, text)) = channel.split_once(MESSAGE) else { continue };
        let end = ENDS.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len());
        let part = if head.trim_start().starts_with(ANALYSIS) { &mut thinking } else { &mut content };
        part.push_str(&text[..end]);
    }
    let mut message = Message::new(ASSISTANT, content);
    if !thinking.is_empty() {
        message.0.insert("thinking".into(), thinking.into());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    #[test]
    fn what_is_said_and_thought() {
        #[track_caller]
        fn check(answer: &str, want: Json) {
            assert_eq!(serde_json::to_value(message(answer)).unwrap(), want, "{answer}");
        }
        let said = |content: &str| json!({"role": "assistant", "content": content});
        let both =
            |content: &str, thinking: &str| json!({"role": "assistant", "content": content, "thinking": thinking});
        check("plain <|message|> text", said("plain <|message|> text"));
        check("<|channel|>final<|message|>a\nb", said("a\nb"));
        check("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>a", both("a", "hm"));
        check(
            "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>analysis<|message|>y<|end|><|start|>assistant<|channel|>commentary to=f <|constrain|>json<|message|>{}",
            both("{}", "xy"),
        );
        check("<|channel|>analysis<|message|>cut", both("", "cut"));
        check("<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>fin", both("", "x"));
    }
}
