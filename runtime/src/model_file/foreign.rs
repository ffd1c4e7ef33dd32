//! Files that are no models for this program, named for what they are.
//!
//! [`Other::of_bytes`] knows files of other formats by how they begin, [`Other::of_header`] GGUF files that hold something
//! else than a model that writes text. Tables say what each is and what to do instead.

use ir::gguf::{Metadata, TensorInfo};
use ir::quote::quoted;
use std::path::Path;

/// What a file is instead of a model, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    what: String,
    advice: &'static str,
}

impl Other {
    fn new(what: impl Into<String>, advice: &'static str) -> Self {
        Other { what: what.into(), advice }
    }

    /// A sentence that begins with the file.
    pub fn sentence(&self, path: &Path) -> String {
        format!("{} is {}; {}", path.display(), self.what, self.advice)
    }
}

const CONVERT: &str = "take a .gguf of the model, or make one with llama.cpp's convert_hf_to_gguf.py";
const CONVERT_OLD: &str = "take a .gguf of the model, or make one from its first source";
const FETCH: &str = "fetch the file itself";
const UNPACK: &str = "unpack it and give the .gguf file";
const LOAD_AGAIN: &str = "download the file itself, and not the page about it";
const ITS_MODEL: &str = "give the model that it belongs to";
const GENERATES: &str = "give a model that generates text";

/// How files of other formats begin.
const BEGINS: &[(&[u8], &str, &str)] = &[
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, which stands for the file",
        "fetch the file itself with git lfs pull",
    ),
    (b"/annex/objects/", "a git-annex pointer, which stands for the file", "fetch the file itself with git annex get"),
    (b"lmgg", "a file of the old GGML format", CONVERT_OLD),
    (b"fmgg", "a file of the old GGMF format", CONVERT_OLD),
    (b"tjgg", "a file of the old GGJT format", CONVERT_OLD),
    (b"algg", "a LoRA adapter of the old GGLA format", ITS_MODEL),
    (b"nsgg", "a saved session of llama.cpp", ITS_MODEL),
    (b"qsgg", "a saved sequence of llama.cpp", ITS_MODEL),
    (b"\x80\x02", "a PyTorch checkpoint", CONVERT),
    (b"\x80\x03", "a Python pickle", CONVERT),
    (b"\x80\x04", "a Python pickle", CONVERT),
    (b"\x80\x05", "a Python pickle", CONVERT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes,", CONVERT),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
    (b"\x1f\x8b", "compressed with gzip", UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (b"\xfd7zXZ\0", "compressed with xz", UNPACK),
    (b"BZh", "compressed with bzip2", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
];

/// How texts begin, after whitespace and in small letters.
const TEXTS: &[(&str, &str, &str)] = &[
    ("<!doctype html", "a web page", LOAD_AGAIN),
    ("<html", "a web page", LOAD_AGAIN),
    ("<?xml", "an XML text, such as a server's error,", "download it again"),
    ("{", "a JSON text, such as a server's error or an index,", FETCH),
    (
        "entry not found",
        "a server's answer that there is no such file",
        "check the address that it was downloaded from",
    ),
    ("invalid username or password", "a server's answer that it needs a token", "download it again with one"),
    ("access to model", "a server's answer that it needs a token", "download it again with one"),
];

/// Most bytes looked at of a text, and of a zip archive's first name.
const LOOK: usize = 512;
/// Longest header of a safetensors file.
const SAFETENSORS_MAX: u64 = 100_000_000;

impl Other {
    /// What `bytes`, which do not begin as GGUF files do, are known to be.
    pub fn of_bytes(bytes: &[u8]) -> Option<Other> {
        let start = &bytes[..bytes.len().min(LOOK)];
        if let Some((_, what, advice)) = BEGINS.iter().find(|(begin, ..)| start.starts_with(begin)) {
            return Some(Other::new(*what, advice));
        }
        if start.starts_with(b"PK\x03\x04") {
            let checkpoint = start.windows(8).any(|name| name == b"data.pkl");
            let (what, advice) = if checkpoint { ("a PyTorch checkpoint", CONVERT) } else { ("a zip archive", UNPACK) };
            return Some(Other::new(what, advice));
        }
        if is_safetensors(bytes) {
            return Some(Other::new("a safetensors file", CONVERT));
        }
        if is_old_imatrix(start) {
            return Some(Other::new("an importance matrix for quantising", ITS_MODEL));
        }
        if start.len() >= 4 && start.iter().all(|byte| *byte == 0) {
            return Some(Other::new(
                "zeros where it should begin, as of a download that never ended",
                "download it again",
            ));
        }
        let text =
            String::from_utf8_lossy(start).trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).to_lowercase();
        TEXTS.iter().find(|(begin, ..)| text.starts_with(begin)).map(|(_, what, advice)| Other::new(*what, advice))
    }
}

/// A length, and a JSON object that is as long.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    let length = u64::from_le_bytes(*length);
    (2..=SAFETENSORS_MAX).contains(&length) && rest.first() == Some(&b'{') && rest.get(1).is_some_and(u8::is_ascii)
}

