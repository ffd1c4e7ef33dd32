//! Writes the inputs that fuzzing starts from to `corpus/`.

use ir::gguf;
use std::path::{Path, PathBuf};
use tests::synthetic::{Synthetic, zoo};

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)
    };
    for (name, spec) in zoo() {
        let small = Synthetic { vocab: 4, layers: 1, width: spec.width.min(64), ffn: spec.ffn.min(32), ..spec };
        let file = small.gguf();
        let data = gguf::parse(&file).expect("a good file").data_offset as usize;
        write("gguf", &name, &file[..data])?;
    }
    let (_, artifact) = rigc_fuzz::toy();
    runtime::artifact::write(&artifact, &corpus.join("toy.rig")).expect("the artifact can be written");
    let manifest = std::fs::read(corpus.join("toy.rig").join(runtime::artifact::MANIFEST))?;
    std::fs::remove_dir_all(corpus.join("toy.rig"))?;
    write("manifest", "toy", &manifest)?;
    let mut folders: Vec<(String, PathBuf)> = Vec::new();
    folders.extend(tests::shared_dir("templates").map(|folder| ("template".to_owned(), folder)));
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("found");
    for target in std::fs::read_dir(found).into_iter().flatten() {
        let target = target?;
        folders.push((target.file_name().to_string_lossy().into_owned(), target.path()));
    }
    for (target, folder) in folders {
        for file in std::fs::read_dir(folder)? {
            let path = file?.path();
            if target == "template" && path.extension().is_some_and(|e| e != "jinja") {
                continue;
            }
            write(&target, &path.file_name().unwrap_or_default().to_string_lossy(), &std::fs::read(&path)?)?;
        }
    }
    Ok(())
}
