//! Artifact directories: `NAME.rig/` with `manifest.ron` and one file for each module.
//!
//! Invariant: a directory appears under its name complete and on disk, or not at all; what [`read`] returns is what
//! [`write`] was given, down to the hash of every module. Next hop: [`crate::executor`] loads it.

use crate::{Error, ModelFile, Result};
use ir::artifact::{Artifact, Manifest, ModuleEntry, SIGNATURE};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.ron";
/// Largest manifest that is read, bytes; one of a 70B model has less than 1 MB.
const MAX_MANIFEST: u64 = 64 << 20;
/// Largest module that is read, bytes.
const MAX_MODULE: u64 = 1 << 30;

/// What every version of the manifest begins with.
#[derive(Deserialize)]
struct Head {
    signature: String,
    rigc: String,
}

/// Hex SHA-256 of a module, as the manifest records it.
pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Whether `path` is a directory with a manifest.
pub fn is_artifact(path: &Path) -> bool {
    path.join(MANIFEST).is_file()
}

/// Writes `artifact` as the directory `path`; an artifact that is there already is replaced in one step.
///
/// # Errors
/// [`Error::Input`] if something else is at `path`, [`Error::Io`] if the disk is full or refuses, [`Error::Ir`] if the
/// artifact contradicts itself. Nothing is left behind and what was there stays.
pub fn write(artifact: &Artifact, path: &Path) -> Result<()> {
    let manifest = artifact.manifest.clone().verify()?;
    if manifest.modules.len() != artifact.modules.len() {
        return Err(Error::input("the artifact's manifest and its modules disagree in number"));
    }
    for (entry, module) in manifest.modules.iter().zip(&artifact.modules) {
        check_module(entry, module).map_err(|what| Error::input(format!("module {} {what}", entry.file)))?;
    }
    let old = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(Error::io(path, e)),
        Ok(_) => Some(fs::canonicalize(path).map_err(|e| Error::io(path, e))?),
    };
    if let Some(old) = &old {
        let empty = || fs::read_dir(old).is_ok_and(|mut entries| entries.next().is_none());
        if !old.is_dir() || !(is_artifact(old) || empty()) {
            return Err(Error::input(format!(
                "{} exists and is no artifact; remove it or choose another name",
                path.display()
            )));
        }
    }
    // Through a link, the directory that it names is replaced.
    let target = old.as_deref().unwrap_or(path);
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = Temporary::new(target, parent)?;
    for (entry, module) in manifest.modules.iter().zip(&artifact.modules) {
        write_file(&temporary.0.join(&entry.file), module)?;
    }
    let text = ron::ser::to_string_pretty(&*manifest, ron::ser::PrettyConfig::new().depth_limit(4))
        .map_err(|e| Error::input(format!("the manifest cannot be written as RON: {e}")))?;
    write_file(&temporary.0.join(MANIFEST), text.as_bytes())?;
    sync_dir(&temporary.0)?;
    let io = |e| Error::io(target, e);
    if old.is_some() {
        // Afterwards the old directory has the temporary name, and goes with it.
        match crate::sys::fs::exchange(&temporary.0, target) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                replace_in_steps(&temporary.0, target)?;
            }
            result => result.map_err(io)?,
        }
    } else {
        fs::rename(&temporary.0, target).map_err(io)?;
    }
    sync_dir(parent)
}

