//! Code as programs hand it to the driver: PTX, the stand-in's own machine code (a "cubin" that holds PTX for one card and
//! driver), fat binaries with PTX in them. Machine code of real cards is refused. What comes out is PTX texts.

use crate::abi::Raw;
use crate::error::{Answer, Error};
use sha2::{Digest, Sha256};

/// What the stand-in's machine code begins with.
const MAGIC: [u8; 8] = *b"\x7fSTANDIN";
/// Bytes of its head: magic, length of the body, hash of these and of the body.
const HEAD: usize = 8 + 8 + 32 + 32;
/// What fat binaries begin with, and the structure that points to one.
const FAT: u32 = 0xba55_ed50;
const FAT_WRAPPER: u32 = 0x4662_43b1;
/// What an ELF file begins with.
const ELF: [u8; 4] = *b"\x7fELF";
/// Bytes of code, at most.
const MOST: u64 = 1 << 30;

/// A PTX text with the name that messages give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Why code is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error: Error,
    /// For the log of the compiler.
    pub(crate) log: String,
    /// The stand-in lacks something that a driver has.
    pub(crate) ours: bool,
}

impl Refusal {
    pub(crate) fn new(error: Error, log: impl Into<String>) -> Refusal {
        Refusal { error, log: log.into(), ours: false }
    }

    /// For something that a driver would take.
    pub(crate) fn ours(error: Error, log: impl Into<String>) -> Refusal {
        Refusal { error, log: log.into(), ours: true }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::new(error, "")
    }
}

/// Machine code for a card and a driver.
pub(crate) fn assemble(card: &str, driver: u32, sources: &[Source]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |bytes: &[u8]| {
        body.extend((bytes.len() as u64).to_le_bytes());
        body.extend(bytes);
    };
    put(card.as_bytes());
    put(&driver.to_le_bytes());
    for source in sources {
        put(source.name.as_bytes());
        put(source.text.as_bytes());
    }
    let mut head = MAGIC.to_vec();
    head.extend((body.len() as u64).to_le_bytes());
    let hash = Sha256::digest(&head);
    head.extend(hash);
    head.extend(Sha256::digest(&body));
    head.extend(body);
    head
}

/// The length of machine code by its head.
fn length(head: &[u8]) -> Result<usize, Refusal> {
    let bad = || Refusal::new(Error::INVALID_IMAGE, "the head of the machine code is damaged");
    let (length, hash) = head.get(..HEAD).map(|h| (&h[8..16], &h[16..48])).ok_or_else(bad)?;
    if Sha256::digest(&head[..16])[..] != *hash {
        return Err(bad());
    }
    let length = length.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    usize::try_from(length).ok().filter(|&n| n as u64 <= MOST).map(|n| n + HEAD).ok_or_else(bad)
}

/// The texts in machine code.
fn disassemble(code: &[u8], card: &str, driver: u32) -> Result<Vec<Source>, Refusal> {
    let bad = || Refusal::new(Error::INVALID_IMAGE, "the machine code is damaged");
    let body = code.get(HEAD..length(code)?).ok_or_else(bad)?;
    if Sha256::digest(body)[..] != code[48..80] {
        return Err(bad());
    }
    let mut rest = body;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk().ok_or_else(bad)?;
        let (part, after) = after.split_at_checked(u64::from_le_bytes(*length) as usize).ok_or_else(bad)?;
        parts.push(part);
        rest = after;
    }
    let [of_card, of_driver, texts @ ..] = &parts[..] else { return Err(bad()) };
    if *of_card != card.as_bytes() {
        let log = format!("machine code for {} does not run on {card}", String::from_utf8_lossy(of_card));
        return Err(Refusal::new(Error::NO_BINARY_FOR_GPU, log));
    }
    if **of_driver != driver.to_le_bytes() {
        return Err(Refusal::new(Error::INVALID_IMAGE, "machine code of another driver"));
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| bad());
    texts.chunks_exact(2).map(|pair| Ok(Source { name: text(pair[0])?, text: text(pair[1])? })).collect()
}

fn machine_code() -> Refusal {
    let log = "machine code of real cards is not executed; give the driver PTX";
    Refusal::ours(Error::NO_BINARY_FOR_GPU, log)
}

/// PTX as bytes.
fn ptx(bytes: &[u8]) -> Result<Vec<Source>, Refusal> {
    let bytes = bytes.split(|&b| b == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(bytes).into_owned();
    Ok(vec![Source { name: "ptx".into(), text }])
}

/// The texts of code whose size is known.
pub(crate) fn read(bytes: &[u8], card: &str, driver: u32, sm: u32) -> Result<Vec<Source>, Refusal> {
    if bytes.starts_with(&MAGIC) {
        disassemble(bytes, card, driver)
    } else if bytes.starts_with(&ELF) {
        Err(machine_code())
    } else if bytes.starts_with(&FAT.to_le_bytes()) {
        fat(bytes, sm)
    } else {
        ptx(bytes)
    }
}

/// The texts of code whose end is to be found in it.
pub(crate) fn read_at(image: Raw, card: &str, driver: u32, sm: u32) -> Result<Vec<Source>, Refusal> {
    let start = image.bytes(4)?;
    let word = u32::from_le_bytes([start[0], start[1], start[2], start[3]]);
    if start == MAGIC[..4] {
        // An ELF file differs from it in the second byte.
        let code = image.bytes(length(&image.bytes(HEAD)?)?)?;
        disassemble(&code, card, driver)
    } else if start == ELF {
        Err(machine_code())
    } else if word == FAT_WRAPPER {
        let data = image.input::<usize>().at(1)?;
        let inner = crate::abi::In::<u8>::new(data).raw();
        fat(&fat_bytes(inner)?, sm)
    } else if word == FAT {
        fat(&fat_bytes(image)?, sm)
    } else {
        ptx(&image.until_zero()?)
    }
}

/// The bytes of a fat binary in memory.
fn fat_bytes(image: Raw) -> Answer<Vec<u8>> {
    let head = image.bytes(16)?;
    let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap_or_default());
    let (own, rest) = (u64::from(u16::from_le_bytes([head[6], head[7]])), field(8));
    if head[..4] != FAT.to_le_bytes() || rest > MOST {
        return Err(Error::INVALID_IMAGE);
    }
    image.bytes((own + rest) as usize)
}

