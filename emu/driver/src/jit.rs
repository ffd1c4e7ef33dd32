//! PTX to code, as the compiler in a driver does it for one card: refuses what that driver or that card would refuse, in its
//! words, with the line. Several texts are linked to one.

use crate::cards::{BLOCK_SHARED, Card};
use crate::error::Error;
use crate::image::{Refusal, Source};
use crate::settings::Settings;

/// How the log of a driver names a text.
const INPUT: &str = "ptxas application ptx input";
/// Functions that every program may call without defining them.
const BUILT_IN: &[&str] = &["vprintf", "__assertfail", "malloc", "free"];

/// Versions of CUDA, and the newest PTX that the driver of each takes.
const VERSIONS: &[(u32, (u32, u32))] = &[
    (11000, (7, 0)),
    (11010, (7, 1)),
    (11020, (7, 2)),
    (11030, (7, 3)),
    (11040, (7, 4)),
    (11050, (7, 5)),
    (11060, (7, 6)),
    (11070, (7, 7)),
    (11080, (7, 8)),
    (12000, (8, 0)),
    (12010, (8, 1)),
    (12020, (8, 2)),
    (12030, (8, 3)),
    (12040, (8, 4)),
    (12050, (8, 5)),
    (12060, (8, 5)),
    (12070, (8, 6)),
    (12080, (8, 7)),
    (12090, (8, 8)),
    (13000, (9, 0)),
    (13010, (9, 1)),
    (13020, (9, 2)),
    (13030, (9, 3)),
    (13040, (9, 4)),
    (13050, (9, 5)),
];

/// Targets that not every PTX has, with the first version that has them.
const TARGETS: &[(&str, (u32, u32))] = &[
    ("sm_86", (7, 1)),
    ("sm_87", (7, 4)),
    ("sm_89", (7, 8)),
    ("sm_90", (7, 8)),
    ("sm_90a", (8, 0)),
    ("sm_100", (8, 6)),
    ("sm_100a", (8, 6)),
    ("sm_100f", (8, 8)),
    ("sm_101", (8, 6)),
    ("sm_101a", (8, 6)),
    ("sm_103", (8, 8)),
    ("sm_103a", (8, 8)),
    ("sm_120", (8, 7)),
    ("sm_120a", (8, 7)),
    ("sm_120f", (8, 8)),
    ("sm_121", (8, 8)),
    ("sm_121a", (8, 8)),
];

/// The newest PTX of a driver.
fn newest(driver: u32) -> (u32, u32) {
    VERSIONS.iter().rev().find(|(cuda, _)| *cuda <= driver).map_or((7, 0), |(_, ptx)| *ptx)
}

/// Code for a card.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) module: emu::Module,
    /// What it was made of.
    pub(crate) sources: Vec<Source>,
}

impl Code {
    /// The compute capability that the PTX was made for.
    pub(crate) fn target(&self) -> u32 {
        let digits = self.module.target().trim_start_matches("sm_");
        digits.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
    }
}

/// A line of the log.
fn at(line: usize, what: &str) -> String {
    format!("{INPUT}, line {line}; error   : {what}\nptxas fatal   : Ptx assembly aborted due to errors\n")
}

/// A directive of the head of a text: its line and what follows it.
fn directive<'a>(text: &'a str, name: &str) -> Option<(usize, &'a str)> {
    let mut comment = false;
    text.lines().enumerate().find_map(|(i, line)| {
        let line = line.trim();
        let inside = comment;
        if let Some(start) = line.rfind("/*") {
            comment = !line[start..].contains("*/");
        } else if line.contains("*/") {
            comment = false;
        }
        let rest = line.strip_prefix(name).filter(|rest| !inside && rest.starts_with([' ', '\t']))?;
        Some((i + 1, rest.split("//").next().unwrap_or_default().trim()))
    })
}

