//! `vigie models`: fetches, lists, checks, adds, measures and removes the models of a folder.

mod add;
mod eval;
mod print;
mod pull;
mod remote;
mod traffic;
mod trial;
mod upload;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};

use crate::models::manifest::Manifest;
use crate::models::store::{self, Found, Store, Stored};
use crate::models::traffic::ModelVersion;

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
    ///
    /// `ocr` fetches the two that read text.
    Pull(pull::PullArgs),
    /// List the models and what they are for; of a running service also who has them loaded, and which slots use them.
    List(remote::ServiceArgs),
    /// Verify every model's manifest and file.
    Check,
    /// Add a model of your own: check the ONNX file, try it in a process of its own, keep it.
    Add(Box<add::AddArgs>),
    /// Measure a detector on labelled pictures as COCO does: precision and recall, a table, a page with pictures.
    Eval(eval::EvalArgs),
    /// Remove one version of a model; its number is not given again.
    Remove(RemoveArgs),
    /// Show or change which versions a running service uses, and for whom.
    Traffic(Box<traffic::TrafficArgs>),
    /// Try the model on standard input; `add` starts this.
    #[command(hide = true)]
    Trial(trial::TrialArgs),
}

#[derive(Clone, Debug, Args)]
pub struct RemoveArgs {
    /// NAME@VERSION.
    pub model: ModelVersion,
    #[command(flatten)]
    pub service: remote::ServiceArgs,
}

/// Runs the subcommand; results go to standard output, progress to standard error.
pub fn run(args: ModelsArgs) -> anyhow::Result<()> {
    let store = Store::open(args.models);
    match args.command {
        ModelsCommand::Pull(args) => pull::run(&store, &args),
        ModelsCommand::List(remote::ServiceArgs { to: Some(url), access }) => remote::list(&url, &access),
        ModelsCommand::List(_) => list(&store),
        ModelsCommand::Check => check(&store),
        ModelsCommand::Add(args) => add::add(&store, &args),
        ModelsCommand::Eval(args) => eval::run(&store, &args),
        ModelsCommand::Remove(args) => remove(&store, &args),
        ModelsCommand::Traffic(args) => traffic::run(&args),
        ModelsCommand::Trial(args) => trial::run(&args),
    }
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
            Ok(Stored { manifest, .. }) => about(manifest),
            Err(fault) => ["-".to_owned(), "-".to_owned(), "-".to_owned(), format!("faulty: {fault}")],
        };
        [name.clone(), version.to_string(), task, input, labels, licence]
    });
    let header = ["NAME", "VERSION", "TASK", "INPUT", "LABELS", "LICENCE"].map(str::to_owned);
    print_table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())?;
    Ok(())
}

/// Task, input, number of labels, licence.
fn about(manifest: &Manifest) -> [String; 4] {
    let Manifest { task, input, labels, provenance, .. } = manifest;
    [
        task.name().to_owned(),
        format!("{}x{}", input.size, input.height.unwrap_or(input.size)),
        labels.len().to_string(),
        provenance.licence.clone(),
    ]
}

fn remove(store: &Store, args: &RemoveArgs) -> anyhow::Result<()> {
    let RemoveArgs { model, service } = args;
    match &service.to {
        Some(url) => remote::remove(url, &service.access, model)?,
        None => store.remove(&model.name, model.version)?,
    }
    println!("{model} is removed; its number is not given again");
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
    use crate::models::catalogue::MODELS;

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
