//! What a suite found, as RON and as a table.

use crate::bench::report::Spread;
use serde::Serialize;
use std::fmt::Write;

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub rigc: String,
    pub device: String,
    /// Whether the device is emulated, so that its times mean nothing.
    pub emulated: bool,
    pub target: String,
    /// The card whose figures the predictions are made with.
    pub card: String,
    pub driver: i32,
    pub seconds: f64,
    pub conformance: Vec<Conformance>,
    /// Bytes that copies within the card's memory read and write.
    pub copy_gb_per_second: Option<Spread>,
    pub products: Vec<Product>,
    pub phases: Vec<Phase>,
    pub decode: Vec<Decode>,
    /// What was not measured, and why.
    pub left_out: Vec<String>,
}

/// The kernels of a model of one layer and one format.
#[derive(Debug, Serialize)]
pub struct Conformance {
    pub format: String,
    pub kv: String,
    pub kernels: usize,
    pub trials: usize,
    /// The largest difference, as a share of what is tolerated.
    pub error: f32,
    /// Kernels that compute something else, and what.
    pub wrong: Vec<String>,
}

/// A product of a matrix and a vector. Figures are of one launch.
#[derive(Debug, Serialize)]
pub struct Product {
    pub shape: String,
    pub format: String,
    pub kernel: String,
    /// How the weights come: `loads`, or `ring N` of so many chunks.
    pub path: String,
    /// Whether this is what rigc chooses.
    pub chosen: bool,
    pub bytes: u64,
    pub microseconds: Spread,
    pub gb_per_second: f64,
    pub share_of_copies: f64,
    pub predicted_microseconds: f64,
}

/// A step with and without graphs and early starts.
#[derive(Debug, Serialize)]
pub struct Phase {
    pub model: String,
    pub graph: bool,
    pub overlap: bool,
    pub launches: usize,
    pub step_microseconds: Spread,
    /// The sum of all launches, each kernel alone.
    pub kernels_microseconds: f64,
    /// What is left of the step, for each launch.
    pub overhead_microseconds: f64,
}

/// Decoding at a position.
#[derive(Debug, Serialize)]
pub struct Decode {
    pub model: String,
    pub layers: usize,
    pub position: usize,
    pub milliseconds: Spread,
    pub tokens_per_second: f64,
    pub gb: f64,
    pub gb_per_second: f64,
    pub share_of_copies: f64,
    pub predicted_tokens_per_second: f64,
}

impl Report {
    /// Whether every kernel computes what it should.
    pub fn conforms(&self) -> bool {
        self.conformance.iter().all(|c| c.wrong.is_empty())
    }

    /// For people.
    pub fn table(&self) -> Result<String, std::fmt::Error> {
        let mut s = String::new();
        let Report { rigc, device, target, card, driver, seconds, .. } = self;
        writeln!(s, "rigc {rigc} on {device}, driver {driver}; {target}, predictions for {card}; {seconds:.0} s")?;
        if self.emulated {
            writeln!(s, "The device is emulated: its times mean nothing.")?;
        }
        writeln!(s, "\n{:<10} {:<5} {:>7} {:>7} {:>9}", "format", "KV", "kernels", "trials", "tolerated")?;
        for c in &self.conformance {
            let (kernels, trials, share) = (c.kernels, c.trials, c.error * 100.0);
            writeln!(s, "{:<10} {:<5} {kernels:>7} {trials:>7} {share:>7.1} %", c.format, c.kv)?;
            c.wrong.iter().try_for_each(|wrong| writeln!(s, "  WRONG {wrong}"))?;
        }
        if let Some(Spread { median, min, max }) = self.copy_gb_per_second {
            writeln!(s, "\ncopies: {median:.1} GB/s read and written ({min:.1} to {max:.1})")?;
        }
        let heads = ["us", "min", "max", "GB/s", "of copy", "predicted"];
        let [us, min, max, gb, copy, predicted] = heads;
        writeln!(
            s,
            "\n{:<10} {:<8} {:<14} {:<8} {us:>9} {min:>9} {max:>9} {gb:>8} {copy:>8} {predicted:>9}",
            "shape", "format", "kernel", "path"
        )?;
        for p in &self.products {
            let Spread { median, min, max } = p.microseconds;
            let path = format!("{}{}", p.path, if p.chosen { " *" } else { "" });
            writeln!(
                s,
                "{:<10} {:<8} {:<14} {path:<8} {median:>9.2} {min:>9.2} {max:>9.2} {:>8.1} {:>6.1} % {:>9.2}",
                p.shape,
                p.format,
                p.kernel,
                p.gb_per_second,
                p.share_of_copies * 100.0,
                p.predicted_microseconds
            )?;
        }
        writeln!(
            s,
            "* what rigc chooses\n\n{:<20} {:<6} {:<8} {:>8} {us:>10} {min:>10} {max:>10} {:>10} {:>9}",
            "step", "graph", "overlap", "launches", "kernels", "overhead"
        )?;
        let flag = |on: bool| if on { "yes" } else { "no" };
        for p in &self.phases {
            let Spread { median, min, max } = p.step_microseconds;
            writeln!(
                s,
                "{:<20} {:<6} {:<8} {:>8} {median:>10.1} {min:>10.1} {max:>10.1} {:>10.1} {:>9.2}",
                p.model,
                flag(p.graph),
                flag(p.overlap),
                p.launches,
                p.kernels_microseconds,
                p.overhead_microseconds
            )?;
        }
        writeln!(
            s,
            "\n{:<24} {:>6} {:>8} {:>9} {min:>9} {max:>9} {:>8} {gb:>8} {copy:>8} {predicted:>9}",
            "decode", "layers", "position", "ms", "tok/s"
        )?;
        for d in &self.decode {
            let Spread { median, min, max } = d.milliseconds;
            writeln!(
                s,
                "{:<24} {:>6} {:>8} {median:>9.3} {min:>9.3} {max:>9.3} {:>8.1} {:>8.1} {:>6.1} % {:>9.1}",
                d.model,
                d.layers,
                d.position,
                d.tokens_per_second,
                d.gb_per_second,
                d.share_of_copies * 100.0,
                d.predicted_tokens_per_second
            )?;
        }
        self.left_out.iter().try_for_each(|what| writeln!(s, "left out: {what}"))?;
        Ok(s)
    }
}