/// A number of entries, and the length and the text of a tensor's name.
fn is_old_imatrix(bytes: &[u8]) -> bool {
    let Some((&[a, b, c, d, e, f, g, h], rest)) = bytes.split_first_chunk::<8>() else { return false };
    let (entries, length) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]) as usize);
    let name = rest.get(..length).and_then(|name| std::str::from_utf8(name).ok());
    (1..1 << 20).contains(&entries) && name.is_some_and(|name| name.ends_with(".weight"))
}

/// Values of `general.type` of files that are no models, and what those are.
const TYPES: &[(&str, &str)] = &[
    ("adapter", "a LoRA adapter"),
    ("imatrix", "an importance matrix for quantising"),
    ("mmproj", "a projector of images or sounds"),
];

/// Values of `general.architecture` of files that write no text, and what those are.
const ARCHITECTURES: &[(&[&str], &str, &str)] = &[
    (&["clip"], "a projector of images or sounds", ITS_MODEL),
    (&["controlvector"], "a control vector", ITS_MODEL),
    (&["eagle3", "dflash", "gemma4-assistant"], "a drafting head of another model", ITS_MODEL),
    (
        &[
            "bert",
            "modern-bert",
            "nomic-bert",
            "nomic-bert-moe",
            "neo-bert",
            "jina-bert-v2",
            "jina-bert-v3",
            "eurobert",
            "gemma-embedding",
            "llama-embed",
            "t5encoder",
        ],
        "an embedding model",
        GENERATES,
    ),
    (&["wavtokenizer-dec", "whisper", "qwen3tts"], "a model of sounds", GENERATES),
    (
        &["aura", "cosmos", "flux", "hidream", "hyvid", "lumina2", "ltxv", "qwen_image", "sd1", "sd3", "sdxl", "wan"],
        "a model of images",
        GENERATES,
    ),
];

impl Other {
    /// What a GGUF file holds, if that is known to be no model that writes text.
    pub fn of_header(metadata: &Metadata, tensors: &[TensorInfo]) -> Option<Other> {
        let text = |key: &str| metadata.opt_str(key).ok().flatten();
        if let Some((kind, what)) = text("general.type").and_then(|t| TYPES.iter().find(|(kind, _)| *kind == t)) {
            return Some(Other::new(format!("{what} (general.type '{kind}'), not a model"), ITS_MODEL));
        }
        if let Some(name) = text("general.architecture")
            && let Some((_, what, advice)) = ARCHITECTURES.iter().find(|(names, ..)| names.contains(&name))
        {
            return Some(Other::new(format!("{what} (general.architecture {})", quoted(name)), advice));
        }
        let all = |is: fn(&str) -> bool| !tensors.is_empty() && tensors.iter().all(|t| is(&t.name));
        if all(|name| name.ends_with(".lora_a") || name.ends_with(".lora_b")) {
            return Some(Other::new("a LoRA adapter, not a model", ITS_MODEL));
        }
        if all(|name| name.ends_with(".in_sum2") || name.ends_with(".counts")) {
            return Some(Other::new("an importance matrix for quantising, not a model", ITS_MODEL));
        }
        None
    }
}

