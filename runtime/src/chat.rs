//! Chat templates: a conversation becomes the text that the model was trained on.
//!
//! A template is a Jinja program from the GGUF header or from a file; it is rendered as Hugging Face's renderer does.
//! Invariant: a missing template and one that fails are errors, and no other format is ever used in its place. A
//! template is not trusted: rendering has limits on work, memory and recursion. Next hop:
//! `conversation` has a model answer.

mod clock;
mod conversation;
mod json;
mod methods;

pub use clock::DateTime;
pub use conversation::{Conversation, Reply};

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use ir::gguf::Metadata;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::fmt::Write;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// The metadata key of a model's template.
pub const KEY: &str = "tokenizer.chat_template";
/// Longest source, in bytes.
const SOURCE_MAX: usize = 1 << 20;
/// Deepest nesting of calls and blocks while rendering.
const RECURSION_MAX: usize = 120;
/// Work for a render of an empty conversation: one for each instruction and for each 64 bytes made. A conversation adds
/// one for each of its bytes, so that it may be copied 64 times, up to [`FUEL_MAX`].
const FUEL: u64 = 1_000_000;
const FUEL_MAX: u64 = 4_000_000;
/// Stack for a render, for each fuel: what a template can nest in values costs it fuel, and values are shown and dropped
/// by recursion.
const STACK_PER_FUEL: u64 = 256;

/// Longest time for a render.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Most bytes of a value that is shown.
const BYTES_MAX: usize = 16 << 20;

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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
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

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Where it is from, for messages.
    origin: String,
    special: SpecialTexts,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("origin", &self.origin).field("special", &self.special).finish()
    }
}

/// The only template of an environment.
const NAME: &str = "chat template";

impl ChatTemplate {
    /// The template of a GGUF header.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none, and as [`ChatTemplate::from_text`].
    pub fn from_metadata(metadata: &Metadata, special: SpecialTexts, now: DateTime) -> Result<Self> {
        let Some(source) = metadata.opt_str(KEY)? else {
            return Err(Error::input(format!(
                "the model has no chat template ({KEY}); give one with --template, or leave out --chat"
            )));
        };
        Self::from_text(source, "of the model", special, now)
    }

    /// A template from its source; `origin` says in messages where it is from, and `now` what it takes for the time.
    ///
    /// # Errors
    /// [`Error::Input`] if it is no template or too long.
    pub fn from_text(source: &str, origin: impl Into<String>, special: SpecialTexts, now: DateTime) -> Result<Self> {
        let origin = origin.into();
        if source.len() > SOURCE_MAX {
            let (what, need) = (format!("the chat template {origin}"), source.len() as u64);
            return Err(Error::Limit { what, need, have: SOURCE_MAX as u64 });
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| Error::input(reason(&e)))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_formatter(show);
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_debug(false);
        environment.set_unknown_method_callback(methods::call);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |what: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        environment.add_function("strftime_now", move |format: String| now.format(&format));
        // Jinja takes every kind of line end for the same.
        let source = without_training_marks(&source.replace("\r\n", "\n").replace('\r', "\n"));
        if let Err(e) = environment.add_template_owned(NAME, source) {
            return Err(Error::input(format!("the chat template {origin} is not valid: {}", reason(&e))));
        }
        Ok(ChatTemplate { environment, origin, special })
    }

    /// The text of a conversation, with the begin of the assistant's turn if `add_generation_prompt`; `tools` is a list
    /// of what the model may call.
    ///
    /// # Errors
    /// [`Error::Input`] if the template refuses the conversation, fails or exceeds its limits.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool, tools: Option<&Json>) -> Result<String> {
        #[derive(Serialize)]
        struct Variables<'a> {
            messages: &'a [Message],
            add_generation_prompt: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            tools: Option<&'a Json>,
            #[serde(flatten)]
            special: &'a SpecialTexts,
        }
        let variables = Variables { messages, add_generation_prompt, tools, special: &self.special };
        let bytes = serde_json::to_vec(&variables).map_or(0, |json| json.len());
        let text =
            render(self.environment.clone(), Value::from(Serde(&variables)), (FUEL + bytes as u64).min(FUEL_MAX));
        text.map_err(|e| Error::input(format!("the chat template {} fails on this conversation: {e}", self.origin)))
    }
}

