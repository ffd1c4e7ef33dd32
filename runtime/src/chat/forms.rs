//! The form in which a template takes messages.
//!
//! Templates differ in what they read: the content as a text or as a list of parts, and a system message or none. What
//! does not suit a template, it leaves out without a word. So the conversation is rendered with a mark in the place of
//! each text first. Invariant: the text that comes out has each message in it, in the first form that keeps them all.

use super::jinja::{Program, Variables};
use super::renderer::Ask;
use super::{Message, SYSTEM, SpecialTexts, USER};
use ir::quote::quoted;
use serde_json::{Map, Value as Json, json};

/// The text of a conversation.
///
/// # Errors
/// Why the template fails on it as it is, or which message it leaves out in every form.
pub fn render(program: &mut Program, ask: &Ask<'_>, special: &SpecialTexts) -> Result<String, String> {
    let tools = ask.tools.as_deref().filter(|tools| tools.as_array().is_none_or(|list| !list.is_empty()));
    let given = Variables {
        messages: &ask.messages,
        add_generation_prompt: ask.add_generation_prompt,
        tools: ask.tools.as_deref(),
        special,
    };
    let mut why = None;
    for messages in forms(&ask.messages) {
        let variables = Variables { messages: &messages, ..given };
        match keeps_all(program, &variables) {
            Ok(()) => {
                let text = program.render(&variables)?;
                if tools.is_some() && program.render(&Variables { tools: None, ..variables })? == text {
                    return Err("it leaves out the tools".into());
                }
                return Ok(text);
            }
            // Said of the messages as they are: the user knows no other form.
            Err(reason) => _ = why.get_or_insert(reason),
        }
    }
    // What fails on the marks may say more of the texts.
    program.render(&given).and(Err(why.unwrap_or_default()))
}

/// A conversation in every form that has the same texts, first as it is.
fn forms(given: &[Message]) -> Vec<Vec<Message>> {
    let mut forms: Vec<Vec<Message>> = Vec::new();
    let mut add = |messages: Vec<Message>| {
        if !forms.contains(&messages) {
            forms.push(messages);
        }
    };
    let contents: [fn(&Message) -> Message; 3] = [Message::clone, in_parts, in_one_text];
    for content in contents {
        let messages: Vec<Message> = given.iter().map(content).collect();
        let folded = system_in_first_user(&messages);
        add(messages);
        folded.map(&mut add);
    }
    forms
}

impl Message {
    fn content(&self) -> Option<&Json> {
        self.0.get("content")
    }

    fn with_content(&self, content: Json) -> Message {
        let mut message = self.clone();
        message.0.insert("content".into(), content);
        message
    }

    /// The text, if the content is nothing but text.
    fn text(&self) -> Option<String> {
        match self.content()? {
            Json::String(text) => Some(text.clone()),
            Json::Array(parts) => {
                let texts: Option<Vec<&str>> = parts.iter().map(|p| part_text(p.as_object()?)).collect();
                Some(texts?.join("\n"))
            }
            _ => None,
        }
    }
}

/// The text of a part that is one.
fn part_text(part: &Map<String, Json>) -> Option<&str> {
    part.get("text").filter(|_| part.get("type").is_some_and(|t| t == "text"))?.as_str()
}

fn in_parts(message: &Message) -> Message {
    match message.content() {
        Some(Json::String(text)) => message.with_content(json!([{"type": "text", "text": text}])),
        _ => message.clone(),
    }
}

fn in_one_text(message: &Message) -> Message {
    message.text().map_or_else(|| message.clone(), |text| message.with_content(text.into()))
}

/// The conversation without the system message that it begins with, whose text comes before that of the first message
/// of the user. `None` if it does not begin so.
fn system_in_first_user(messages: &[Message]) -> Option<Vec<Message>> {
    let [system, user, rest @ ..] = messages else { return None };
    if system.role() != SYSTEM || user.role() != USER {
        return None;
    }
    let text = system.text()?;
    let content = match user.content()? {
        Json::String(said) => format!("{text}\n\n{said}").into(),
        Json::Array(parts) => {
            let before = json!({"type": "text", "text": text});
            std::iter::once(before).chain(parts.iter().cloned()).collect()
        }
        _ => return None,
    };
    Some([&[user.with_content(content)], rest].concat())
}

/// What stands for a text.
struct Mark {
    /// The number of its message.
    message: usize,
    /// Whether it is in a list of parts.
    is_part: bool,
    digits: String,
}

impl Mark {
    /// Whether a render has it. A list of parts that is shown as a value has the texts too, after their names.
    fn is_in(&self, text: &str) -> bool {
        let Mark { digits, is_part, .. } = self;
        let shown = *is_part && [": '", ": \""].iter().any(|before| text.contains(&format!("{before}{digits}")));
        text.contains(digits) && !shown
    }
}

