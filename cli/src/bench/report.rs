//! What `rigc bench` found, as JSON and as a table.

use anyhow::Result;
use runtime::measure::{Copies, Machine};
use serde::Serialize;

/// Median and extremes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(samples: &[f64]) -> Spread {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let median = if n.is_multiple_of(2) { (at(n / 2) + at((n / 2).wrapping_sub(1))) / 2.0 } else { at(n / 2) };
        Spread { median, min: at(0), max: at(n.wrapping_sub(1)) }
    }
}

/// All that `rigc bench` prints; as JSON only the figures.
#[derive(Debug, Serialize)]
pub struct Report {
    pub model: String,
    #[serde(skip)]
    pub target: String,
    pub threads: usize,
    #[serde(skip)]
    pub prompt: usize,
    #[serde(skip)]
    pub tokens: usize,
    #[serde(skip)]
    pub depth: usize,
    #[serde(skip)]
    pub reps: u32,
    pub decode: Decode,
    pub prefill: Prefill,
    pub machine: Bounds,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
}

#[derive(Debug, Serialize)]
pub struct Decode {
    pub tokens_per_second: Spread,
    pub weight_gb_per_second: f64,
    pub share_of_read_bandwidth: f64,
}

#[derive(Debug, Serialize)]
pub struct Prefill {
    pub tokens_per_second: Spread,
    /// `null` where the peak is not measured.
    pub share_of_int8_peak: Option<f64>,
}

/// What measures the device that a model runs on.
pub enum Meter {
    Cpu(Machine),
    /// A device with memory of its own.
    Card(Copies),
}

/// The best that the device did: reads by a CPU's threads, or reads and writes of copies within a card's memory.
#[derive(Debug, Default, Serialize)]
pub struct Bounds {
    pub read_gb_per_second: f64,
    /// Of a CPU.
    pub int8_gmac_per_second: Option<f64>,
}

impl Bounds {
    /// Measures the device once more.
    pub fn measure(&mut self, meter: &mut Meter) -> Result<()> {
        let read = match meter {
            Meter::Cpu(machine) => {
                let dots = machine.int8_macs_per_second() / 1e9;
                self.int8_gmac_per_second = Some(self.int8_gmac_per_second.map_or(dots, |best| best.max(dots)));
                machine.read_bytes_per_second()
            }
            Meter::Card(copies) => copies.bytes_per_second()?,
        };
        self.read_gb_per_second = self.read_gb_per_second.max(read / 1e9);
        Ok(())
    }

    /// For people, a line.
    pub fn line(&self) -> String {
        let read = self.read_gb_per_second;
        match self.int8_gmac_per_second {
            Some(dots) => format!("machine: reads {read:.2} GB/s, {dots:.0} G int8 products/s\n"),
            None => format!("card: copies read and write {read:.2} GB/s\n"),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct PeerReport {
    pub decode: PeerRate,
    pub prefill: PeerRate,
}

#[derive(Debug, Serialize)]
pub struct PeerRate {
    pub tokens_per_second: Spread,
}

/// Medians of this program over the peer's.
#[derive(Debug, Serialize)]
pub struct Ratio {
    pub decode: f64,
    pub prefill: f64,
}

impl PeerReport {
    pub fn new(decode: Spread, prefill: Spread) -> PeerReport {
        PeerReport { decode: PeerRate { tokens_per_second: decode }, prefill: PeerRate { tokens_per_second: prefill } }
    }
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let Report { model, target, threads, prompt, tokens, depth, reps, decode, prefill, machine, .. } = self;
        let mut s = format!(
            "{model}, {target}, {threads} threads; prompt {prompt}, {tokens} tokens, depth {depth}, {reps} repetitions\n\n\
             {:<16} {:>10} {:>10} {:>10}\n",
            "tokens/s", "median", "min", "max"
        );
        let mut row = |name: &str, r: Spread, more: String| {
            let line = format!("{name:<16} {:>10.2} {:>10.2} {:>10.2}  {more}", r.median, r.min, r.max);
            s.push_str(line.trim_end());
            s.push('\n');
        };
        let share = |x: f64| x * 100.0;
        let read = share(decode.share_of_read_bandwidth);
        let gb = decode.weight_gb_per_second;
        row("decode", decode.tokens_per_second, format!("{gb:.2} GB/s of weights, {read:.0} % of read bandwidth"));
        let dots = prefill.share_of_int8_peak.map(|x| format!("{:.0} % of int8 peak", share(x)));
        row("prefill", prefill.tokens_per_second, dots.unwrap_or_default());
        if let (Some(peer), Some(ratio)) = (&self.peer, &self.ratio) {
            row("peer decode", peer.decode.tokens_per_second, format!("ratio {:.3}", ratio.decode));
            row("peer prefill", peer.prefill.tokens_per_second, format!("ratio {:.3}", ratio.prefill));
        }
        s + "\n" + &machine.line()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of(&[5.0]), Spread { median: 5.0, min: 5.0, max: 5.0 });
    }
}
