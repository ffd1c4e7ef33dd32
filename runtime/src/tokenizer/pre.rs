//! Pre-tokenization: splitting text into words, inside which alone tokens merge.
//!
//! A kind (`tokenizer.ggml.pre`) is a row of [`KINDS`]; to add one, add its row. The regexes run on an engine without
//! backtracking, so a split takes time linear in the text; what has to look ahead is a [`Split`] of its own.

use super::vocab::{GEMMA_4, quoted};
use crate::error::{Error, Result};
use regex_automata::{Anchored, Input, meta::Regex};

/// One kind of pre-tokenizer.
#[derive(Debug)]
pub(super) struct Kind {
    /// The values of `tokenizer.ggml.pre` that mean it.
    names: &'static [&'static str],
    /// Applied in turn, each to the pieces that the one before left.
    splits: &'static [Split],
    pub(super) spelling: Spelling,
    /// The words that, where they are a token as a whole, are that token, whatever merges would make of them.
    pub(super) whole: Whole,
    /// Whether a BOS token starts a prompt; where the file says so, the file counts, unless the kind asks for BOS always.
    pub(super) bos: Bos,
}

/// How tokens and merges spell text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// In the byte-level alphabet, a character for each byte.
    Bytes,
    /// As it is, with U+2581 for a space.
    Text,
}

/// Words that are not merged where they are tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    None,
    Newlines,
    All,
}

/// When a BOS token starts a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bos {
    /// If the file says so.
    Asked,
    /// Unless the file says no.
    Default,
    Always,
}

/// What most kinds have.
const KIND: Kind = Kind { names: &[], splits: &[], spelling: Spelling::Bytes, whole: Whole::None, bos: Bos::Asked };

