//! Inputs from elsewhere that were once wrong: `cases/cases.json` of the shared folder says what is to come of each.

use crate::harness::{Outcome, rigc_reading};
use regex_automata::meta::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Deserialize)]
struct Case {
    name: String,
    /// `{dir}` stands for the folder of the cases.
    args: Vec<String>,
    #[serde(default)]
    stdin: String,
    expect: Expected,
}

/// What has to be true of a run; what is missing is not looked at.
#[derive(Deserialize)]
struct Expected {
    #[serde(default)]
    exit: i32,
    /// Of the first object printed.
    #[serde(flatten)]
    reply: Reply,
    /// Of each object printed.
    #[serde(default)]
    per_reply: Vec<Reply>,
    #[serde(default)]
    stderr_has: Vec<String>,
    #[serde(default)]
    stderr_lacks: Vec<String>,
    stderr_lines: Option<usize>,
    #[serde(default)]
    same_for_seeds: Vec<u64>,
}

#[derive(Deserialize, Default)]
struct Reply {
    text: Option<String>,
    #[serde(default)]
    text_has: Vec<String>,
    #[serde(default)]
    text_lacks: Vec<String>,
    stop_reason: Option<String>,
    prompt_ids: Option<Vec<u64>>,
    /// Ids below 256 are bytes.
    #[serde(default)]
    prompt_has: Vec<String>,
    #[serde(default)]
    prompt_count: Vec<(u64, usize)>,
}

impl Reply {
    fn is_empty(&self) -> bool {
        let Reply { text, text_has, text_lacks, stop_reason, prompt_ids, prompt_has, prompt_count } = self;
        let lists = text_has.is_empty() && text_lacks.is_empty() && prompt_has.is_empty() && prompt_count.is_empty();
        lists && text.is_none() && stop_reason.is_none() && prompt_ids.is_none()
    }

