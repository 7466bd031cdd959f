//! `vigie models pull`: fetches the models that vigie brings, those of every picture and those that read text.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::models::catalogue::{Entry, MODELS};
use crate::models::convert;
use crate::models::store::{self, Fault, Store, Stored};
use crate::models::{tarball, wheel};

#[derive(Clone, Debug, Args)]
pub struct PullArgs {
    /// Which models to fetch.
    #[arg(value_enum, default_value = "default")]
    sets: Vec<Set>,
    /// The npm package @vladmandic/human 3.3.6, fetched elsewhere: no network is needed then.
    #[arg(long, value_name = "FILE")]
    tarball: Option<PathBuf>,
    /// The Python wheel rapidocr-onnxruntime 1.4.4, fetched elsewhere, for `ocr`.
    #[arg(long, value_name = "FILE")]
    wheel: Option<PathBuf>,
}

/// Models that come from one package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Set {
    /// Faces, apparent gender, objects.
    Default,
    /// Where text stands and what it says (PP-OCRv4).
    Ocr,
}

/// Fetches what is wanted and is not there.
pub fn run(store: &Store, args: &PullArgs) -> anyhow::Result<()> {
    for set in &args.sets {
        match set {
            Set::Default => pull_default(store, args.tarball.as_deref())?,
            Set::Ocr => pull_ocr(store, args.wheel.as_deref())?,
        }
    }
    Ok(())
}

/// Whether this very version has to be made, and if it was damaged a word about that.
fn is_missing(store: &Store, name: &str, version: u32, sha256: &str) -> bool {
    match store.check(name, version) {
        Ok(stored) if stored.manifest.sha256 == sha256 => return false,
        Ok(_) => eprintln!("{name} {version}: not the one this vigie makes, it is made anew"),
        // Nothing has been fetched yet: not worth a word.
        Err(Fault::Missing(_)) => {}
        Err(fault) => eprintln!("{name} {version}: {:#}; it is made anew", anyhow::Error::new(fault)),
    }
    true
}

fn pull_default(store: &Store, tarball: Option<&Path>) -> anyhow::Result<()> {
    let is_wanted = |entry: &&Entry| is_missing(store, entry.name, entry.version, entry.sha256);
    let wanted: Vec<&Entry> = MODELS.iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        println!("all {} models are there and sound in {}", MODELS.len(), store.folder().display());
        return Ok(());
    }
    let names: Vec<&str> = wanted.iter().map(|entry| entry.name).collect();
    let download;
    let path = match tarball {
        Some(path) => path.to_owned(),
        None => {
            eprintln!("fetching {} {} with npm (29 MB)", tarball::PACKAGE, tarball::VERSION);
            download = tempfile::tempdir().context("making a temporary folder")?;
            tarball::fetch(download.path())?
        }
    };
    eprintln!("verifying and unpacking {}", path.display());
    let mut sources = tarball::open(&path, &names)?;
    for entry in &wanted {
        let source =
            sources.remove(entry.name).with_context(|| format!("{} was not unpacked", entry.name))?;
        let made = make(store, entry, &source)?;
        println!("{} {}: {}", entry.name, entry.version, made.model.display());
    }
    Ok(())
}

/// Converts one model and puts it into the store.
fn make(store: &Store, entry: &Entry, source: &tarball::Source) -> anyhow::Result<Stored> {
    eprintln!("converting {}", entry.name);
    let converting = || format!("converting {}", entry.name);
    let onnx = convert::convert(&source.graph, &source.weights, &entry.recipe).with_context(converting)?;
    let digest = store::sha256(&onnx);
    if digest != entry.sha256 {
        bail!(
            "converting {} gave {digest} instead of {}: this is a fault in vigie",
            entry.name,
            entry.sha256
        );
    }
    Ok(store.write(&entry.manifest(), &onnx)?)
}

fn pull_ocr(store: &Store, wheel: Option<&Path>) -> anyhow::Result<()> {
    let is_wanted = |entry: &&wheel::Entry| is_missing(store, entry.name, entry.version, entry.sha256);
    let wanted: Vec<&wheel::Entry> = wheel::MODELS.iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        println!("the models that read text are there and sound in {}", store.folder().display());
        return Ok(());
    }
    let download;
    let path = match wheel {
        Some(path) => path.to_owned(),
        None => {
            eprintln!("fetching {} {} with pip (15 MB)", wheel::PACKAGE, wheel::VERSION);
            download = tempfile::tempdir().context("making a temporary folder")?;
            wheel::fetch(download.path())?
        }
    };
    eprintln!("verifying and unpacking {}", path.display());
    let mut opened = wheel::Wheel::open(&path)?;
    for entry in wanted {
        let (manifest, onnx) = opened.take(entry)?;
        let stored = store.write(&manifest, &onnx)?;
        println!("{} {}: {}", entry.name, entry.version, stored.model.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_is_another_leaves_the_store_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("other.tgz");
        std::fs::write(&package, b"not the package").unwrap();
        let store = Store::open(folder.path().join("models"));
        let error = pull_default(&store, Some(&package)).unwrap_err().to_string();
        assert!(error.contains(tarball::INTEGRITY), "{error}");
        assert!(!store.folder().exists());
    }

    #[test]
    fn what_does_not_convert_as_tested_is_not_stored() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path());
        let error = make(&store, &MODELS[0], &tarball::Source::default()).unwrap_err();
        assert_eq!(format!("{error:#}").split(": ").next(), Some("converting blazeface"));
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn another_wheel_leaves_the_store_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.whl");
        std::fs::write(&path, b"not the wheel").unwrap();
        let store = Store::open(folder.path().join("models"));
        let error = pull_ocr(&store, Some(&path)).unwrap_err().to_string();
        assert!(error.contains(wheel::SHA256), "{error}");
        assert!(!store.folder().exists());
    }
}
