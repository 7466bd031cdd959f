//! `vigie models`: fetches, lists, checks, adds, measures and removes the models of a folder.

mod add;
mod eval;
mod print;
mod traffic;
mod trial;
mod upload;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::models::catalogue::{Entry, MODELS};
use crate::models::convert;
use crate::models::store::{self, Fault, Found, Store, Stored};
use crate::models::tarball;

#[derive(Clone, Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    pub command: ModelsCommand,
    /// Directory of the models.
    #[arg(long, env = "VIGIE_MODELS", default_value = ".vigie/models", global = true)]
    pub models: PathBuf,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ModelsCommand {
    /// Fetch the default models and convert them to ONNX; does nothing when they are there and sound.
    Pull {
        /// The npm package @vladmandic/human 3.3.6, fetched elsewhere: no network is needed then.
        #[arg(long, value_name = "FILE")]
        tarball: Option<PathBuf>,
    },
    /// List the models and what they are for.
    List,
    /// Verify every model's manifest and file.
    Check,
    /// Add a model of your own: check the ONNX file, try it in a process of its own, keep it.
    Add(Box<add::AddArgs>),
    /// Measure a detector on labelled pictures as COCO does: precision and recall, a table, a page with pictures.
    Eval(eval::EvalArgs),
    /// Remove one version of a model, NAME@VERSION.
    Remove { model: String },
    /// Show or change which versions a running service uses, and for whom.
    Traffic(Box<traffic::TrafficArgs>),
    /// Try the model on standard input; `add` starts this.
    #[command(hide = true)]
    Trial(trial::TrialArgs),
}

/// Runs the subcommand; results go to standard output, progress to standard error.
pub fn run(args: ModelsArgs) -> anyhow::Result<()> {
    let store = Store::open(args.models);
    match args.command {
        ModelsCommand::Pull { tarball } => pull(&store, tarball.as_deref()),
        ModelsCommand::List => list(&store),
        ModelsCommand::Check => check(&store),
        ModelsCommand::Add(args) => add::add(&store, &args),
        ModelsCommand::Eval(args) => eval::run(&store, &args),
        ModelsCommand::Remove { model } => add::remove(&store, &model),
        ModelsCommand::Traffic(args) => traffic::run(&args),
        ModelsCommand::Trial(args) => trial::run(&args),
    }
}

fn pull(store: &Store, tarball: Option<&Path>) -> anyhow::Result<()> {
    let mut wanted = Vec::new();
    for entry in &MODELS {
        match store.check(entry.name, entry.version) {
            Ok(stored) if stored.manifest.sha256 == entry.sha256 => {}
            Ok(_) => {
                eprintln!("{} {}: not the one this vigie makes, it is made anew", entry.name, entry.version);
                wanted.push(entry);
            }
            // Nothing has been fetched yet: not worth a word.
            Err(Fault::Missing(_)) => wanted.push(entry),
            Err(fault) => {
                eprintln!(
                    "{} {}: {:#}; it is made anew",
                    entry.name,
                    entry.version,
                    anyhow::Error::new(fault)
                );
                wanted.push(entry);
            }
        }
    }
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

fn list(store: &Store) -> anyhow::Result<()> {
    let found = store.list()?;
    if found.is_empty() {
        eprintln!(
            "no models in {}: fetch the default ones with `vigie models pull`",
            store.folder().display()
        );
        return Ok(());
    }
    let rows = found.iter().map(|Found { name, version, stored }| {
        let [task, input, labels, licence] = match stored {
            Ok(Stored { manifest, .. }) => [
                manifest.task.name().to_owned(),
                format!("{0}x{0}", manifest.input.size),
                manifest.labels.len().to_string(),
                manifest.provenance.licence.clone(),
            ],
            Err(fault) => ["-".to_owned(), "-".to_owned(), "-".to_owned(), format!("faulty: {fault}")],
        };
        [name.clone(), version.to_string(), task, input, labels, licence]
    });
    let header = ["NAME", "VERSION", "TASK", "INPUT", "LABELS", "LICENCE"].map(str::to_owned);
    print_table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())?;
    Ok(())
}

fn check(store: &Store) -> anyhow::Result<()> {
    let found = store.list()?;
    if found.is_empty() {
        bail!("no models in {}: fetch the default ones with `vigie models pull`", store.folder().display());
    }
    let mut faulty = 0;
    let mut rows = vec![["NAME", "VERSION", "STATE"].map(str::to_owned)];
    for Found { name, version, stored } in found {
        // What else a sound model must do, such as load, is to be asked of `stored` here.
        let state = match stored.and_then(|stored| store::verify(&stored)) {
            Ok(()) => "sound".to_owned(),
            Err(fault) => {
                faulty += 1;
                format!("{:#}", anyhow::Error::new(fault))
            }
        };
        rows.push([name, version.to_string(), state]);
    }
    print_table(&rows)?;
    match faulty {
        0 => Ok(()),
        _ => bail!("{faulty} of {} models cannot be used", rows.len() - 1),
    }
}

/// Prints rows in columns as wide as their widest cell; the last column is as wide as it likes.
fn print_table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> io::Result<()> {
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let last = column + 1 == COLUMNS;
        rows.iter().map(|row| if last { 0 } else { row[column].chars().count() }).max().unwrap_or(0)
    });
    let mut out = io::stdout().lock();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
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
        let error = pull(&store, Some(&package)).unwrap_err().to_string();
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
    fn checking_counts_the_faulty_ones() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path());
        assert!(check(&store).unwrap_err().to_string().contains("vigie models pull"));
        let stored = store.write(&MODELS[0].manifest(), b"").unwrap();
        check(&store).unwrap();
        std::fs::remove_file(stored.model).unwrap();
        assert_eq!(check(&store).unwrap_err().to_string(), "1 of 1 models cannot be used");
    }
}
