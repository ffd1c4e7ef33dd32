//! Chat templates of real models against the texts of Hugging Face's renderer.

use runtime::chat::jinja::{Program, Variables};
use runtime::chat::renderer::{Ask, Request};
use runtime::chat::{DateTime, Message, SpecialTexts};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeSet;

#[derive(Deserialize)]
struct Cases {
    now: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    case: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    bos_token: Option<String>,
    eos_token: Option<String>,
    tools: Option<serde_json::Value>,
    expected: Option<String>,
    error: Option<String>,
}

/// From `2026-11-22T12:00:00`.
fn date_time(text: &str) -> DateTime {
    let numbers: Vec<u32> = text.split(['-', 'T', ':']).map(|n| n.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second] = numbers[..] else { panic!("{text} is no time") };
    DateTime { year: year as i32, month, day, hour, minute, second }
}

#[test]
fn cases() {
    let Some(dir) = tests::shared_dir("templates") else { return };
    let Cases { now, cases } = serde_json::from_str(&std::fs::read_to_string(dir.join("cases.json")).unwrap()).unwrap();
    let mut used = BTreeSet::new();
    for case in &cases {
        let place = format!("{}, {}, prompt {}", case.template, case.case, case.add_generation_prompt);
        let source = std::fs::read_to_string(dir.join(&case.template)).unwrap();
        let special = SpecialTexts {
            bos_token: case.bos_token.clone(),
            eos_token: case.eos_token.clone(),
            unk_token: Some("<unk>".into()),
            pad_token: Some("<pad>".into()),
        };
        let now = date_time(&now);
        let mut program = Program::new(&source, now).unwrap_or_else(|e| panic!("{place}: {e}"));
        let (add_generation_prompt, tools) = (case.add_generation_prompt, case.tools.as_ref());
        let text =
            program.render(&Variables { messages: &case.messages, add_generation_prompt, tools, special: &special });
        match (&case.expected, &case.error) {
            (Some(expected), _) => {
                assert_eq!(&text.unwrap_or_else(|e| panic!("{place}: {e}")), expected, "{place}");
                // Real templates take the messages as they are.
                let ask = Ask {
                    messages: Cow::Borrowed(&case.messages),
                    add_generation_prompt,
                    tools: tools.map(Cow::Borrowed),
                };
                let request = Request { source: source.into(), special: Cow::Borrowed(&special), now, ask: Some(ask) };
                assert_eq!(request.answer().as_ref(), Ok(expected), "{place}");
            }
            (None, Some(error)) => {
                let got = text.expect_err(&place);
                assert!(got.contains(error), "{place}: {got}");
            }
            (None, None) => panic!("{place}: neither a text nor an error is expected"),
        }
        used.insert(case.template.clone());
    }
    for entry in std::fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".jinja") || used.contains(&name), "{name} has no case");
    }
}
