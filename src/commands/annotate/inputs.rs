//! Files, folders and patterns on the command line into the files to annotate.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use glob::MatchOptions;

/// The inputs, with folders and patterns replaced by their files, each file once.
pub fn expand(inputs: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        let mut found = if input.is_dir() {
            in_folder(input)?
        } else if is_pattern(input) {
            matching(input)?
        } else {
            vec![input.clone()]
        };
        found.retain(|path| !files.contains(path));
        files.extend(found);
    }
    if files.is_empty() {
        bail!("there are no files to annotate");
    }
    Ok(files)
}

/// Files of a folder by name, less the hidden ones.
fn in_folder(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let reading = || format!("reading {}", folder.display());
    let entries = std::fs::read_dir(folder).with_context(reading)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    let mut found = paths.with_context(reading)?;
    let is_hidden =
        |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    found.retain(|path| path.is_file() && !is_hidden(path));
    found.sort();
    Ok(found)
}

/// Whether a path that is no file is a pattern: some shells leave them to the program.
fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte)) && !path.exists()
}

fn matching(pattern: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let shown = pattern.display();
    let text = pattern.to_str().with_context(|| format!("{shown} is no UTF-8, as patterns must be"))?;
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    let found = glob::glob_with(text, options).with_context(|| format!("{shown} is no pattern"))?;
    let mut files = found.collect::<Result<Vec<_>, _>>().with_context(|| format!("looking for {shown}"))?;
    files.retain(|path| path.is_file());
    if files.is_empty() {
        bail!("no file matches {shown}");
    }
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot write its files has failed")]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_become_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("deep")).unwrap();
        for name in ["b.mp4", "a.mp4", "c.jpg", ".hidden.mp4", "deep/d.mp4", "odd[1].mp4"] {
            std::fs::write(at(name), "x").unwrap();
        }
        let expanded = |inputs: &[&str]| {
            let inputs: Vec<_> = inputs.iter().map(|input| at(input)).collect();
            expand(&inputs).map(|files| {
                let relative =
                    |path: &PathBuf| path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
                files.iter().map(relative).collect::<Vec<_>>()
            })
        };
        assert_eq!(expanded(&[""]).unwrap(), ["a.mp4", "b.mp4", "c.jpg", "odd[1].mp4"]);
        assert_eq!(expanded(&["*.mp4"]).unwrap(), ["a.mp4", "b.mp4", "odd[1].mp4"]);
        assert_eq!(expanded(&["**/[ad].mp4"]).unwrap(), ["a.mp4", "deep/d.mp4"]);
        assert_eq!(expanded(&["?.jpg", "c.jpg", "b.mp4"]).unwrap(), ["c.jpg", "b.mp4"]);
        assert_eq!(expanded(&["odd[1].mp4"]).unwrap(), ["odd[1].mp4"], "a name is taken as it is");
        assert!(expanded(&["*.webm"]).unwrap_err().to_string().contains("no file matches"));
        assert!(expanded(&["["]).unwrap_err().to_string().contains("is no pattern"));
    }
}
