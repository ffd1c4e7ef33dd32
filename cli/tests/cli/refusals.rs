//! What is refused: exit code 2 and one sentence.

use crate::harness::{changed, check_refused, check_said, command, rigc, shared, small, wait};
use ir::gguf::{Array, Value};
use ir::target;
use runtime::device::CpuDevice;

#[test]
fn bad_arguments() {
    let dir = shared();
    std::fs::write(dir.join("empty.gguf"), "").unwrap();
    std::fs::write(dir.join("zip.gguf"), "PK\x03\x04 an archive").unwrap();
    std::fs::write(dir.join("lfs.gguf"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
    std::fs::write(dir.join("page.gguf"), "<!DOCTYPE html>\n<html>").unwrap();
    std::fs::write(dir.join("m.gguf.part1of2"), &small().gguf()[..5000]).unwrap();
    std::fs::write(dir.join("notes.txt"), "no model").unwrap();
    std::fs::write(dir.join("latin1.txt"), b"\xe9t\xe9").unwrap();
    std::fs::create_dir_all(dir.join("folder")).unwrap();
    let numbers = Value::Array(Array::U32(vec![96, 64]));
    for (name, key, value) in [
        ("adapter", "general.type", "adapter".into()),
        ("mmproj", "general.type", "mmproj".into()),
        ("dynamic", "llama.rope.scaling.type", "dynamic".into()),
        ("layers", "llama.attention.head_count", numbers),
        ("bert", "tokenizer.ggml.model", "bert".into()),
        ("embedding", "general.architecture", "bert".into()),
    ] {
        std::fs::write(dir.join(format!("{name}.gguf")), changed(&small().gguf(), &[(key, value)])).unwrap();
    }
    std::fs::create_dir_all(dir.join("hollow.rig")).unwrap();
    let table: &[(&[&str], &[&str])] = &[
        // Flags.
        (&["frobnicate"], &["unrecognized subcommand 'frobnicate'"]),
        (&["--json"], &["unexpected argument '--json'"]),
        (&["run", "--bogus", "x"], &["unexpected argument '--bogus'"]),
        (&["run", "x", "--threads", "0"], &["'0'", "--threads"]),
        (&["run", "x", "--threads", "many"], &["'many'", "--threads"]),
        (&["run", "x", "-n", "-1"], &["-1"]),
        (&["run", "x", "--temp", "-1"], &["temperature", "-1"]),
        (&["run", "x", "--temp", "nan"], &["temperature"]),
        (&["run", "x", "--temp", "inf"], &["temperature"]),
        (&["run", "x", "--top-p", "0"], &["top-p", "0"]),
        (&["run", "x", "--top-p", "1.5"], &["top-p", "1.5"]),
        (&["run", "x", "--min-p", "-0.1"], &["min-p", "-0.1"]),
        (&["run", "x", "--repeat-penalty", "0"], &["repeat", "0"]),
        (&["run", "x", "--seed", "x"], &["--seed"]),
        (&["run", "x", "--ctx", "0"], &["--ctx", "'0'"]),
        (&["run", "x", "--ctx", "513"], &["context", "513", "512"]),
        (&["run", "x", "--ctx", "4294967295"], &["context", "4294967295", "512"]),
        (&["run", "x", "--ctx", "4294967296"], &["--ctx", "4294967296"]),
        (&["run", "x", "--kv", "q4_0"], &["'q4_0'", "f16", "q8_0"]),
        (&["run", "x", "--kv", ""], &["f16", "q8_0"]),
        (&["run", "x", "--target", "sparc"], &["'sparc'", "x86-64-v3"]),
        (
            &["compile", "m.gguf", "--target", "sm_120", "--card", "rtx9"],
            &["'rtx9'", "rtx5090, rtx5080", "sm_90: h100"],
        ),
        (&["compile", "m.gguf", "--target", "sm_120", "--card", "h200"], &["card 'h200'", "sm_120", "of sm_90"]),
        (&["compile", "m.gguf", "--target", "x86-64", "--card", "l40s"], &["card 'l40s'", "x86-64", "of sm_89"]),
        (&["run", "x", "--schedules", "missing.ron"], &["missing.ron"]),
        (&["run", "x", "--schedules", "notes.txt"], &["notes.txt", "schedule table", "1:1"]),
        (&["run", "x", "--device", "cuda0"], &["'cuda0'", "cuda:N", "cpu"]),
        (&["compile", "m.gguf", "--emit", "graph,poem"], &["'poem'", "graph", "kernel", "plan"]),
        (&["compile"], &["<MODEL>"]),
        (&["compile", "m.gguf", "--emit", "ptx", "--target", "x86-64"], &["no stage 'ptx' of x86-64;", "clif, asm"]),
        (
            &["compile", "m.gguf", "--emit", "graph,asm", "--target", "sm_90"],
            &["no stage 'asm' of sm_90;", "plan, ptx"],
        ),
        (&["compile", "m.gguf", "--emit", "clif", "--card", "rtx5090"], &["no stage 'clif' of sm_120;"]),
        (&["compile", "m.gguf", "--emit", "graph", "-o", "x.rig"], &["--emit", "--output"]),
        (&["compile", "m.gguf", "--emit", "a\u{1b}[2J"], &["'a\\u{1b}[2J'"]),
        (&["compile", "m.gguf", "--card", "rtx9"], &["'rtx9'", "rtx5090, rtx5080", "sm_90: h100"]),
        (&["inspec", "m.gguf"], &["unrecognized subcommand 'inspec'", "similar", "'inspect'"]),
        (&["run", "x", "--tmep", "1"], &["'--tmep'", "similar", "'--temp'"]),
        (&["run", "x", "-ngl", "40"], &["no -ngl", "--device"]),
        // Prompts.
        (&["run", "a", "b"], &["'a' is no file"]),
        (&["run", "a", "-p", "b"], &["more than one prompt"]),
        (&["run", "a", "--prompt-ids", "1"], &["more than one prompt"]),
        (&["run", "-p", "a", "-f", "notes.txt"], &["more than one prompt"]),
        (&["run", "-f", "missing.txt"], &["missing.txt"]),
        (&["run", "-f", "folder"], &["folder"]),
        (&["run", "-f", "latin1.txt"], &["latin1.txt", "UTF-8"]),
        (&["run", "--prompt-ids", "1,x"], &["'x'", "--prompt-ids"]),
        (&["run", "--prompt-ids", ""], &["--prompt-ids"]),
        (&["run", "--prompt-ids", "1,2048"], &["2048", "vocabulary"]),
        (&["run", "--ctx", "2", "--prompt-ids", "1,2,3"], &["3 tokens", "holds 2"]),
        (&["run", "m.gguf", ""], &["no tokens"]),
        // Features and kinds of files, each named with the file.
        (
            &["run", "adapter.gguf", "x"],
            &["rigc: adapter.gguf is a LoRA adapter", "'adapter'", "not a model; give the"],
        ),
        (&["run", "mmproj.gguf", "x"], &["rigc: mmproj.gguf is a projector", "'mmproj'", "not a model; give the"]),
        (&["run", "embedding.gguf", "x"], &["rigc: embedding.gguf is an embedding model", "'bert'", "that generates"]),
        (&["run", "dynamic.gguf", "x"], &["dynamic.gguf: RoPE scaling 'dynamic'", "is not supported"]),
        (&["compile", "layers.gguf"], &["layers.gguf: 'llama.attention.head_count' with a figure for each layer"]),
        (&["run", "bert.gguf", "x"], &["bert.gguf: the tokenizer model `bert`", "is not supported"]),
        // Files.
        (&["run", "missing.gguf", "x"], &["missing.gguf does not exist"]),
        (&["run", "missing.rig", "x"], &["missing.rig does not exist"]),
        (&["run", "empty.gguf", "x"], &["empty.gguf is empty"]),
        (&["run", "zip.gguf", "x"], &["rigc: zip.gguf is a zip archive; unpack it"]),
        (&["inspect", "lfs.gguf"], &["rigc: lfs.gguf is a Git LFS pointer", "git lfs pull"]),
        (&["compile", "page.gguf"], &["rigc: page.gguf is a web page"]),
        (&["run", "m.gguf.part1of2", "x"], &["rigc: m.gguf.part1of2 is a piece of a file; join"]),
        (&["run", "notes.txt", "x"], &["notes.txt is not a GGUF file"]),
        (&["run", "folder", "x"], &["folder is a directory"]),
        (&["run", "hollow.rig", "x"], &["hollow.rig is no artifact"]),
        (&["run", "m.gguf/inner.gguf", "x"], &["m.gguf/inner.gguf"]),
        (&["inspect", "missing"], &["missing does not exist"]),
        (&["inspect", "empty.gguf"], &["empty.gguf is empty"]),
        (&["inspect", "folder"], &["folder is a directory"]),
        (&["compile", "missing.gguf"], &["missing.gguf does not exist"]),
        (&["compile", "demo.rig"], &["demo.rig is an artifact"]),
        (&["compile", "m.gguf", "-o", "out"], &["out must end in .rig"]),
        // Costs of kernels.
        (&["inspect", "m.gguf", "--kernels"], &["--kernels is for artifacts", "rigc compile"]),
        (&["inspect", "--kernels"], &["--kernels is for artifacts"]),
        (&["inspect", "demo.rig", "--card", "h100"], &["--kernels"]),
        (&["inspect", "demo.rig", "--position", "1"], &["--kernels"]),
        (&["inspect", "demo.rig", "--kernels", "--position", "512"], &["up to 511"]),
        (&["inspect", "demo.rig", "--kernels", "--card", "h100"], &["card 'h100'", "of sm_90"]),
        (&["inspect", "missing.rig", "--kernels"], &["missing.rig does not exist"]),
        // Flags that contradict an artifact.
        (&["run", "demo.rig", "x", "--ctx", "100"], &["--ctx 512", "100"]),
        (&["run", "demo.rig", "x", "--kv", "q8_0"], &["--kv f16", "q8_0"]),
        (&["run", "demo.rig", "x", "--target", "x86-64"], &["--target", "x86-64"]),
        (&["run", "demo.rig", "x", "--card", "rtx4090"], &["with no --card", "rtx4090"]),
    ];
    for (args, words) in table {
        check_refused(dir, args, words);
    }
}

/// Code for every target is made on every machine; running it takes the machine that it is for.
#[test]
fn targets_of_other_machines() {
    let dir = shared();
    for target in target::ALL {
        let artifact = format!("{}.rig", target.name);
        let o = rigc(dir, &["compile", "m.gguf", "--target", target.name, "-o", &artifact]);
        assert_eq!(o.code, Some(0), "{}: {}", target.name, o.err);
        if target.gpu().is_some() {
            check_refused(dir, &["run", &artifact, "x"], &["needs a card", target.name, "--device emu"]);
            check_refused(dir, &["run", "m.gguf", "x", "--target", target.name], &["needs a card", target.name]);
            let o = rigc(dir, &["run", &artifact, "x", "-n", "2", "--ignore-eos", "--device", "emu"]);
            assert_eq!(o.code, Some(0), "{}: {}", target.name, o.err);
        } else if CpuDevice::new(target, 1).is_ok() {
            let o = rigc(dir, &["run", &artifact, "x", "-n", "2", "--ignore-eos"]);
            assert_eq!(o.code, Some(0), "{}: {}", target.name, o.err);
        } else {
            check_refused(dir, &["run", &artifact, "x"], &["this CPU lacks", target.name]);
            check_refused(dir, &["run", "m.gguf", "x", "--target", target.name], &["this CPU lacks", target.name]);
        }
    }
}

/// A context for which this machine has no memory.
#[test]
fn too_little_memory() {
    let dir = shared();
    let spec = tests::synthetic::Synthetic { context: 1 << 24, layers: 64, kv_heads: 2, ..small() };
    std::fs::write(dir.join("long.gguf"), spec.gguf()).unwrap();
    let args = ["run", "long.gguf", "x", "--ctx", "16777216"];
    check_refused(dir, &args, &["KV cache", "GB"]);
}

/// Names from files are shown and not obeyed, and long ones are cut.
#[test]
fn names_from_files() {
    use ir::gguf::{Value, Writer};
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let write = |metadata: &[(&str, Value)], tensor: &str| {
        let mut w = Writer::new(metadata.iter().cloned().collect());
        w.tensor(tensor, [4], ir::quant::F32);
        std::fs::write(dir.join("m.gguf"), w.to_vec(&[[0u8; 16]]).unwrap()).unwrap();
    };
    let architecture = |name: &str| ("general.architecture", Value::from(name));
    let long = "long\u{7}".repeat(1 << 20);
    for (name, words) in [
        ("ev\u{1b}[2Jil\nname", &["architecture 'ev\\u{1b}[2Jil\\nname'"][..]),
        (&long, &["architecture 'long\\u{7}long", "…", "the architectures are"]),
    ] {
        write(&[architecture(name)], "t");
        check_refused(dir, &["compile", "m.gguf"], words);
        let o = rigc(dir, &["inspect", "m.gguf"]);
        assert!(o.code == Some(0) && o.text().len() < 2000 && !o.text().contains(['\u{1b}', '\u{7}']), "{}", o.text());
    }
    write(&[], "blk.\u{1b}]0;x\u{7}");
    for flags in [&[][..], &["--tensors"]] {
        let o = rigc(dir, &[&["inspect", "m.gguf"], flags].concat());
        assert!(o.text().contains("blk.\\u{1b}]0;x\\u{7}"), "{}", o.text());
    }
    std::fs::write(dir.join("b\u{1b}[31m.gguf"), "no").unwrap();
    check_refused(dir, &["inspect", "b\u{1b}[31m.gguf"], &["b\\u{1b}[31m.gguf is not a GGUF file"]);
    let bad: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"n\xff.gguf".as_slice());
    std::fs::write(dir.join(bad), small().gguf()).unwrap();
    let mut command = command(dir, &["compile"]);
    check_said(&wait(command.arg(bad).spawn().unwrap()), &["is not UTF-8", "rename"]);
    let long = format!("{}.rig", "n".repeat(252));
    std::fs::write(dir.join("m.gguf"), small().gguf()).unwrap();
    check_refused(dir, &["compile", "m.gguf", "-o", &long], &["nnn", "File name too long"]);
    let fits = format!("{}.rig", "n".repeat(251));
    assert_eq!(rigc(dir, &["compile", "m.gguf", "-o", &fits]).code, Some(0));
}

/// A header that declares more than is there, in a file that is long and has no data.
#[test]
fn sparse_headers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let head = |tensors: u64, entries: u64| {
        [b"GGUF".as_slice(), &3u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
    };
    let array = |kind: u32, count: u64| {
        let key = [1u64.to_le_bytes().as_slice(), b"k", &9u32.to_le_bytes(), &kind.to_le_bytes()].concat();
        [head(0, 1), key, count.to_le_bytes().to_vec()].concat()
    };
    let billions = 5_000_000_000;
    for (header, words) in [
        (head(billions, 0), "5000000000 tensors"),
        (head(0, billions), "5000000000 metadata entries"),
        (head(200_000, 60_000), "'' occurs twice"),
        (array(8, billions), "5000000000 elements"),
        (array(8, 30_000_000), ""),
        (array(9, 23_000_000), "23000000 elements"),
        (array(0, billions), "5000000000 elements"),
        (array(12, 34_000_000), "34000000 elements"),
    ] {
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, &header).unwrap();
        file.set_len(42 << 30).unwrap();
        // Addresses for the mapping, and little more.
        let script = "ulimit -v 45500000; exec \"$0\" inspect m.gguf";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_rigc")]).current_dir(dir.path());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let o = wait(command.spawn().unwrap());
        // What is all there is no fault, and fits.
        match words {
            "" => assert_eq!(o.code, Some(0), "{}", o.err),
            words => check_said(&o, &["m.gguf", words]),
        }
    }
}