/// Whether a file is named as a piece of a file that was cut by size.
pub fn is_piece(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let letter = |text: &str| text.len() == 1 && text.bytes().all(|b| b.is_ascii_lowercase());
    let part = name
        .rsplit_once(".part")
        .is_some_and(|(_, n)| n.split_once("of").map_or_else(|| digits(n), |(n, of)| digits(n) && digits(of)));
    part || name.rsplit_once("-split-").is_some_and(|(_, n)| letter(n) || digits(n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::gguf::Value;

    /// Of files that begin so, the words of the sentence.
    #[test]
    fn other_formats() {
        #[track_caller]
        fn check(bytes: &[u8], words: &str) {
            let other = Other::of_bytes(bytes).unwrap_or_else(|| panic!("{words}: {bytes:?}"));
            let sentence = other.sentence(Path::new("m.gguf"));
            assert!(sentence.starts_with(&format!("m.gguf is {words}")) && sentence.contains("; "), "{sentence}");
        }
        check(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer");
        check(b"/annex/objects/SHA256E-s1--0.gguf\n", "a git-annex pointer");
        for (magic, words) in [(0x6767_6d6cu32, "a file of the old GGML"), (0x6767_6d66, "a file of the old GGMF")] {
            check(&magic.to_le_bytes(), words);
        }
        check(&0x6767_6a74u32.to_le_bytes(), "a file of the old GGJT");
        check(&0x6767_6c61u32.to_le_bytes(), "a LoRA adapter of the old GGLA");
        check(&0x6767_736eu32.to_le_bytes(), "a saved session");
        check(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch checkpoint");
        check(b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\x12\0archive/data.pkl", "a PyTorch");
        check(b"PK\x03\x04\0\0model/readme.txt", "a zip archive");
        check(
            b"\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
            "a safetensors file",
        );
        check(b"\x02\0\0\0\x15\0\0\0blk.0.attn_k_b.weight\x01\0\0\0", "an importance matrix");
        check(b"\x1f\x8b\x08\0", "compressed with gzip");
        check(b"7z\xbc\xaf\x27\x1c\0\x04", "a 7z archive");
        check(b"\x89HDF\r\n\x1a\n", "an HDF5 file");
        check(&[0; 4096], "zeros where it should begin");
        check(b"\n  <!DOCTYPE html>\n<html class=\"\">", "a web page");
        check(b"\xef\xbb\xbf<HTML>", "a web page");
        check(b"{\"error\":\"Invalid credentials\"}", "a JSON text");
        check(b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", "an XML text");
        check(b"Entry not found", "a server's answer that there is no such file");
        check(b"Invalid username or password.", "a server's answer that it needs a token");
        check(b"Access to model x/y is restricted", "a server's answer that it needs a token");
        for unknown in [&b"no model"[..], b"", b"\0\0", b"\x10\0\0\0\0\0\0\0x", b"\x02\0\0\0\xff\0\0\0blk", b"\x7fELF"]
        {
            assert_eq!(Other::of_bytes(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn gguf_files_that_are_no_models() {
        #[track_caller]
        fn check(metadata: &[(&str, &str)], tensors: &[&str], want: Option<&str>) {
            let metadata: Metadata = metadata.iter().map(|(key, value)| (*key, Value::from(*value))).collect();
            let tensor =
                |name: &&str| TensorInfo { name: (*name).into(), dims: vec![1], type_id: 0, offset: 0, bytes: 4 };
            let tensors: Vec<TensorInfo> = tensors.iter().map(tensor).collect();
            let sentence = Other::of_header(&metadata, &tensors).map(|other| other.sentence(Path::new("m.gguf")));
            let words = want.map(|want| format!("m.gguf is {want}"));
            assert!(sentence.is_some() == words.is_some(), "{sentence:?}");
            assert!(sentence.zip(words).is_none_or(|(got, want)| got.starts_with(&want)), "{want:?}");
        }
        let llama = ("general.architecture", "llama");
        check(
            &[llama, ("general.type", "adapter")],
            &[],
            Some("a LoRA adapter (general.type 'adapter'), not a model; give"),
        );
        check(&[("general.type", "imatrix")], &[], Some("an importance matrix"));
        check(&[("general.architecture", "clip")], &["v.blk.0.ln1.weight"], Some("a projector of images"));
        check(
            &[("general.architecture", "nomic-bert")],
            &[],
            Some("an embedding model (general.architecture 'nomic-bert')"),
        );
        check(&[("general.architecture", "flux")], &[], Some("a model of images"));
        check(&[llama], &["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"], Some("a LoRA adapter, not a"));
        check(&[llama], &["blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts"], Some("an importance matrix"));
        check(&[llama, ("general.type", "model")], &["token_embd.weight", "x.lora_a"], None);
        check(&[llama], &[], None);
        check(&[("general.type", "unheard-of")], &["v.x"], None);
    }

    #[test]
    fn pieces_of_files() {
        for name in ["m.gguf-split-a", "M.GGUF-SPLIT-b", "m.gguf.part1", "m.gguf.part1of2", "m.Q4_K_M.gguf.part02of03"]
        {
            assert!(is_piece(Path::new(name)), "{name}");
        }
        for name in ["m.gguf", "m.gguf.part", "m.partial", "m-00001-of-00002.gguf", "m.gguf-split-xy", "m.gguf.part1of"]
        {
            assert!(!is_piece(Path::new(name)), "{name}");
        }
    }
}