/// Checks what the head of a text says against driver and card.
fn check_head(text: &str, settings: &Settings) -> Result<(), Refusal> {
    let invalid = |line, what: &str| Refusal::new(Error::INVALID_PTX, at(line, what));
    let Some((line, version)) = directive(text, ".version") else {
        return Err(invalid(1, "Missing .version directive at start of file"));
    };
    let numbers = version.split_once('.').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    let Some(numbers) = numbers else { return Err(invalid(line, &format!("Malformed .version {version}"))) };
    let newest = newest(settings.driver);
    if numbers > newest {
        let what = format!("Unsupported .version {version}; current version is '{}.{}'", newest.0, newest.1);
        return Err(Refusal::new(Error::UNSUPPORTED_PTX_VERSION, at(line, &what)));
    }
    let Some((line, target)) = directive(text, ".target") else {
        return Err(invalid(line, "Missing .target directive"));
    };
    let target = target.split(',').next().unwrap_or_default().trim();
    let digits = target.strip_prefix("sm_").unwrap_or_default();
    let suffix = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    let Ok(sm) = digits[..digits.len() - suffix.len()].parse::<u32>() else {
        return Err(invalid(line, &format!("Unknown .target '{target}'")));
    };
    if let Some((_, first)) = TARGETS.iter().find(|(name, _)| *name == target)
        && numbers < *first
    {
        let what = format!("PTX .version {}.{} does not support .target {target}", numbers.0, numbers.1);
        return Err(invalid(line, &what));
    }
    let card = settings.card.arch.sm;
    let fits = match suffix {
        "" => sm <= card,
        "a" => sm == card,
        "f" => sm / 10 == card / 10 && sm <= card,
        _ => return Err(invalid(line, &format!("Unknown .target '{target}'"))),
    };
    match (fits, suffix) {
        (true, _) => Ok(()),
        (false, "") => Err(invalid(line, "SM version specified by .target is higher than default SM version assumed")),
        (false, _) => {
            let what = format!("PTX with .target {target} cannot be compiled for sm_{card}");
            Err(Refusal::new(Error::NO_BINARY_FOR_GPU, at(line, &what)))
        }
    }
}

/// The text of several, whose heads are left out but for the first. Lines keep their numbers within a text.
fn joined(sources: &[Source]) -> String {
    let mut all = String::new();
    for (i, source) in sources.iter().enumerate() {
        for line in source.text.lines() {
            let head = [".version", ".target", ".address_size"].iter().any(|d| line.trim_start().starts_with(d));
            all.push_str(if head && i > 0 { "" } else { line });
            all.push('\n');
        }
    }
    all
}

/// The line of one of several texts by its line in all of them together: its text and its number there.
fn line_of(sources: &[Source], mut line: usize) -> (&str, usize) {
    for source in sources {
        let lines = source.text.lines().count();
        if line <= lines {
            return (&source.name, line);
        }
        line -= lines;
    }
    ("ptx", line)
}

/// Checks a text on its own, which may call what others define.
pub(crate) fn check(source: &Source, settings: &Settings) -> Result<(), Refusal> {
    parse(std::slice::from_ref(source), settings).map(|_| ())
}

/// Compiles texts to one piece of code.
pub(crate) fn compile(sources: Vec<Source>, settings: &Settings) -> Result<Code, Refusal> {
    let module = parse(&sources, settings)?;
    check_kernels(&module, settings.card, settings.driver)?;
    Ok(Code { module, sources })
}

fn parse(sources: &[Source], settings: &Settings) -> Result<emu::Module, Refusal> {
    for source in sources {
        check_head(&source.text, settings)?;
    }
    emu::Module::parse(&joined(sources)).map_err(|e| {
        let (name, line) = line_of(sources, e.line as usize);
        let input = if sources.len() > 1 { format!(" ({name})") } else { String::new() };
        // What the emulator refuses by name, a driver might take.
        if e.what.contains("the emulator") {
            let log = format!("{INPUT}{input}, line {line}; error   : {}\n", e.what);
            return Refusal::ours(Error::NOT_SUPPORTED, log);
        }
        Refusal::new(Error::INVALID_PTX, at(line, &e.what))
    })
}

