//! Pre-tokenization: splitting text into words, inside which alone tokens merge.
//!
//! A kind (`tokenizer.ggml.pre`) is a row of [`KINDS`]; to add one, add its row. The regexes run on an engine without
//! backtracking, so a split takes time linear in the text; the one look-ahead that these kinds use is [`Split::spaces`].

use super::vocab::quoted;
use crate::error::{Error, Result};
use regex_automata::{Anchored, Input, meta::Regex};

/// One kind of pre-tokenizer.
#[derive(Debug)]
pub(super) struct Kind {
    /// The values of `tokenizer.ggml.pre` that mean it.
    names: &'static [&'static str],
    /// Applied in turn, each to the pieces that the one before left.
    splits: &'static [Split],
    /// A word that is a token as a whole is that token, whatever its merges would make of it.
    pub(super) ignore_merges: bool,
    /// Whether a BOS token starts a prompt when the file does not say.
    pub(super) add_bos: bool,
}

/// One regex. Its matches, and what lies between them, become pieces.
#[derive(Debug)]
struct Split {
    regex: &'static str,
    /// The regex goes on with `|\s+(?!\S)|\s+`: of several whitespace characters before a word, the last belongs to
    /// the word.
    spaces: bool,
}

/// A split whose regex is all of it.
const fn isolate(regex: &'static str) -> Split {
    Split { regex, spaces: false }
}

/// GPT-2's, which several kinds apply to what other splits leave.
const GPT_2: Split = Split { regex: r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+", spaces: true };
/// Llama 3's.
const LLAMA_3: Split = Split {
    regex: r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    spaces: true,
};
/// Runs of characters of East Asia. Whitespace among them, such as U+3000, is none of them.
const CJK: Split = isolate(r"[[一-龥ࠀ-一가-\u{d7ff}]--\s]+");

/// The kinds this crate knows.
static KINDS: &[Kind] = &[
    Kind {
        names: &["default"],
        splits: &[isolate(r"[\p{P}\$\+<=>\^~\|]+"), GPT_2, isolate(r"\p{N}+"), isolate(r"[0-9][0-9][0-9]")],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
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
        ignore_merges: false,
        add_bos: false,
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
        ignore_merges: true,
        add_bos: true,
    },
    Kind { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], splits: &[LLAMA_3], ignore_merges: false, add_bos: false },
    Kind { names: &["glm4", "glm5"], splits: &[LLAMA_3], ignore_merges: true, add_bos: false },
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
        splits: &[Split {
            regex: r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
            spaces: true,
        }],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["qwen35"],
        splits: &[Split {
            regex: r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
            spaces: true,
        }],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        splits: &[Split {
            regex: r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
            spaces: true,
        }],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["tekken"],
        splits: &[Split {
            regex: r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
            spaces: true,
        }],
        ignore_merges: true,
        add_bos: true,
    },
    Kind {
        names: &["deepseek-llm"],
        splits: &[
            isolate(r"[\r\n]"),
            isolate(
                r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
            ),
            isolate(r"\s?[[!-/:-~！-／：-～‘-‟　-。]--\s]+"),
            isolate(r"\s+$"),
            CJK,
            isolate(r"\p{N}+"),
        ],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["deepseek-coder"],
        splits: &[isolate(r"[\r\n]"), isolate(r"\s?\p{L}+"), isolate(r"\s?\p{P}+"), CJK, isolate(r"\p{N}")],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        splits: &[
            isolate(r"\p{N}{1,3}"),
            isolate(r"[一-龥぀-ゟ゠-ヿ]+"),
            Split {
                regex: r##"[!"#$%\&'()*+,\-./:;<=>?@\[\\\]^_`{|}\~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"##,
                spaces: true,
            },
        ],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["falcon"],
        splits: &[isolate(r"[\p{P}\$\+<=>\^~\|`]+"), GPT_2, isolate(r"[0-9][0-9][0-9]")],
        ignore_merges: false,
        add_bos: false,
    },
    Kind {
        names: &["starcoder", "smollm", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        splits: &[isolate(r"\p{N}"), GPT_2],
        ignore_merges: false,
        add_bos: false,
    },
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

/// Pattern number of the look-ahead rule in a compiled [`Split`].
const SPACES: usize = 1;

/// The compiled regexes of a [`Kind`].
#[derive(Debug)]
pub(super) struct Splitter {
    regexes: Vec<Regex>,
}

impl Splitter {
    pub(super) fn new(kind: &Kind) -> Result<Self> {
        let compile = |split: &Split| {
            let patterns: &[&str] = if split.spaces { &[split.regex, r"\s+"] } else { &[split.regex] };
            Regex::new_many(patterns).map_err(|e| Error::unsupported(format!("the regex `{}` ({e})", split.regex), ""))
        };
        Ok(Splitter { regexes: kind.splits.iter().map(compile).collect::<Result<_>>()? })
    }

    /// Calls `word` with each word of `text`, in order; together they are `text`.
    pub(super) fn split<'t>(&self, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        split_with(&self.regexes, text, word);
    }
}

fn split_with<'t>(regexes: &[Regex], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    let Some((regex, rest)) = regexes.split_first() else {
        if !text.is_empty() {
            word(text);
        }
        return;
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
        let mut end = found.end();
        if found.pattern().as_usize() == SPACES && end < text.len() {
            let last = text[found.range()].char_indices().next_back().map_or(0, |(i, _)| i);
            if last > 0 {
                end = found.start() + last;
            }
        }
        split_with(rest, &text[found.start()..end], word);
        at = end;
    }
}