/// One step of splitting.
#[derive(Debug)]
enum Split {
    /// The matches of a regex, and what lies between them, become pieces.
    Matches(&'static str),
    /// The same, where the regex goes on with `|\s+(?!\S)|\s+`: of several whitespace characters before a word, the last
    /// belongs to the word.
    Words(&'static str),
    /// The same, where it goes on with `|\s{512}(?!\S)|\s{256}(?!\S)`, and so on to 4, `|\s{1,2}(?!\S)|\s`.
    Halving(&'static str),
    /// Runs of numbers are cut into threes from their end; what comes before a run is of one piece with its begin.
    Threes,
    /// Runs of ASCII digits are; one that threes fill begins a piece, and what comes after a run is of one piece with its
    /// end.
    AsciiThrees,
}

use Split::{AsciiThrees, Halving, Matches, Threes, Words};

/// GPT-2's, which several kinds apply to what other splits leave.
const GPT_2: Split = Words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
/// Llama 3's.
const LLAMA_3: Split = Words(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
/// Qwen 2's.
const QWEN_2: Split = Words(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);
/// What DeepSeek 3 and others do with the words that other splits leave.
const DEEPSEEK_3: Split = Words(
    r##"[!"#$%\&'()*+,\-./:;<=>?@\[\\\]^_`{|}\~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"##,
);
/// Runs of characters of East Asia. Whitespace among them, such as U+3000, is none of them.
const CJK: Split = Matches(r"[[一-龥ࠀ-一가-\u{d7ff}]--\s]+");
/// Chinese and Japanese.
const HAN_AND_KANA: Split = Matches(r"[一-龥぀-ゟ゠-ヿ]+");
/// Lines, and what is between them.
const LINES: Split = Matches(r"[^\n]+|\n+");
/// Words up to a space or the marks that end sentences.
const UP_TO_MARKS: Split = Matches(r" ?[^(\s|.,!?…。，、।۔،)]+");

/// The kinds this crate knows.
static KINDS: &[Kind] = &[
    Kind {
        names: &["default"],
        splits: &[Matches(r"[\p{P}\$\+<=>\^~\|]+"), GPT_2, Matches(r"\p{N}+"), Matches(r"[0-9][0-9][0-9]")],
        ..KIND
    },
    Kind {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-code",
            "jina-v2-es",
            "jina-v2-de",
            "roberta-bpe",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        splits: &[GPT_2],
        ..KIND
    },
    Kind {
        names: &[
            "llama-bpe",
            "llama-v3",
            "llama3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        splits: &[LLAMA_3],
        whole: Whole::All,
        bos: Bos::Default,
        ..KIND
    },
    Kind { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], splits: &[LLAMA_3], ..KIND },
    Kind { names: &["glm4", "glm5"], splits: &[LLAMA_3], whole: Whole::All, ..KIND },
    Kind {
        names: &["jais-2"],
        splits: &[Halving(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        )],
        ..KIND
    },
    Kind {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "megrez",
            "stablelm2",
            "hunyuan",
            "kormo",
            "f2llmv2",
            "solar-open",
            "grok-2",
        ],
        splits: &[QWEN_2],
        ..KIND
    },
    Kind { names: &["laguna"], splits: &[LINES, QWEN_2], ..KIND },
    Kind {
        names: &["qwen35"],
        splits: &[Words(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
        )],
        ..KIND
    },
    Kind {
        names: &["ufakzeka"],
        splits: &[Words(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+")],
        ..KIND
    },
    Kind {
        names: &["seed-coder"],
        splits: &[Words(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+",
        )],
        ..KIND
    },
    Kind {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        splits: &[Words(
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]",
        )],
        ..KIND
    },
    Kind {
        names: &["exaone-moe"],
        splits: &[Words(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]",
        )],
        ..KIND
    },
    Kind {
        names: &["minicpm5"],
        splits: &[
            Matches(r"\p{N}{1,3}"),
            Words(
                r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
            ),
        ],
        whole: Whole::All,
        ..KIND
    },
    Kind {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        splits: &[Words(
            r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
        )],
        ..KIND
    },
    Kind {
        names: &["granite-embed-multi-97m"],
        splits: &[Words(
            r"[^\r\n\p{L}\p{N}]?[[\p{L}\p{M}]&&[^a-z]]*[[\p{L}\p{M}]&&[^A-Z]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[[\p{L}\p{M}]&&[^a-z]]+[[\p{L}\p{M}]&&[^A-Z]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
        )],
        whole: Whole::All,
        ..KIND
    },
    Kind {
        names: &["tiny_aya", "cohere2moe"],
        splits: &[
            Threes,
            Words(
                r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
            ),
        ],
        ..KIND
    },
    Kind {
        names: &["youtu"],
        splits: &[
            Matches(r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"),
            Words(
                r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
            ),
        ],
        whole: Whole::All,
        ..KIND
    },
    Kind {
        names: &["tekken"],
        splits: &[Words(
            r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
        )],
        whole: Whole::All,
        bos: Bos::Default,
        ..KIND
    },
    Kind {
        names: &["kimi-k2"],
        splits: &[
            // Han by their blocks, as the model's own pattern has them by their script.
            Words(
                r"[一-鿿㐀-䶿\u{20000}-\u{2a6df}\u{2a700}-\u{2ebef}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]+|[^\r\n\p{L}\p{N}]?[\p{L}--[一-鿿㐀-䶿\u{20000}-\u{2a6df}\u{2a700}-\u{2ebef}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
            ),
        ],
        ..KIND
    },
    Kind { names: &["superbpe"], splits: &[Matches(r"\p{N}+"), AsciiThrees], ..KIND },
    Kind {
        names: &["deepseek-llm"],
        splits: &[
            Matches(r"[\r\n]"),
            Matches(
                r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
            ),
            Matches(r"\s?[[!-/:-~！-／：-～‘-‟　-。]--\s]+"),
            Matches(r"\s+$"),
            CJK,
            Matches(r"\p{N}+"),
        ],
        ..KIND
    },
    Kind {
        names: &["deepseek-coder"],
        splits: &[Matches(r"[\r\n]"), Matches(r"\s?\p{L}+"), Matches(r"\s?\p{P}+"), CJK, Matches(r"\p{N}")],
        ..KIND
    },
    Kind {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        splits: &[Matches(r"\p{N}{1,3}"), HAN_AND_KANA, DEEPSEEK_3],
        ..KIND
    },
    Kind {
        names: &["spark2_5"],
        splits: &[
            Matches(r"\p{N}{1,3}"),
            HAN_AND_KANA,
            Words(
                r##"[!"#$%\&'()*+,\-./:;<=>?@\[\\\]^_`{|}\~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]"##,
            ),
            Matches(r"\p{N}"),
        ],
        ..KIND
    },
    Kind {
        names: &["afmoe"],
        splits: &[Threes, Matches(r"[[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]--\s]+"), DEEPSEEK_3],
        ..KIND
    },
    Kind {
        names: &["falcon"],
        splits: &[Matches(r"[\p{P}\$\+<=>\^~\|`]+"), GPT_2, Matches(r"[0-9][0-9][0-9]")],
        ..KIND
    },
    Kind {
        names: &["starcoder", "smollm", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        splits: &[Matches(r"\p{N}"), GPT_2],
        ..KIND
    },
    Kind {
        names: &["chameleon"],
        splits: &[
            Matches(r"<sentinel:[0-9]+>"),
            Matches(r"IMGIMG[A-I]{1,4}Z"),
            Matches(r"[\t\n]|    |  "),
            Matches(r"\p{N}"),
            Matches(r"[\p{P}!-/:-@\[-`{-~]"),
            GPT_2,
        ],
        bos: Bos::Default,
        ..KIND
    },
    Kind { names: &["poro-chat", "bloom", "gpt3-finnish"], splits: &[UP_TO_MARKS], ..KIND },
    Kind { names: &["viking"], splits: &[UP_TO_MARKS, Matches(r"\p{N}")], ..KIND },
    Kind {
        names: &[GEMMA_4, "granite-embed-multi-311m"],
        splits: &[LINES],
        spelling: Spelling::Text,
        whole: Whole::Newlines,
        bos: Bos::Always,
    },
    Kind { names: &["sarvam-moe"], splits: &[LINES], spelling: Spelling::Text, ..KIND },
];

/// The row of `name`.
///
/// # Errors
/// [`Error::Unsupported`] for a name in no row.
pub(super) fn kind(name: &str) -> Result<&'static Kind> {
    KINDS.iter().find(|k| k.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().flat_map(|k| k.names).copied().collect();
        Error::unsupported(
            format!("the pre-tokenizer {} (tokenizer.ggml.pre)", quoted(name)),
            format!("supported are {}", known.join(", ")),
        )
    })
}

/// Pattern number of runs of whitespace in a compiled [`Split`].
const SPACES: usize = 1;
/// What [`Split::Halving`] takes of a run at once, characters.
const HALVES: [usize; 10] = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1];

/// The compiled splits of a [`Kind`].
#[derive(Debug)]
pub(super) struct Splitter {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// A regex, and whether runs of whitespace are cut by [`HALVES`].
    Regex(Regex, bool),
    /// Which characters are digits, and how many of a run come before its first cut.
    Threes(fn(char) -> bool, usize),
}

impl Splitter {
    pub(super) fn new(kind: &Kind) -> Result<Self> {
        Ok(Splitter { steps: kind.splits.iter().map(step).collect::<Result<_>>()? })
    }

    /// Calls `word` with each word of `text`, in order; together they are `text`.
    pub(super) fn split<'t>(&self, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        split_with(&self.steps, text, word);
    }
}

fn step(split: &Split) -> Result<Step> {
    let compile = |patterns: &[&str]| {
        let refuse = |e| Error::unsupported(format!("the regex `{}` ({e})", patterns[0]), "");
        Regex::new_many(patterns).map_err(refuse)
    };
    Ok(match split {
        Matches(regex) => Step::Regex(compile(&[regex])?, false),
        Words(regex) => Step::Regex(compile(&[regex, r"\s+"])?, false),
        Halving(regex) => Step::Regex(compile(&[regex, r"\s+"])?, true),
        Threes => Step::Threes(char::is_numeric, 1),
        AsciiThrees => Step::Threes(|c| c.is_ascii_digit(), 0),
    })
}

fn split_with<'t>(steps: &[Step], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    let Some((step, rest)) = steps.split_first() else {
        if !text.is_empty() {
            word(text);
        }
        return;
    };
    let (regex, halving) = match step {
        Step::Regex(regex, halving) => (regex, *halving),
        Step::Threes(digit, first) => {
            return threes(text, *digit, *first, &mut |piece| split_with(rest, piece, word));
        }
    };
    let mut at = 0;
    while at < text.len() {
        // Most words start where the last one ended, and an anchored search is the cheaper one.
        let input = Input::new(text).range(at..);
        let found = regex.search(&input.clone().anchored(Anchored::Yes)).or_else(|| regex.search(&input));
        let Some(found) = found.filter(|m| !m.is_empty()) else {
            return split_with(rest, &text[at..], word);
        };
        if found.start() > at {
            split_with(rest, &text[at..found.start()], word);
        }
        let (mut end, spaces) = (found.end(), found.pattern().as_usize() == SPACES);
        if spaces && end < text.len() {
            let last = text[found.range()].char_indices().next_back().map_or(0, |(i, _)| i);
            if last > 0 {
                end = found.start() + last;
            }
        }
        let mut piece = &text[found.start()..end];
        while let Some(cut) = (spaces && halving).then(|| half(piece)).flatten() {
            split_with(rest, &piece[..cut], word);
            piece = &piece[cut..];
        }
        split_with(rest, piece, word);
        at = end;
    }
}

