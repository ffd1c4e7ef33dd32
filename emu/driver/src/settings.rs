//! The settings in the environment variable `CUDA_STANDIN`: `name=value`, comma-separated. Without the variable there is no
//! device. A setting that makes no sense is refused, because a test that it was meant for would test something else.

use crate::cards::{CARDS, Card};
use std::path::PathBuf;

/// The environment variable.
pub(crate) const VARIABLE: &str = "CUDA_STANDIN";
/// Memory of a card that its driver takes for itself, unless `memory=` says what is free: 0.6 GiB.
const TAKEN: u64 = 6 * (1 << 30) / 10;

/// A call that is made to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exported name; `None`: any.
    pub(crate) call: Option<String>,
    /// Which of these calls, from 1.
    pub(crate) nth: u64,
    /// What it answers.
    pub(crate) code: u32,
}

/// What the variable says.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) card: &'static Card,
    /// Bytes that are free before the first allocation.
    pub(crate) memory: u64,
    /// As `cuDriverGetVersion` says it: 13000 is 13.0.
    pub(crate) driver: u32,
    pub(crate) seed: u64,
    pub(crate) failures: Vec<Failure>,
    pub(crate) trace: Option<PathBuf>,
    /// What is held at exit is a finding.
    pub(crate) leaks: bool,
    /// Findings end the process.
    pub(crate) strict: bool,
}

impl Settings {
    /// What a text says; what it does not say has its default.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub(crate) fn parse(text: &str) -> Result<Settings, String> {
        let mut settings = Settings {
            card: &CARDS[0],
            memory: 0,
            driver: 13000,
            seed: 0,
            failures: Vec::new(),
            trace: None,
            leaks: false,
            strict: true,
        };
        let mut memory = None;
        for setting in text.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            let refuse = |what: &str| format!("{VARIABLE} has '{setting}', which {what}");
            let (name, value) = setting.split_once('=').ok_or_else(|| refuse("is not of the form name=value"))?;
            let number = || value.parse::<u64>().map_err(|_| refuse("has no whole number"));
            let switch = || match value {
                "0" => Ok(false),
                "1" => Ok(true),
                _ => Err(refuse("is neither 0 nor 1")),
            };
            match name {
                "card" => {
                    settings.card = CARDS.iter().find(|c| c.name == value).ok_or_else(|| {
                        let names: Vec<_> = CARDS.iter().map(|c| c.name).collect();
                        refuse(&format!("is no card that is known; these are: {}", names.join(", ")))
                    })?;
                }
                "memory" => memory = Some(bytes(value).ok_or_else(|| refuse("is no size, such as 30.8GiB"))?),
                "driver" => {
                    settings.driver = u32::try_from(number()?)
                        .ok()
                        .filter(|v| (11000..20000).contains(v))
                        .ok_or_else(|| refuse("is no version of a driver, such as 13000"))?;
                }
                "seed" => settings.seed = number()?,
                "fail" => {
                    settings.failures.push(failure(value).ok_or_else(|| refuse("is not of the form CALL@N:ERROR"))?)
                }
                "trace" => settings.trace = Some(value.into()),
                "leaks" => settings.leaks = switch()?,
                "strict" => settings.strict = switch()?,
                _ => return Err(refuse("is not known")),
            }
        }
        let total = settings.card.memory();
        settings.memory = memory.unwrap_or(total - TAKEN);
        if settings.memory > total {
            return Err(format!("{VARIABLE} has more free memory than the {total} bytes of a {}", settings.card.name));
        }
        Ok(settings)
    }
}

/// `cuMemAlloc_v2@3:2`.
fn failure(text: &str) -> Option<Failure> {
    let (call, rest) = text.split_once('@')?;
    let (nth, code) = rest.split_once(':')?;
    let nth = nth.parse().ok().filter(|&n| n > 0)?;
    let code = code.parse().ok().filter(|&c| c > 0)?;
    (!call.is_empty()).then(|| Failure { call: (call != "*").then(|| call.to_owned()), nth, code })
}

/// A size: digits, perhaps with a decimal point, and a unit.
fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * unit;
    (bytes < 1e15).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_defaults_and_are_read() {
        let s = Settings::parse("").unwrap();
        assert_eq!((s.card.name, s.driver, s.seed, s.leaks, s.strict), ("rtx5090", 13000, 0, false, true));
        assert_eq!(s.memory, (32 << 30) - TAKEN);
        let s =
            Settings::parse(" card=a100,memory=1.5GiB, fail=cuMemAlloc_v2@3:2,fail=*@7:999,leaks=1,strict=0,trace=/t")
                .unwrap();
        assert_eq!((s.card.name, s.memory, s.leaks, s.strict), ("a100", 3 << 29, true, false));
        let call = Some("cuMemAlloc_v2".to_owned());
        let (first, any) = (Failure { call, nth: 3, code: 2 }, Failure { call: None, nth: 7, code: 999 });
        assert_eq!(s.failures, [first, any]);
        assert_eq!(s.trace, Some("/t".into()));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, part) in [
            ("card=voodoo", "is no card that is known"),
            ("memory=33GiB", "more free memory"),
            ("memory=much", "is no size"),
            ("driver=7", "no version of a driver"),
            ("fail=cuInit", "CALL@N:ERROR"),
            ("fail=cuInit@0:1", "CALL@N:ERROR"),
            ("strict=yes", "neither 0 nor 1"),
            ("colour=red", "is not known"),
            ("loud", "name=value"),
        ] {
            let said = Settings::parse(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