/// Renders in a thread of its own, with a stack that fits the fuel. After [`TIME_MAX`] the thread is left to itself: what
/// compares and shows values that share parts counts its work only when it is done.
fn render(mut environment: Environment<'static>, variables: Value, fuel: u64) -> Result<String, String> {
    environment.set_fuel(Some(fuel));
    let (sender, receiver) = std::sync::mpsc::channel();
    let work = move || {
        let text = environment.get_template(NAME).and_then(|t| t.render(variables));
        // Nobody listens any more after the time is up.
        let _ = sender.send(text.map_err(|e| reason(&e)));
    };
    let stack = usize::try_from(fuel * STACK_PER_FUEL).unwrap_or(usize::MAX);
    let thread = std::thread::Builder::new().stack_size(stack).spawn(work);
    let thread = thread.map_err(|e| format!("a thread for it cannot start ({e})"))?;
    let text = receiver.recv_timeout(TIME_MAX);
    if text != Err(RecvTimeoutError::Timeout) {
        // Its memory is free again.
        let _ = thread.join();
    }
    text.unwrap_or_else(|e| match e {
        RecvTimeoutError::Timeout => Err("it takes too much time".into()),
        RecvTimeoutError::Disconnected => Err("its renderer failed".into()),
    })
}

/// Writes a value as it is; of one that shares parts, not more than [`BYTES_MAX`].
fn show(out: &mut minijinja::Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), minijinja::Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None if value.is_number() && !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) if number.is_finite() => out.write_str(&json::number(number)),
            _ => write!(out, "{value}"),
        },
        None => write!(Bounded { out, left: BYTES_MAX }, "{value}"),
    };
    written.map_err(|_| ErrorKind::OutOfFuel.into())
}

/// A writer that fails after so many bytes.
struct Bounded<'a, 'o> {
    out: &'a mut minijinja::Output<'o>,
    left: usize,
}

impl std::fmt::Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(std::fmt::Error)?;
        self.out.write_str(text)
    }
}

/// The source with `{% generation %}`, which marks what to train on, as a block without effect.
fn without_training_marks(source: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some((before, after)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        rest = after;
        let Some((tag, _)) = after.split_once("%}") else { break };
        let block = match tag.trim_matches(['-', '+']).trim() {
            "generation" => tag.replace("generation", " if true "),
            "endgeneration" => tag.replace("endgeneration", " endif "),
            _ => continue,
        };
        out.push_str(&block);
        rest = &after[tag.len()..];
    }
    out + rest
}

