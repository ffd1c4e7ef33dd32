//! Chat templates of real models against the texts of Hugging Face's renderer.

use runtime::chat::jinja::{Program, Variables};
use runtime::chat::renderer::{Ask, Request};
use runtime::chat::{DateTime, Message, SpecialTexts};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

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

impl Case {
    /// Why what is rendered is not what is expected.
    fn check(&self, dir: &Path, now: DateTime) -> Result<(), String> {
        let source = std::fs::read_to_string(dir.join(&self.template)).unwrap();
        let special = SpecialTexts {
            bos_token: self.bos_token.clone(),
            eos_token: self.eos_token.clone(),
            unk_token: Some("<unk>".into()),
            pad_token: Some("<pad>".into()),
        };
        let mut program = Program::new(&source, now)?;
        let (messages, add_generation_prompt) = (&*self.messages, self.add_generation_prompt);
        let tools = self.tools.as_ref();
        let text = program.render(&Variables { messages, add_generation_prompt, tools, special: &special });
        match (&self.expected, &self.error) {
            (Some(expected), _) => {
                same(&text?, expected)?;
                // Real templates take the messages as they are.
                let tools = tools.map(Cow::Borrowed);
                let ask = Ask { messages: Cow::Borrowed(messages), add_generation_prompt, tools };
                let request = Request { source: source.into(), special: Cow::Borrowed(&special), now, ask: Some(ask) };
                same(&request.answer()?, expected)
            }
            (None, Some(error)) => match text {
                Ok(text) => Err(format!("{text:?} instead of the error {error:?}")),
                Err(got) if got.contains(error) => Ok(()),
                Err(got) => Err(format!("the error {got:?} instead of {error:?}")),
            },
            (None, None) => Err("neither a text nor an error is expected".into()),
        }
    }
}

fn same(got: &str, want: &str) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{got:?} instead of {want:?}")) }
}

#[test]
fn cases() {
    let Some(dir) = tests::shared_dir("templates") else { return };
    let Cases { now, cases } = serde_json::from_str(&std::fs::read_to_string(dir.join("cases.json")).unwrap()).unwrap();
    let (mut used, mut bad) = (BTreeSet::new(), Vec::new());
    for case in &cases {
        if let Err(why) = case.check(&dir, date_time(&now)) {
            bad.push(format!("{}, {}, prompt {}: {why}", case.template, case.case, case.add_generation_prompt));
        }
        used.insert(case.template.clone());
    }
    assert!(bad.is_empty(), "{} of {} are wrong:\n{}", bad.len(), cases.len(), bad.join("\n"));
    for entry in std::fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".jinja") || used.contains(&name), "{name} has no case");
    }
}