/// Bytes of the most of [`HALVES`] characters that `run` has; `None` if it has no more than those.
fn half(run: &str) -> Option<usize> {
    HALVES.into_iter().find_map(|n| match run.char_indices().nth(n) {
        Some((i, _)) => Some(Some(i)),
        None => run.char_indices().nth(n - 1).map(|_| None),
    })?
}

/// Calls `piece` with the pieces of `text`, which is cut where threes of digits fill the rest of a run: after `first` of
/// its digits at the earliest, and at its end only where not before it.
fn threes<'t>(text: &'t str, digit: fn(char) -> bool, first: usize, piece: &mut dyn FnMut(&'t str)) {
    let (mut done, mut at) = (0, 0);
    while let Some(begin) = text[at..].find(digit).map(|i| at + i) {
        let end = text[begin..].find(|c| !digit(c)).map_or(text.len(), |i| begin + i);
        let count = text[begin..end].chars().count();
        let places = text[begin..end].char_indices().map(|(i, _)| begin + i).chain([end]);
        for (n, cut) in places.enumerate().skip(first).take(count) {
            if (count - n).is_multiple_of(3) && cut > done {
                piece(&text[done..cut]);
                done = cut;
            }
        }
        at = end;
    }
    if done < text.len() {
        piece(&text[done..]);
    }
}