/// Whether a render has the text of each message, or which it leaves out, or why there is none.
fn keeps_all(program: &mut Program, variables: &Variables<'_>) -> Result<(), String> {
    let mut marks: Vec<Mark> = Vec::new();
    let mut messages = variables.messages.to_vec();
    for (i, message) in messages.iter_mut().enumerate() {
        // With calls, templates may leave out what is said beside them.
        if message.0.contains_key("tool_calls") {
            continue;
        }
        let mut mark = |text: &mut String, is_part: bool| {
            if !text.trim().is_empty() {
                // Digits, which no change of case changes, and as many for all, so that none begins with another.
                let digits = format!("90271{:08}41", marks.len());
                text.clone_from(&digits);
                marks.push(Mark { message: i, is_part, digits });
            }
        };
        match message.0.get_mut("content") {
            Some(Json::String(text)) => mark(text, false),
            Some(Json::Array(parts)) => {
                for part in parts.iter_mut().filter_map(Json::as_object_mut) {
                    if part_text(part).is_some()
                        && let Some(Json::String(text)) = part.get_mut("text")
                    {
                        mark(text, true);
                    }
                }
            }
            _ => {}
        }
    }
    let text = program.render(&Variables { messages: &messages, ..*variables })?;
    match marks.iter().find(|mark| !mark.is_in(&text)) {
        None => Ok(()),
        Some(Mark { message, .. }) => {
            let role = quoted(variables.messages[*message].role());
            Err(format!("it leaves out message {} of {}, of the role {role}", message + 1, variables.messages.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::DateTime;
    use super::*;
    use std::borrow::Cow;

    fn answer(source: &str, messages: Json, tools: Option<Json>) -> Result<String, String> {
        let now = DateTime { year: 2026, month: 11, day: 22, hour: 12, minute: 0, second: 0 };
        let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
        let ask = Ask { messages: Cow::Owned(messages), add_generation_prompt: false, tools: tools.map(Cow::Owned) };
        render(&mut Program::new(source, now)?, &ask, &SpecialTexts::default())
    }

    #[track_caller]
    fn check(source: &str, messages: Json, want: Result<&str, &str>) {
        match (answer(source, messages, None), want) {
            (Ok(text), Ok(want)) => assert_eq!(text, want),
            (Err(error), Err(want)) => assert!(error.contains(want), "`{error}` does not say `{want}`"),
            (got, want) => panic!("{got:?} instead of {want:?}"),
        }
    }

    const PLAIN: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim | upper }}{% endfor %}";
    const TYPED: &str = "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}";
    const NO_SYSTEM: &str =
        "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}";
    const REFUSES_SYSTEM: &str = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}";
    const LAST: &str = "{{ messages[-1].content }}";
    const THINKING: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{% endfor %}";

    #[test]
    fn a_form_that_keeps_all() {
        let two = || json!([{"role": "system", "content": "S"}, {"role": "user", "content": " u "}]);
        let talk = || json!([{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]);
        let parts =
            || json!([{"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "text", "text": "v"}]}]);
        check(PLAIN, two(), Ok("[system]S[user]U"));
        check(PLAIN, parts(), Ok("[user]U\nV"));
        check(
            "{{ messages | tojson }}",
            talk(),
            Ok(r#"[{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]"#),
        );
        check(TYPED, two(), Ok("[system]S[user] u "));
        check(TYPED, parts(), Ok("[user]uv"));
        check(NO_SYSTEM, two(), Ok("[user]S\n\n u "));
        check(NO_SYSTEM, talk(), Ok("[user]u[assistant]a"));
        check(
            &TYPED.replace("[{{ m.role }}]", "{% if m.role == 'system' %}{% continue %}{% endif %}"),
            two(),
            Ok("S u "),
        );
        check(REFUSES_SYSTEM, two(), Ok("[user]S\n\n u "));
        check(REFUSES_SYSTEM, talk(), Ok("[user]u[assistant]a"));
        check(THINKING, json!([{"role": "assistant", "content": "x</think>y"}]), Ok("[assistant]y"));
        check(THINKING, json!([{"role": "assistant", "content": "x</think>"}]), Ok("[assistant]"));
        check(LAST, json!([{"role": "system", "content": ""}, {"role": "user", "content": "u"}]), Ok("u"));
        check(LAST, two(), Ok("S\n\n u "));
        let calls = json!([{"role": "assistant", "content": "c", "tool_calls": [1]}, {"role": "user", "content": "u"}]);
        check(LAST, calls, Ok("u"));
    }

    #[test]
    fn what_is_left_out_is_named() {
        let talk = || json!([{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]);
        check(LAST, talk(), Err("it leaves out message 1 of 2, of the role 'user'"));
        check("", talk(), Err("it leaves out message 1 of 2"));
        let users = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
        check(users, talk(), Err("it leaves out message 2 of 2, of the role 'assistant'"));
        check(
            users,
            json!([{"role": "user", "content": "u"}, {"role": "tool\u{1b}", "content": "t"}]),
            Err("'tool\\u{1b}'"),
        );
        let late = json!([{"role": "user", "content": "u"}, {"role": "system", "content": "S"}]);
        check(NO_SYSTEM, late, Err("it leaves out message 2 of 2, of the role 'system'"));
        check(REFUSES_SYSTEM, json!([{"role": "assistant", "content": "a"}]), Err("roles must alternate"));
        check("{{ raise_exception(messages[0].content) }}", talk(), Err("u (line 1)"));
        let tools = Some(json!([{"name": "f"}]));
        assert_eq!(answer(PLAIN, talk(), tools.clone()).unwrap_err(), "it leaves out the tools");
        let with_tools = format!("{PLAIN}{{% if tools %}}{{{{ tools[0].name }}}}{{% endif %}}");
        assert_eq!(answer(&with_tools, talk(), tools).unwrap(), "[user]U[assistant]Af");
        assert!(answer(PLAIN, talk(), Some(json!([]))).is_ok());
    }
}
