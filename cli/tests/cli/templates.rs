//! Chat templates that are hostile: what they cost is bounded, and their end is a reason.

use runtime::chat::{ChatTemplate, DateTime, Message, Renderer, SpecialTexts};
use std::time::{Duration, Instant};

const NOW: DateTime = DateTime { year: 2026, month: 11, day: 22, hour: 12, minute: 0, second: 0 };

fn render(source: &str, messages: &[Message]) -> runtime::Result<String> {
    let renderer = Renderer::new(env!("CARGO_BIN_EXE_rigc"), ["--render-chat-template"]);
    let template = ChatTemplate::from_text(source, "'t.jinja'", SpecialTexts::default(), NOW, renderer)?;
    template.render(messages, true, None)
}

fn messages() -> Vec<Message> {
    vec![Message::new("user", "u"), Message::new("assistant", "a")]
}

/// A template that ends in an error of one line, soon.
#[track_caller]
fn check(source: &str) {
    let (start, name) = (Instant::now(), source.chars().take(80).collect::<String>());
    let error = render(source, &messages()).expect_err(&name).to_string();
    assert!(error.contains("'t.jinja'") && error.lines().count() == 1 && error.len() < 600, "{name}: {error}");
    assert!(!error.contains("--render-chat-template") && !error.contains("ended with"), "{name}: {error}");
    assert!(start.elapsed() < Duration::from_secs(60), "{name}: {:?}", start.elapsed());
}

/// Values that hold themselves, or are as deep as the limit on work lets them be.
#[test]
fn depth() {
    let own = "{% set ns = namespace() %}{% set ns.x = ns %}";
    for show in [
        "{{ ns }}",
        "{{ ns | tojson }}",
        "{{ ns ~ '' }}",
        "{{ [ns] | join }}",
        "{{ ns | upper }}",
        "{{ '{}'.format(ns) }}",
        "{{ raise_exception(ns) }}",
    ] {
        check(&format!("{own}{show}"));
    }
    for show in ["{{ ns.x }}", "{{ ns.x | tojson }}", "{{ [ns.x, ns.x] | sort }}"] {
        for wrap in ["[ns.x]", "{'k': ns.x}"] {
            let nest = format!("{{% for a in range(90000) %}}{{% set ns.x = {wrap} %}}{{% endfor %}}");
            // It leaves out the messages where it does not fail before.
            check(&format!("{{% set ns = namespace(x=[]) %}}{nest}{show}"));
        }
    }
}

/// Sources that nest, or seem to.
#[test]
fn sources() {
    for (open, middle, close, n) in [
        ("{{ ", "-", "1 }}", 300_000),
        ("{{ ", "not ", "1 }}", 200_000),
        ("{{ 1", "+1", " }}", 300_000),
        ("{{ 'a'", "~'a'", " }}", 200_000),
        ("{{ 1", " and 1", " }}", 150_000),
        ("{{ 2", "**1", " }}", 300_000),
        ("{{ a", ".a", " }}", 400_000),
        ("{{ a", "[0]", " }}", 300_000),
        ("{{ a", "|upper", " }}", 150_000),
        ("{{ a", "()", " }}", 400_000),
        ("{{ ", "(", "", 900_000),
        ("", "{% if true %}", "", 70_000),
        ("{% if a %}", "{% elif a %}", "{% endif %}", 80_000),
    ] {
        check(&format!("{open}{}{close}", middle.repeat(n)));
    }
}

/// Work and memory without end.
#[test]
fn work_and_memory() {
    let doubled = format!("{{% set ns = namespace(x='ab') %}}{}", "{% set ns.x = ns.x ~ ns.x %}".repeat(60));
    let pairs = format!("{{% set ns = namespace(x=[1]) %}}{}", "{% set ns.x = [ns.x, ns.x] %}".repeat(60));
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ messages[0].content * 1000 }}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% for a in range(10**9) %}{% endfor %}",
        "{{ '{:>100000000000000}'.format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{% set a = 'x' * 100000 %}{% set b = a.replace('x', a) %}{{ b | length }}",
        "{% set a = 'x' * 100000 %}{% set b = a.join(a | list) %}{{ b | length }}",
        &doubled,
        &format!("{pairs}{{{{ ns.x }}}}"),
        &format!("{pairs}{{{{ ns.x | tojson }}}}"),
        &format!("{pairs}{{% set ns.y = ns.x == [ns.x[0], ns.x[1]] %}}{{{{ [ns.x, ns.x] | sort | length }}}}"),
    ] {
        check(source);
    }
}

/// What a long conversation needs is not refused.
#[test]
fn a_long_conversation() {
    let long = vec![Message::new("user", "word ".repeat(4_000_000))];
    let source = "{% for m in messages %}{{ m.role + ': ' + m.content | trim }}{% endfor %}";
    assert_eq!(render(source, &long).unwrap().len(), 20_000_000 + 5);
}