    /// What is wrong with an object.
    fn check(&self, object: &Value, wrong: &mut Vec<String>) {
        let text = object["text"].as_str().unwrap_or_default();
        let ids: Vec<u64> = object["prompt_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let bytes: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
        let said = String::from_utf8_lossy(&bytes);
        let mut must = |good: bool, what: String| wrong.extend((!good).then_some(what));
        let stop = &object["stop_reason"];
        self.text.iter().for_each(|want| must(text == want, format!("the text is {text:?}, not {want:?}")));
        self.stop_reason
            .iter()
            .for_each(|want| must(stop == want.as_str(), format!("stopped by {stop}, not {want:?}")));
        self.prompt_ids.iter().for_each(|want| must(&ids == want, format!("the prompt is {ids:?}, not {want:?}")));
        self.text_has.iter().for_each(|part| must(text.contains(part), format!("the text {text:?} lacks {part:?}")));
        self.text_lacks.iter().for_each(|part| must(!text.contains(part), format!("the text {text:?} has {part:?}")));
        self.prompt_has
            .iter()
            .for_each(|part| must(said.contains(part), format!("the prompt {said:?} lacks {part:?}")));
        for (id, want) in &self.prompt_count {
            let count = ids.iter().filter(|i| *i == id).count();
            must(count == *want, format!("the prompt has {id} {count} times, not {want}"));
        }
    }
}

impl Expected {
    /// What is wrong with a run.
    fn check(&self, o: &Outcome) -> Vec<String> {
        if o.code != Some(self.exit) {
            return vec![format!("exit code {:?}: {}", o.code, o.err)];
        }
        let mut wrong = Vec::new();
        let objects: Vec<Value> = objects(o);
        match objects.first() {
            Some(first) => self.reply.check(first, &mut wrong),
            None => wrong.extend((!self.reply.is_empty()).then(|| "no JSON".to_owned())),
        }
        self.per_reply.iter().zip(&objects).for_each(|(want, object)| want.check(object, &mut wrong));
        if objects.len() < self.per_reply.len() {
            wrong.push(format!("{} replies", objects.len()));
        }
        let found = |pattern: &String| Regex::new(&format!("(?s){pattern}")).unwrap().is_match(&o.err);
        let lacking = self.stderr_has.iter().filter(|p| !found(p)).map(|p| format!("stderr lacks {p}: {}", o.err));
        wrong.extend(lacking);
        wrong.extend(self.stderr_lacks.iter().filter(|p| found(p)).map(|p| format!("stderr has {p}: {}", o.err)));
        let lines = o.err.lines().filter(|line| !line.trim().is_empty()).count();
        if self.stderr_lines.is_some_and(|most| lines > most) {
            wrong.push(format!("{lines} lines on stderr: {}", o.err));
        }
        wrong
    }
}

fn objects(o: &Outcome) -> Vec<Value> {
    o.text().lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Whether a model is refused in one sentence that begins with its file and calls one of [`UNBUILT`] not supported.
fn is_refused(case: &Case, o: &Outcome, dir: &str) -> bool {
    let mut files = case.args.iter().filter(|arg| arg.ends_with(".gguf")).map(|arg| arg.replace("{dir}", dir));
    let unbuilt = UNBUILT.iter().any(|feature| o.err.contains(feature)) && o.err.contains(" is not supported; ");
    let names = |file: String| unbuilt && o.err.starts_with(&format!("rigc: {file}: "));
    o.code == Some(2) && o.out.is_empty() && o.err.lines().count() == 1 && files.any(names)
}

/// Features of models that are refused by name until they are built, in the words of the refusal.
const UNBUILT: &[&str] = &[
    "a bias of the feed-forward ",
    "queries, keys and values in one matrix",
    "RoPE scaling ",
    "with a figure for each layer",
];

/// Cases whose file cannot say what the table asks for, and what it does say: its vocabulary has no part of "world".
const SAID: &[(&str, &str)] = &[("s_badutf8", "hello.")];
/// Cases whose prompt has, in the table, the newline that Hugging Face's renderer drops after a block of a template.
const TRIMMED: &[&str] = &["typed_content"];

#[test]
fn inputs_that_were_wrong_once() {
    let Some(dir) = tests::shared_dir("cases") else { return };
    let mut cases: Vec<Case> = serde_json::from_slice(&std::fs::read(dir.join("cases.json")).unwrap()).unwrap();
    assert!(!cases.is_empty(), "{}: no cases", dir.display());
    for (name, text) in SAID {
        for case in cases.iter_mut().filter(|case| case.name == *name) {
            case.expect.reply.text_has = vec![(*text).to_owned()];
        }
    }
    for case in cases.iter_mut().filter(|case| TRIMMED.contains(&case.name.as_str())) {
        case.expect.reply.prompt_ids.iter_mut().for_each(|ids| ids.retain(|&id| id != u64::from(b'\n')));
    }
    let folder = dir.to_str().unwrap();
    let mut bad = Vec::new();
    for case in &cases {
        let args: Vec<String> = case.args.iter().map(|arg| arg.replace("{dir}", folder)).collect();
        let run = |more: &[String]| {
            let all: Vec<&str> = args.iter().chain(more).map(String::as_str).collect();
            rigc_reading(Path::new("."), &all, case.stdin.as_bytes())
        };
        let seeds: Vec<Vec<String>> = match case.expect.same_for_seeds.as_slice() {
            [] => vec![vec![]],
            seeds => seeds.iter().map(|seed| vec!["--seed".to_owned(), seed.to_string()]).collect(),
        };
        let (mut wrong, mut texts) = (Vec::new(), BTreeSet::new());
        for seed in &seeds {
            let o = run(seed);
            if case.expect.exit != 0 || !is_refused(case, &o, folder) {
                wrong.extend(case.expect.check(&o));
            }
            texts.extend(objects(&o).first().map(|object| object["text"].to_string()));
        }
        if texts.len() > 1 && seeds.len() > 1 {
            wrong.push(format!("{} texts for {} seeds", texts.len(), seeds.len()));
        }
        bad.extend((!wrong.is_empty()).then(|| format!("{}: {}", case.name, wrong.join("; "))));
    }
    assert!(bad.is_empty(), "{} of {} are wrong:\n{}", bad.len(), cases.len(), bad.join("\n"));
}