/// Reads the artifact directory `path` and checks all of it.
///
/// # Errors
/// [`Error::Input`] for a directory that is no artifact, was written by another version, or is damaged; [`Error::Io`].
pub fn read(path: &Path) -> Result<Artifact> {
    let manifest_path = path.join(MANIFEST);
    if !path.exists() {
        return Err(Error::input(format!("{} does not exist; check the path", path.display())));
    }
    if !manifest_path.is_file() {
        return Err(Error::input(format!("{} is no artifact: it has no {MANIFEST}", path.display())));
    }
    let damaged = |file: &Path, what: &str| Error::input(format!("{} {what}; compile the model again", file.display()));
    let text = read_file(&manifest_path, MAX_MANIFEST)?;
    if text.len() as u64 > MAX_MANIFEST {
        return Err(damaged(&manifest_path, &format!("is damaged: it has more than {MAX_MANIFEST} bytes")));
    }
    let text = std::str::from_utf8(&text).map_err(|_| damaged(&manifest_path, "is damaged: it is not text"))?;
    let unreadable = |e: ron::error::SpannedError| damaged(&manifest_path, &format!("cannot be understood: {e}"));
    let head: Head = ron::from_str(text).map_err(unreadable)?;
    if head.signature != SIGNATURE {
        let what = format!("is of format {} (rigc {}), not {SIGNATURE}", head.signature, head.rigc);
        return Err(damaged(&manifest_path, &what));
    }
    let manifest: Manifest = match ron::from_str(text) {
        Ok(manifest) => manifest,
        Err(_) if head.rigc != env!("CARGO_PKG_VERSION") => {
            let what = format!("was written by rigc {}, this is rigc {}", head.rigc, env!("CARGO_PKG_VERSION"));
            return Err(damaged(&manifest_path, &what));
        }
        Err(e) => return Err(unreadable(e)),
    };
    let manifest = manifest
        .verify()
        .map_err(|e| match e {
            ir::Error::Malformed { .. } => Error::input(format!("{}: {e}", path.display())),
            e => damaged(&manifest_path, &format!("is damaged: {e}")),
        })?
        .into_inner();
    let mut modules = Vec::with_capacity(manifest.modules.len());
    for entry in &manifest.modules {
        check_name(&entry.file).map_err(|what| damaged(&manifest_path, &format!("is damaged: a module {what}")))?;
        let file = path.join(&entry.file);
        let bytes = match read_file(&file, entry.bytes.min(MAX_MODULE)) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(damaged(&file, "is missing"));
            }
            bytes => bytes?,
        };
        check_module(entry, &bytes).map_err(|what| damaged(&file, &format!("is damaged: it {what}")))?;
        modules.push(bytes);
    }
    Ok(Artifact { manifest, modules })
}

/// Checks that `model` is the file that the artifact was compiled for.
///
/// # Errors
/// [`Error::Input`] that names the first difference.
pub fn check_model(manifest: &Manifest, model: &ModelFile) -> Result<()> {
    match manifest.model.difference(&model.identity()) {
        None => Ok(()),
        Some(difference) => Err(Error::input(format!(
            "{} is not the file that the artifact was compiled for: {difference}; compile the model again",
            model.path().display()
        ))),
    }
}

/// Whether `name` is a file name and nothing more.
fn check_name(name: &str) -> Result<(), String> {
    let plain = Path::new(name).file_name().is_some_and(|n| n == name) && !name.contains(['/', '\\', '\0']);
    if plain && name != MANIFEST { Ok(()) } else { Err(format!("has the file name '{}'", name.escape_debug())) }
}

fn check_module(entry: &ModuleEntry, bytes: &[u8]) -> Result<(), String> {
    check_name(&entry.file)?;
    if bytes.len() as u64 != entry.bytes {
        return Err(format!("has {} bytes instead of {}", bytes.len(), entry.bytes));
    }
    let hash = sha256(bytes);
    if hash != entry.sha256 {
        return Err(format!("has SHA-256 {hash} instead of {}", entry.sha256));
    }
    Ok(())
}

/// The first `most + 1` bytes of a file: more than that shows that it is too long.
fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let io = |e| Error::io(path, e);
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Writes a file and waits until it is on disk.
fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(path, e))
}

/// Waits until a directory's entries are on disk.
fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io(path, e))
}

/// For file systems that cannot exchange: moves the old directory aside, and back if the new one cannot take its place.
fn replace_in_steps(new: &Path, target: &Path) -> Result<()> {
    let aside = new.with_extension("old");
    let io = |e| Error::io(target, e);
    fs::rename(target, &aside).map_err(io)?;
    if let Err(e) = fs::rename(new, target) {
        fs::rename(&aside, target).map_err(io)?;
        return Err(io(e));
    }
    fs::remove_dir_all(&aside).map_err(|e| Error::io(aside, e))
}

/// A directory that is removed when dropped, if it still has its name.
struct Temporary(PathBuf);

impl Temporary {
    /// A new directory beside `target`, in `parent`.
    fn new(target: &Path, parent: &Path) -> Result<Temporary> {
        let Some(name) = target.file_name() else {
            return Err(Error::input(format!("{} is no name for an artifact; give NAME.rig", target.display())));
        };
        for attempt in 0..100 {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{attempt}.tmp", std::process::id()));
            let path = parent.join(hidden);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Temporary(path)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(parent, e)),
            }
        }
        Err(Error::input(format!("{} is full of temporary directories; remove them", parent.display())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the artifact itself is in order.
        let _ = fs::remove_dir_all(&self.0);
    }
}