/// The best PTX of a fat binary: that for the highest card that is not above this one.
fn fat(bytes: &[u8], sm: u32) -> Result<Vec<Source>, Refusal> {
    let bad = || Refusal::new(Error::INVALID_IMAGE, "the fat binary is damaged");
    let u16_at = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let u32_at = |at: usize| Some(u32::from(u16_at(at)?) | u32::from(u16_at(at + 2)?) << 16);
    let mut at = usize::from(u16_at(6).ok_or_else(bad)?);
    let mut best: Option<(u32, Source)> = None;
    let (mut packed, mut machine) = (false, false);
    while at < bytes.len() {
        let entry = || {
            Some((u16_at(at)?, u32_at(at + 4)?, u32_at(at + 8)?, u32_at(at + 12)?, u32_at(at + 28)?, u32_at(at + 40)?))
        };
        let (kind, head, padded, high, of, flags) = entry().ok_or_else(bad)?;
        let from = at + head as usize;
        if head < 64 || high != 0 {
            return Err(bad());
        }
        let body = bytes.get(from..from + padded as usize).ok_or_else(bad)?;
        at = from + padded as usize;
        // PTX is kind 1, an ELF file 2. Bit 13 says that it is compressed by LZ4, bit 15 that it is by zstd.
        match kind {
            1 if flags & 0xa000 != 0 => packed = true,
            1 if of <= sm && best.as_ref().is_none_or(|(b, _)| *b < of) => {
                best = ptx(body)?.pop().map(|source| (of, source));
            }
            1 => {}
            _ => machine = true,
        }
    }
    match best {
        Some((_, source)) => Ok(vec![source]),
        None if packed => {
            let log = "the PTX of the fat binary is compressed; compile it with --no-compress, or give the driver PTX";
            Err(Refusal::ours(Error::NO_BINARY_FOR_GPU, log))
        }
        None if machine => Err(machine_code()),
        None => Err(Refusal::new(Error::NO_BINARY_FOR_GPU, "the fat binary has no code for this card")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<Source> {
        vec![Source { name: "a".into(), text: ".version 8.0".into() }, Source { name: "b".into(), text: "x".into() }]
    }

    #[test]
    fn machine_code_is_for_one_card_and_driver() {
        let code = assemble("h100", 13000, &sources());
        assert_eq!(read(&code, "h100", 13000, 90), Ok(sources()));
        let error = |code: &[u8], card, driver| read(code, card, driver, 90).unwrap_err().error;
        assert_eq!(error(&code, "a100", 13000), Error::NO_BINARY_FOR_GPU);
        assert_eq!(error(&code, "h100", 12080), Error::INVALID_IMAGE);
        for i in 4..code.len() {
            let mut damaged = code.clone();
            damaged[i] ^= 1;
            let read = read(&damaged, "h100", 13000, 90);
            assert!(i < 8 || read.is_err(), "byte {i}: {read:?}");
            assert!(crate::image::read(&code[..i], "h100", 13000, 90).is_err() || i < 8);
        }
    }

    #[test]
    fn a_fat_binary_gives_its_best_ptx() {
        let entry = |kind: u16, of: u32, flags: u32, text: &str| {
            let mut body = text.as_bytes().to_vec();
            body.resize(body.len().next_multiple_of(8) + 8, 0);
            let mut entry = vec![0; 64];
            entry[..2].copy_from_slice(&kind.to_le_bytes());
            entry[4..8].copy_from_slice(&64_u32.to_le_bytes());
            entry[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
            entry[28..32].copy_from_slice(&of.to_le_bytes());
            entry[40..44].copy_from_slice(&flags.to_le_bytes());
            entry.extend(body);
            entry
        };
        let binary = |entries: &[Vec<u8>]| {
            let all = entries.concat();
            let mut fat = FAT.to_le_bytes().to_vec();
            fat.extend([1, 0, 16, 0]);
            fat.extend((all.len() as u64).to_le_bytes());
            fat.extend(all);
            fat
        };
        let both = [entry(1, 80, 0, "old"), entry(1, 90, 0, "new"), entry(1, 120, 0, "far"), entry(2, 90, 0, "elf")];
        assert_eq!(read(&binary(&both), "h100", 13000, 90).unwrap()[0].text, "new");
        let error = |entries: &[Vec<u8>]| read(&binary(entries), "h100", 13000, 90).unwrap_err();
        assert!(error(&[entry(1, 90, 0x2000, "lz4")]).log.contains("compressed"));
        assert!(error(&[entry(2, 90, 0, "elf")]).log.contains("machine code"));
        assert_eq!(error(&[entry(1, 120, 0, "far")]).error, Error::NO_BINARY_FOR_GPU);
        let whole = binary(&both);
        for end in 4..whole.len() {
            assert!(read(&whole[..end], "h100", 13000, 90).is_err() || end % 8 == 0, "{end}");
        }
    }
}
