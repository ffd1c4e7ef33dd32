//! The file tests in `tests/files`; [`tests::filetest`] describes their form.
//!
//! `RIGC_UPDATE_FILES=1` writes what the interpreter gives into their `get:` lines.

use codegen::schedule::{self, Row};
use codegen::{TableKernel, back};
use ir::Verified;
use ir::abi::Control;
use ir::graph::Graph;
use ir::kernel::{Inst, Kernel, Stmt, interp};
use ir::spec::KernelSpec;
use ir::target::Target;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tests::filetest::{FileTest, Generate, Listing, Run, check};
use tests::kernels::{self, Draw, Trial};
use tests::{assembler, run};

/// Workers of a CPU, or schedules of the emulator.
const WORKERS: [usize; 2] = [1, 3];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("files")
}

/// Every file of a folder below `tests/files`.
fn files(sub: &str) -> Vec<PathBuf> {
    let dir = folder().join(sub);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.iter().all(|f| f.extension().is_some_and(|e| e == "kernel")), "{}: other files", dir.display());
    files
}

fn read(path: &Path) -> (String, FileTest) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let test = FileTest::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (text, test)
}

/// Runs `f` for every file of a folder and reports all that fail.
fn for_each(sub: &str, f: impl Fn(&Path) -> Result<(), String>) {
    let failed: Vec<String> = files(sub)
        .iter()
        .filter_map(|path| {
            let name = path.strip_prefix(folder()).unwrap().display().to_string();
            f(path).err().map(|e| format!("{name}: {e}"))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The text of a kernel in a stage; `None` where the tools for it are missing.
fn listing(kernel: &Verified<Kernel>, stage: &str, target: &Target) -> Result<Option<String>, String> {
    if stage == "kernel" {
        return Ok(Some(kernel.to_string()));
    }
    let backend = back::for_target(target).map_err(|e| e.to_string())?;
    let emitted = backend.emit(kernel, target, true).map_err(|e| e.to_string())?;
    if stage == "sass" {
        let module = [backend.prefix(target).map_err(|e| e.to_string())?, emitted.code].concat();
        return Ok(assembler::sass(&module, target));
    }
    let text = emitted.listings.into_iter().find(|(name, _)| *name == stage);
    text.map(|(_, text)| Some(text)).ok_or_else(|| format!("{} has no {stage}", target.name))
}

fn check_listings(kernel: &Verified<Kernel>, listings: &[Listing]) -> Result<(), String> {
    for l in listings {
        let target = Target::by_name(&l.target).map_err(|e| e.to_string())?;
        if let Some(text) = listing(kernel, &l.stage, target)? {
            check(&text, &l.checks).map_err(|e| format!("{} {}: {e} of\n{text}", l.stage, l.target))?;
        }
    }
    Ok(())
}

/// What the parameters of a kernel hold before a run.
fn buffers(kernel: &Kernel, run: &Run) -> Result<Vec<Vec<u8>>, String> {
    let mut all: Vec<Vec<u8>> = kernel.param_buffers().map(|b| vec![0xff; b.bytes as usize]).collect();
    for set in &run.set {
        let n = kernel.param_buffers().position(|b| b.name == set.buffer);
        let to = n.and_then(|n| all[n].get_mut(..set.bytes.len()));
        to.ok_or_else(|| format!("line {}: it does not fit a buffer '{}'", set.line, set.buffer))?
            .copy_from_slice(&set.bytes);
    }
    Ok(all)
}

/// The targets that a kernel is run for.
fn targets(kernel: &Kernel, test: &FileTest) -> Vec<&'static Target> {
    let here = run::targets();
    let runs = |t: &&Target| t.gpu().is_some() || here.contains(t);
    let named = |names: &[&str]| {
        let all = names.iter().map(|name| Target::by_name(name).unwrap_or_else(|e| panic!("{e}")));
        all.filter(runs).collect()
    };
    match kernel.grid {
        _ if !test.targets.is_empty() => named(&test.targets.iter().map(String::as_str).collect::<Vec<_>>()),
        Some(_) => named(&["sm_80", "sm_120"]),
        None => here.clone(),
    }
}

fn agree(kernel: &Kernel, run: &Run, after: &[Vec<u8>]) -> Result<(), String> {
    for get in &run.get {
        let n = kernel.param_buffers().position(|b| b.name == get.buffer);
        let bytes = &after[n.ok_or_else(|| format!("line {}: there is no buffer '{}'", get.line, get.buffer))?];
        if !get.agree(bytes) {
            let found = get.print(&bytes[..get.bytes.len().min(bytes.len())]);
            return Err(format!("line {}: {} is {found}", get.line, get.buffer));
        }
    }
    Ok(())
}

fn check_run(kernel: &Verified<Kernel>, test: &FileTest, run: &Run) -> Result<(), String> {
    let control = Control { position: run.position, tokens: run.tokens };
    let before = buffers(kernel, run)?;
    for workers in WORKERS {
        let mut after = before.clone();
        let result = interp::run(kernel, &mut after, control, workers);
        match (result, &run.fault) {
            (Ok(()), None) => agree(kernel, run, &after).map_err(|e| format!("interpreter: {e}"))?,
            (Err(e), Some(words)) if e.to_string().contains(words) => return Ok(()),
            (result, _) => return Err(format!("interpreter: {result:?}")),
        }
        for target in targets(kernel, test) {
            let after = kernels::launch(kernel, target, workers, 1, &before, control, Clone::clone)
                .map_err(|e| format!("{}: {e}", target.name))?;
            agree(kernel, run, &after).map_err(|e| format!("{}: {e}", target.name))?;
        }
    }
    Ok(())
}

/// Writes what the interpreter gives into the `get:` lines of a file.
fn update(path: &Path, text: &str, kernel: &Verified<Kernel>, test: &FileTest) {
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    for run in test.runs.iter().filter(|r| r.fault.is_none()) {
        let mut after = buffers(kernel, run).unwrap();
        let control = Control { position: run.position, tokens: run.tokens };
        interp::run(kernel, &mut after, control, 1).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for get in &run.get {
            let n = kernel.param_buffers().position(|b| b.name == get.buffer).unwrap();
            let line = &mut lines[get.line - 1];
            let (head, _) = line.split_once('=').unwrap();
            *line = format!("{head}= {}", get.print(&after[n][..get.bytes.len()]));
        }
    }
    let new = lines.join("\n") + "\n";
    if new != text {
        std::fs::write(path, new).unwrap();
    }
}

fn check_kernel(path: &Path) -> Result<(), String> {
    let (text, test) = read(path);
    let kernel = text.parse::<Kernel>().and_then(Kernel::verify);
    let kernel = match (kernel, &test.refused) {
        (Ok(kernel), None) => kernel,
        (Err(e), Some(words)) if e.to_string().contains(words) => return Ok(()),
        (Ok(_), Some(words)) => return Err(format!("it is not refused with '{words}'")),
        (Err(e), _) => return Err(e.to_string()),
    };
    if std::env::var_os("RIGC_UPDATE_FILES").is_some() {
        update(path, &text, &kernel, &test);
        return Ok(());
    }
    check_listings(&kernel, &test.listings)?;
    test.runs.iter().try_for_each(|run| check_run(&kernel, &test, run))
}

#[test]
fn cpu() {
    for_each("cpu", check_kernel);
}

#[test]
fn gpu() {
    for_each("gpu", check_kernel);
}

#[test]
fn refused() {
    for_each("refused", check_kernel);
    assert!(files("refused").iter().all(|f| read(f).1.refused.is_some()));
}

/// The kernel that a file's directives make of its body.
fn generated(text: &str, generate: &Generate) -> Result<TableKernel, String> {
    let target = Target::by_name(&generate.target).map_err(|e| e.to_string())?;
    let body: String = text.lines().filter(|l| !l.starts_with(';')).map(|l| format!("{l}\n")).collect();
    let body: Graph = body.parse::<Graph>().map_err(|e| e.to_string())?;
    let spec = KernelSpec::new(generate.op.as_str(), body, 1, target);
    let row =
        format!("[(op: \"{}\", tokens: (1, 1), columns: (0, 1000000), schedule: {})]", generate.op, generate.schedule);
    let rows: Vec<Row> = schedule::rows(&row).map_err(|e| e.to_string())?;
    let made = schedule::choose(&spec, target, &rows).map_err(|e| e.to_string())?;
    TableKernel::new(spec, made, 0).map_err(|e| e.to_string())
}

/// A generated kernel against the interpreter of graphs on its body: on the interpreter of kernels and on its target.
fn check_generated(path: &Path) -> Result<(), String> {
    let (text, test) = read(path);
    let generate = test.generate.as_ref().ok_or("no 'generate:'")?;
    let kernel = generated(&text, generate)?;
    check_listings(&kernel.kernel, &test.listings)?;
    let target = Target::by_name(&generate.target).map_err(|e| e.to_string())?;
    let runs = target.gpu().is_some() || run::targets().contains(&target);
    assert!(!test.runs.is_empty(), "{}: no 'run:'", path.display());
    for run in &test.runs {
        for workers in WORKERS {
            let (position, tokens) = (run.position as usize, run.tokens as usize);
            let trial = Trial { position, tokens, workers, seed: 7 };
            let mut results = vec![kernels::interpret(&kernel, trial, Draw::Usual)];
            results.extend(runs.then(|| kernels::attempt(&kernel, target, trial, Clone::clone)));
            for result in results {
                let off = result?.into_iter().find(|d| d.error > d.bound);
                off.map_or(Ok(()), |d| Err(format!("{trial:?}: {d:?}")))?;
            }
        }
    }
    Ok(())
}

#[test]
fn generators() {
    for_each("generated", check_generated);
}

/// Names of what a kernel does: its instructions and its statements.
fn names(kernel: &Kernel, code: &[Stmt], found: &mut BTreeSet<&'static str>) {
    for stmt in code {
        found.insert(stmt.name());
        match stmt {
            Stmt::Let(v) => _ = found.insert(kernel.inst(*v).mnemonic()),
            Stmt::For { body, .. } | Stmt::Parallel { body, .. } => {
                found.insert(Inst::Index.name());
                names(kernel, body, found);
            }
            Stmt::If { then, other, .. } => [then, other].into_iter().for_each(|code| names(kernel, code, found)),
            _ => {}
        }
    }
}

#[test]
fn every_instruction_and_statement_has_a_file() {
    let mut found = BTreeSet::new();
    for path in ["cpu", "gpu"].into_iter().flat_map(files) {
        let (text, test) = read(&path);
        let kernel: Kernel = text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        // What only faults says nothing of what its instructions give.
        if test.runs.iter().any(|run| !run.get.is_empty()) {
            names(&kernel, &kernel.body, &mut found);
        }
    }
    let all: BTreeSet<&str> = Inst::mnemonics().chain(Stmt::NAMES.iter().copied()).collect();
    let missing: Vec<_> = all.difference(&found).collect();
    assert!(missing.is_empty(), "no file runs {missing:?}");
}

/// A file is readable at a glance, and says first what it is about.
#[test]
fn files_are_short() {
    for path in ["cpu", "gpu", "refused", "generated"].into_iter().flat_map(files) {
        let (text, _) = read(&path);
        assert!(text.lines().count() <= 70, "{} does not fit a screen", path.display());
        assert!(text.starts_with("; "), "{} does not say what it is about", path.display());
    }
}