/// What went wrong, in a line.
fn reason(error: &minijinja::Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes too much work or memory".into(),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime = DateTime { year: 2026, month: 11, day: 22, hour: 12, minute: 0, second: 0 };

    fn template(source: &str) -> Result<ChatTemplate> {
        let special = SpecialTexts { bos_token: Some("<s>".into()), ..SpecialTexts::default() };
        ChatTemplate::from_text(source, "'t.jinja'", special, NOW)
    }

    fn messages() -> Vec<Message> {
        vec![Message::new("user", "a <b> & 'c'"), Message::new("assistant", "x\"y\u{e9}")]
    }

    #[test]
    fn renders() {
        #[track_caller]
        fn check(source: &str, want: &str) {
            let tools = serde_json::json!([{"name": "f", "n": [1, 2.5, null, true], "a": {}}]);
            assert_eq!(template(source).unwrap().render(&messages(), true, Some(&tools)).unwrap(), want);
        }
        check("{{ bos_token }}{{ eos_token }}|{{ messages | length }}", "<s>|2");
        check(
            "{% for m in messages %}\n  {{ m.role }}: {{ m['content'] }}\n{% endfor %}\n",
            "  user: a <b> & 'c'\n  assistant: x\"y\u{e9}\n",
        );
        check("{{ tools[0] | tojson }}", r#"{"name": "f", "n": [1, 2.5, null, true], "a": {}}"#);
        check("{{ [1, {'k': 'v'}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"k\": \"v\"\n  }\n]");
        check(
            "{{ messages | tojson }}",
            "[{\"role\": \"user\", \"content\": \"a <b> & 'c'\"}, {\"role\": \"assistant\", \"content\": \"x\\\"y\u{e9}\"}]",
        );
        check("{{ [1e16, 0.5, -0.0, 1e-5] | tojson(separators=(',', ':')) }}", "[1e+16,0.5,-0.0,1e-05]");
        check(
            "{{ {'b': [], 'a': '\u{e9}\u{1f600}'} | tojson(ensure_ascii=true, sort_keys=true) }}",
            r#"{"a": "\u00e9\ud83d\ude00", "b": []}"#,
        );
        check("{{ 1.5 }}|{{ 1e-7 }}|{{ 1e20 }}|{{ 2.0 }}", "1.5|1e-07|1e+20|2.0");
        check("a\r\n{% if true %}\r\nb{% endif %}", "a\nb");
        check(
            "{{ 'a-b-c'.rsplit('-', 1) }}{{ 'a-b-c'.rpartition('-') | join }}{{ 'a-b'.partition('+') | join('|') }}",
            "['a-b', 'c']a-b-ca-b||",
        );
        check("{{ 'a-b'.removeprefix('a-') }}{{ 'a-b'.removesuffix('-b') }}{{ 'a b'.split() }}", "ba['a', 'b']");
        check("a {%- generation -%}\n x{% endgeneration %} {% raw %}{%{% endraw %}", "ax {%");
        check("{{ strftime_now('%d %b %Y') }}", "22 Nov 2026");
        check(
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
            "assistant",
        );
        check(
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        );
        check(
            "{% if messages[0].content.startswith('a ') and messages[0].content is string %}{{ ' x '.strip() }}{% endif %}",
            "x",
        );
        check("{% if add_generation_prompt and not documents %}{{ '<|a|>' }}{% endif %}", "<|a|>");
    }

    #[test]
    fn refuses() {
        #[track_caller]
        fn check(source: &str, want: &str) {
            let text = template(source).and_then(|t| t.render(&messages(), true, None));
            let error = text.expect_err(want).to_string();
            assert!(error.contains("'t.jinja'") && error.contains(want), "`{error}` does not say `{want}`");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        check("{% for %}", "is not valid");
        check("{{ raise_exception('Only one role\\nhere') }}", "Only one role here");
        check("{{ messages.nothing() }}", "(line 1)");
        check("{% include 'other' %}", "fails on this conversation");
        check(&" ".repeat(SOURCE_MAX + 1), "1048577");
        let error = ChatTemplate::from_metadata(&Metadata::new(), SpecialTexts::default(), NOW).unwrap_err();
        assert!(error.to_string().contains("no chat template (tokenizer.chat_template)"), "{error}");
    }

    /// Templates that would take time, memory or stack without end.
    #[test]
    fn limits() {
        let doubled = format!("{{% set ns = namespace(x='ab') %}}{}", "{% set ns.x = ns.x ~ ns.x %}".repeat(60));
        let nested = format!(
            "{{% set ns = namespace(x=[1]) %}}{}{{{{ ns.x | tojson }}}}",
            "{% set ns.x = [ns.x, ns.x] %}".repeat(60)
        );
        let shown = nested.replace(" | tojson", "");
        let deep = format!("{}1{}", "{% if true %}".repeat(10_000), "{% endif %}".repeat(10_000));
        let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
        for source in [
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
            "{% for a in range(100000) %}{{ messages[0].content * 1000 }}{% endfor %}",
            "{{ 'x' * 1000000000 }}",
            "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{% for a in range(10**9) %}{% endfor %}",
            "{% set ns = namespace(x=[]) %}{% for a in range(10**5) %}{% for b in range(10**5) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}",
            &doubled,
            &nested,
            &shown,
            &deep,
            &parentheses,
        ] {
            let start = std::time::Instant::now();
            let text = template(source).and_then(|t| t.render(&messages(), true, None));
            let name: String = source.chars().take(60).collect();
            assert!(text.is_err(), "{name}");
            assert!(start.elapsed().as_secs() < 5, "{name}: {:?}", start.elapsed());
        }
    }

    /// Values as deep as fuel allows are shown and dropped.
    #[test]
    fn deep_values() {
        for show in ["ns.x", "ns.x | tojson", "[ns.x, ns.x] | sort"] {
            for wrap in ["[ns.x]", "{'k': ns.x}", "(ns.x,)"] {
                let nest = format!("{{% for a in range(90000) %}}{{% set ns.x = {wrap} %}}{{% endfor %}}");
                let source = format!("{{% set ns = namespace(x=[]) %}}{nest}{{{{ {show} }}}}");
                // A text or an error, but no crash.
                let _ = template(&source).and_then(|t| t.render(&messages(), true, None));
            }
        }
    }

    #[test]
    fn a_long_conversation_has_work_to_match() {
        let long = vec![Message::new("user", "word ".repeat(4_000_000))];
        let t = template("{% for m in messages %}{{ m.role + ': ' + m.content | trim }}{% endfor %}").unwrap();
        assert_eq!(t.render(&long, true, None).unwrap().len(), 20_000_000 + 5);
    }

    #[test]
    fn messages_as_json() {
        let text = r#"[{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[{"name":"f"}]}]"#;
        let messages: Vec<Message> = serde_json::from_str(text).unwrap();
        assert_eq!((&messages[0], messages[1].role()), (&Message::new(USER, "a"), ASSISTANT));
        assert_eq!(serde_json::to_string(&messages).unwrap(), text);
        for bad in [r#"[{"content":"a"}]"#, r#"[{"role":1,"content":"a"}]"#, r#"["a"]"#] {
            assert!(serde_json::from_str::<Vec<Message>>(bad).is_err(), "{bad}");
        }
        let t = template("{{ messages[1].tool_calls[0].name }}{% if messages[0].tool_calls %}x{% endif %}").unwrap();
        assert_eq!(t.render(&messages, false, None).unwrap(), "f");
    }
}
