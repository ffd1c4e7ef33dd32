//! Flags that choose a device, and the choice: a card where one fits, else the CPU.

use crate::failure::usage;
use crate::model::CompileArgs;
use crate::output::note;
use crate::places;
use anyhow::Result;
use ir::target::{self, Target};
use runtime::device::{Card, Kind, Options};
use std::io::IsTerminal;

/// Flags that choose a device and how it is used.
#[derive(Debug, Clone, clap::Args)]
pub struct DeviceArgs {
    /// Device: auto (a card if the model fits, else the CPU), cpu, cuda:N, or emu (emulates a GPU: slow, and checks every
    /// access)
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads of the CPU [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// On a card, launch kernels one by one instead of as a graph
    #[arg(long)]
    no_graph: bool,
    /// On a card, let no kernel begin before the one before it ends
    #[arg(long)]
    no_overlap: bool,
    /// Memory of the card that may be used, such as 24GiB [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    vram_limit: Option<u64>,
    /// With --device emu, errors of approximate instructions as large as the PTX ISA allows: 0 is none, every other number
    /// a choice
    #[arg(long, default_value_t = 0, value_name = "N")]
    approx_seed: u64,
}

impl DeviceArgs {
    /// The options for a device of this kind.
    fn options(&self, device: Kind) -> Options {
        Options {
            device,
            threads: self.threads.map_or(0, usize::from),
            approx_seed: self.approx_seed,
            graphs: !self.no_graph,
            overlaps: !self.no_overlap,
            vram_limit: self.vram_limit,
            cache: places::cache(),
            assembling: None,
        }
    }

    /// The options for code that is compiled already.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn given(&self) -> Result<Options> {
        Ok(self.options(self.device.parse()?))
    }

    /// The options, and what models are compiled for where no flag says it, for a model that is not compiled yet
    /// (`compiles`).
    ///
    /// # Errors
    /// If there is no such device.
    pub fn choose(&self, compile: &mut CompileArgs, compiles: bool) -> Result<Options> {
        let mut device: Kind = self.device.parse()?;
        let free = compile.target.is_none() && compile.card.is_none();
        match device {
            Kind::Auto if compiles && free => match best_card() {
                Ok(Found::Card(card, target)) => {
                    at_terminal(|| note!("{card} is there: the model runs on it if it fits"));
                    device = Kind::Cuda(card.ordinal);
                    (compile.default_target, compile.or_cpu) = (Some(target), true);
                }
                Ok(Found::StandIn(card)) => {
                    note!(
                        "{card} is no card; the model runs on the CPU, and there with --device cuda:{}",
                        card.ordinal
                    );
                }
                Ok(Found::Nothing) => at_terminal(|| note!("there is no card; the model runs on the CPU")),
                Err(why) => note!("{why}; the model runs on the CPU"),
            },
            Kind::Auto | Kind::Cpu => {}
            Kind::Cuda(ordinal) if compiles && free => {
                let card = Card::find(ordinal)?;
                let fit = of_card(&card);
                let refusal = || usage(format!("{card} runs none of rigc's targets; run on the CPU with --device cpu"));
                compile.default_target = Some(fit.ok_or_else(refusal)?);
            }
            Kind::Cuda(_) => {}
            Kind::Emu => compile.default_target = Some(*Target::by_name("sm_120")?),
        }
        Ok(self.options(device))
    }
}

/// What a look for cards finds.
enum Found {
    /// The first card, and its target.
    Card(Card, Target),
    /// A stand-in, which has to be asked for by name.
    StandIn(Card),
    /// No driver, or no card.
    Nothing,
}

/// Looks for a card.
///
/// # Errors
/// In words: what is wrong with a driver or card that is there.
fn best_card() -> Result<Found, String> {
    let Some(card) = Card::first().map_err(|e| e.to_string())? else { return Ok(Found::Nothing) };
    if card.is_stand_in() {
        return Ok(Found::StandIn(card));
    }
    let target = of_card(&card).ok_or_else(|| format!("{card} runs none of rigc's targets"))?;
    Ok(Found::Card(card, target))
}

/// Tells something that only people at a terminal want to know.
fn at_terminal(tell: impl FnOnce()) {
    if std::io::stderr().is_terminal() {
        tell();
    }
}

/// The best target that a card runs, for the card of its name or else the best-known of that target.
pub fn of_card(card: &Card) -> Option<Target> {
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let name = plain(&card.name);
    let target = target::ALL.iter().rfind(|t| t.gpu().is_some_and(|gpu| card.runs(gpu.sm)))?;
    let cards = target.gpu()?.cards.iter().filter(|known| name.contains(&plain(known.name)));
    let known = cards.max_by_key(|known| known.name.len());
    known.map_or(Some(*target), |known| target.with_card(known.name).ok())
}

/// A number of bytes: a figure and, without a space, KiB, MiB or GiB, KB, MB or GB.
pub fn size(text: &str) -> Result<u64, String> {
    const UNITS: &[(&str, u64)] = &[
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
    ];
    let wrong = || "a size is a figure and a unit, such as 24GiB or 800MB".to_owned();
    let (figure, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).ok_or_else(wrong)?;
    let figure: f64 = figure.trim().parse().map_err(|_| wrong())?;
    let bytes = figure * unit as f64;
    (bytes >= 1.0 && bytes < u64::MAX as f64).then_some(bytes as u64).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("24GiB", 24 << 30), ("800MB", 800_000_000), ("1.5KiB", 1536), ("30.8GiB", 33_071_248_179)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "24", "GiB", "-1GiB", "24 parsecs", "1e99GB", "nanGB", "0GB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
