//! Templates as programs: compiles and renders one as Hugging Face's renderer does.
//!
//! Invariant: rendering has limits on work and recursion. They do not bound memory, nor the stack that compiling and
//! showing values take: what is not trusted is rendered in a process of its own, by `renderer`.

use super::{DateTime, Message, SpecialTexts, clock, json, methods};
use ir::quote;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value as Json;
use std::fmt::Write;

/// Deepest nesting of calls and blocks while rendering.
const RECURSION_MAX: usize = 120;
/// Work for a render of an empty conversation: one for each instruction and for each 64 bytes made. A conversation adds
/// one for each of its bytes, so that it may be copied 64 times, up to [`FUEL_MAX`].
const FUEL: u64 = 1_000_000;
const FUEL_MAX: u64 = 4_000_000;
/// Most characters of what a template or its compiler says.
const REASON_MAX: usize = 300;
/// Most bytes of a value that is shown.
pub(super) const BYTES_MAX: usize = 16 << 20;

/// A compiled template.
pub struct Program(Environment<'static>);

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

/// The only template of an environment.
const NAME: &str = "chat template";

/// What a template is rendered with.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Variables<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// Whether the text ends with the begin of the assistant's turn.
    pub add_generation_prompt: bool,
    /// A list of what the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<&'a Json>,
    /// Texts of special tokens.
    #[serde(flatten)]
    pub special: &'a SpecialTexts,
}

impl Program {
    /// Compiles a source; `now` is what it takes for the time.
    ///
    /// # Errors
    /// Why it is no template, in a line.
    pub fn new(source: &str, now: DateTime) -> Result<Program, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| reason(&e))?);
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
        environment.add_function("strftime_now", move |format: String| clock::format(&now, &format));
        // Jinja takes every kind of line end for the same.
        let source = without_training_marks(&source.replace("\r\n", "\n").replace('\r', "\n"));
        environment.add_template_owned(NAME, source).map_err(|e| reason(&e))?;
        Ok(Program(environment))
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// Why the template refuses the conversation or fails, in a line.
    pub fn render(&mut self, variables: &Variables<'_>) -> Result<String, String> {
        let bytes = serde_json::to_vec(variables).map_or(0, |json| json.len());
        self.0.set_fuel(Some((FUEL + bytes as u64).min(FUEL_MAX)));
        let template = self.0.get_template(NAME).map_err(|e| reason(&e))?;
        template.render(Value::from(Serde(variables))).map_err(|e| reason(&e))
    }
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
    quote::plain(&text, REASON_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime = DateTime { year: 2026, month: 11, day: 22, hour: 12, minute: 0, second: 0 };

    fn render(source: &str, messages: &[Message], tools: Option<&Json>) -> Result<String, String> {
        let special = SpecialTexts { bos_token: Some("<s>".into()), ..SpecialTexts::default() };
        let variables = Variables { messages, add_generation_prompt: true, tools, special: &special };
        Program::new(source, NOW)?.render(&variables)
    }

    fn messages() -> Vec<Message> {
        vec![Message::new("user", "a <b> & 'c'"), Message::new("assistant", "x\"y\u{e9}")]
    }

    #[test]
    fn renders() {
        #[track_caller]
        fn check(source: &str, want: &str) {
            let tools = serde_json::json!([{"name": "f", "n": [1, 2.5, null, true], "a": {}}]);
            assert_eq!(render(source, &messages(), Some(&tools)).unwrap(), want);
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
            let error = render(source, &messages(), None).expect_err(want);
            assert!(error.contains(want) && error.lines().count() == 1, "`{error}` does not say `{want}`");
        }
        check("{% for %}", "unexpected end of block");
        check("{{ raise_exception('Only one role\nhere\x1b[2J') }}", "Only one role\\nhere\\u{1b}[2J (line 1)");
        check("{{ raise_exception('x' * 100000) }}", "x…x");
        check("{{ messages.nothing() }}", "(line 1)");
        check("{% include 'other' %}", "(line 1)");
        check("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "too much work");
        check("{{ 'x' * 1000000000 }}", "too much work");
        check("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion");
    }

    #[test]
    fn a_long_conversation_has_work_to_match() {
        let long = vec![Message::new("user", "word ".repeat(4_000_000))];
        let text = render("{% for m in messages %}{{ m.role + ': ' + m.content | trim }}{% endfor %}", &long, None);
        assert_eq!(text.unwrap().len(), 20_000_000 + 5);
    }
}