/// Checks kernels against the card.
fn check_kernels(module: &emu::Module, card: &Card, driver: u32) -> Result<(), Refusal> {
    let fatal = |what: String| Err(Refusal::new(Error::INVALID_PTX, format!("ptxas error   : {what}\n")));
    // Assemblers before 13.4 have no static shared memory above what a block has without asking.
    let limit = if driver < 13040 { BLOCK_SHARED } else { card.block_shared() };
    for entry in module.entries() {
        if entry.static_shared > u64::from(limit) {
            let (name, bytes) = (&entry.name, entry.static_shared);
            return fatal(format!(
                "Entry function '{name}' uses too much shared data ({bytes:#x} bytes, {limit:#x} max)"
            ));
        }
    }
    if let Some(name) = module.missing().find(|name| !BUILT_IN.contains(name)) {
        return fatal(format!("Unresolved extern function '{name}'"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::parse(text).unwrap()
    }

    fn ptx(head: &str, body: &str) -> Vec<Source> {
        let text = format!("// a text\n{head}\n.address_size 64\n{body}\n");
        vec![Source { name: "test".into(), text }]
    }

    fn refused(sources: Vec<Source>, with: &str) -> (Error, String) {
        let refusal = compile(sources, &settings(with)).unwrap_err();
        (refusal.error, refusal.log)
    }

    #[test]
    fn driver_and_card_refuse_what_they_do_not_know() {
        let empty = ".visible .entry k() { ret; }";
        let sm_90 = || ptx(".version 8.0\n.target sm_90", empty);
        assert!(compile(sm_90(), &settings("")).is_ok());
        assert!(compile(sm_90(), &settings("card=h100,driver=12000")).is_ok());
        for (head, with, error, words) in [
            (
                ".version 9.9\n.target sm_90",
                "",
                Error::UNSUPPORTED_PTX_VERSION,
                "line 2; error   : Unsupported .version 9.9",
            ),
            (
                ".version 8.7\n.target sm_120",
                "driver=12040",
                Error::UNSUPPORTED_PTX_VERSION,
                "current version is '8.4'",
            ),
            (".version 8.7\n.target sm_120", "card=h100", Error::INVALID_PTX, "line 3; error   : SM version"),
            (".version 8.0\n.target sm_90a", "", Error::NO_BINARY_FOR_GPU, "sm_90a cannot be compiled for sm_120"),
            (".version 8.7\n.target sm_120a", "card=h200", Error::NO_BINARY_FOR_GPU, "line 3"),
            (".version 8.0\n.target sm_120", "", Error::INVALID_PTX, "does not support .target sm_120"),
            (".version 8.0", "", Error::INVALID_PTX, "Missing .target"),
            (".target sm_80", "", Error::INVALID_PTX, "Missing .version"),
            (".version x\n.target sm_80", "", Error::INVALID_PTX, "Malformed .version"),
            (".version 8.0\n.target gpu", "", Error::INVALID_PTX, "Unknown .target"),
        ] {
            let (code, log) = refused(ptx(head, empty), with);
            assert!(code == error && log.contains(words), "{head}: {code:?} {log}");
        }
        assert!(compile(ptx(".version 8.0\n.target sm_90a", empty), &settings("card=h200")).is_ok());
        assert!(compile(ptx(".version 8.8\n.target sm_120f", empty), &settings("")).is_ok());
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        let head = ".version 8.0\n.target sm_80";
        let (error, log) = refused(ptx(head, ".visible .entry k() {\n  frob.u32 %r1;\n  ret;\n}"), "");
        assert!(error == Error::INVALID_PTX && log.contains("line 6; error"), "{log}");
        let big = ".visible .entry k() { .shared .b8 s[50000]; ret; }";
        let (error, log) = refused(ptx(head, big), "");
        assert!(error == Error::INVALID_PTX && log.contains("too much shared data"), "{log}");
        let call = ".extern .func g();\n.visible .entry k() { call.uni g; ret; }";
        let (error, log) = refused(ptx(head, call), "");
        assert!(error == Error::INVALID_PTX && log.contains("Unresolved extern function 'g'"), "{log}");
        let (error, log) = refused(ptx(head, "}"), "");
        assert!(error == Error::INVALID_PTX && log.contains("line 5; error"), "{log}");
    }

    #[test]
    fn texts_are_linked() {
        let head = ".version 8.0\n.target sm_80";
        let caller = ptx(head, ".extern .func g();\n.visible .entry k() { call.uni g; ret; }");
        let callee = ptx(head, ".visible .func g() { ret; }");
        let both = [caller.clone(), callee].concat();
        assert!(compile(both, &settings("")).is_ok());
        let shared = ".extern .shared .align 16 .b8 s[];\n";
        let reader = "{ .reg .b32 %a; ld.global.b32 %a, [v]; ret; }";
        for (first, second) in [
            (format!(".visible .global .b32 v = 1;\n.visible .entry k() {reader}"), ".extern .global .b32 v;"),
            (format!(".extern .global .b32 v;\n.visible .entry k() {reader}"), ".visible .global .b32 v = 1;"),
        ] {
            let texts = [first.as_str(), second].map(|body| ptx(head, &format!("{shared}{body}")));
            assert!(compile(texts.concat(), &settings("")).is_ok(), "{first}");
        }
        let twice = [ptx(head, ".visible .global .b32 v;"), ptx(head, ".visible .global .b32 v;")];
        assert!(refused(twice.concat(), "").1.contains("declared twice"));
        let wrong = ptx(head, ".visible .func g() {\n  frob;\n}");
        let (_, log) = refused([caller, wrong].concat(), "");
        assert!(log.contains("line 6"), "{log}");
    }
}
