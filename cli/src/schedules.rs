//! `rigc schedules`: how the kernels of a model are laid out in time, as a table for `--schedules`.

use crate::failure::usage;
use crate::inspect::names::Subject;
use crate::model::{self, CompileArgs};
use crate::output;
use anyhow::Result;
use codegen::schedule::{self, KEYS};
use ir::quote;
use ir::spec::{CPU_FIELDS, Field, GPU_FIELDS};
use runtime::ModelFile;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print the schedules of a model's kernels as a RON table, to edit and to give to --schedules
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub struct Args {
    /// GGUF file, or any shard of one
    model: PathBuf,
    #[command(flatten)]
    compile: CompileArgs,
    /// Print the row of this kernel only, as inspect --kernels names it
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
}

/// A table.
const EXAMPLE: &str = include_str!("schedules.ron");

/// The fields of rows.
fn help() -> String {
    let mut s = format!(
        "A table is a list of rows:\n\n{EXAMPLE}\nA row is for the kernels that all of its fields fit; the first that fits \
         counts. Each row is used, but for those of other cards, or refused.\n"
    );
    for (name, meaning) in KEYS {
        s.push_str(&format!("  {name:<13}{meaning}\n"));
    }
    let mut fields = |of: &str, fields: &[Field]| {
        s.push_str(&format!("\n{of}; an op uses those that concern it:\n"));
        for f in fields {
            s.push_str(&format!("  {:<13}{}: {}\n", f.name, f.meaning, f.allowed()));
        }
    };
    fields("schedule: Gpu((..))", &GPU_FIELDS);
    fields("schedule: Cpu((..))", &CPU_FIELDS);
    s.push_str(
        "\nComments of the printed table name the kernels of a row and, for products on a GPU, say which chunks divide their \
         rows and how deep a ring of them may be: so that one CTA fits on a multiprocessor, or two, of which one can begin \
         while the one before ends.",
    );
    s
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    if model::is_artifact(&args.model) {
        let path = args.model.display();
        return Err(usage(format!("{path} is an artifact; rigc schedules takes the GGUF file")));
    }
    let target = model::target(&args.compile)?;
    let file = ModelFile::open(&args.model)?;
    let compiled = model::compile(&file, &args.compile, &[])?;
    file.check_unchanged()?;
    let manifest = &compiled.artifact.manifest;
    if let Some(name) = &args.kernel {
        known_kernel(name, manifest.kernels.iter().map(|k| &*k.name))?;
    }
    let mut rows = Vec::new();
    for (number, k) in compiled.table.kernels.iter().enumerate() {
        if args.kernel.as_ref().is_none_or(|name| *name == k.kernel.name) {
            let Subject { role, .. } = Subject::of(manifest, number)?;
            let mut comment = format!("{}, {}", k.kernel.name, quote::plain(&role, 100));
            let choices = schedule::choices(&k.spec, &k.schedule, &target)?;
            if !choices.is_empty() {
                write!(comment, ": {choices}")?;
            }
            rows.push((&k.spec, &k.schedule, Some(comment)));
        }
    }
    let (path, machine) = (args.model.display().to_string(), manifest.machine());
    let head = format!("// {} for {machine}; rigc help schedules has the fields\n", quote::plain(&path, 1000));
    output::print(&(head + &schedule::table(rows, &target)? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Checks that a kernel has this name.
///
/// # Errors
/// A sentence with some of the names.
pub fn known_kernel<'a>(name: &str, kernels: impl Iterator<Item = &'a str>) -> Result<()> {
    /// Most names of a sentence.
    const SOME: usize = 12;
    let names: Vec<&str> = kernels.collect();
    if names.contains(&name) {
        return Ok(());
    }
    let more = match names.len().saturating_sub(SOME) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let some = names[..names.len().min(SOME)].join(", ");
    Err(usage(format!("there is no kernel {}; the kernels are {some}{more}", quote::quoted(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_table() {
        assert_eq!(schedule::rows(EXAMPLE, "the example").unwrap().len(), 2);
    }
}
