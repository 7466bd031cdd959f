//! Models on disk: `<folder>/<name>/<version>/{model.onnx,manifest.json}`.
//!
//! A version is written beside its place and moved there whole, so that a crash leaves either all of it
//! or none. Reading never repairs: what is wrong with a version is said, once, as a [`Fault`].

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::convert::is_cut_short;
use super::manifest::{Manifest, ManifestError, Task};

const MODEL_FILE: &str = "model.onnx";
const MANIFEST_FILE: &str = "manifest.json";
/// What was found in the trial's picture, drawn on it.
const PICTURE_FILE: &str = "trial.jpg";
/// The highest number that a version ever had, so that none is given twice.
const HIGHEST_FILE: &str = ".highest";
/// Hidden, so that what is in it is not listed with the rest.
const FETCHED_FOLDER: &str = ".registry";
const TEMPORARY_FOLDER: &str = "vigie-models";
/// No model is larger; beyond that a file is not even read.
const MAX_MODEL_BYTES: u64 = 2 << 30;
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Read at a time when a file is copied.
const COPY_BYTES: usize = 256 << 10;

/// What is wrong with one version of a model.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    #[error("{} could not be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{} is not a valid manifest", path.display())]
    Manifest {
        path: PathBuf,
        #[source]
        source: ManifestError,
    },
    #[error("{} describes {name} version {version}, which is not what its folder is called", path.display())]
    Misplaced { path: PathBuf, name: String, version: u32 },
    #[error("{} is cut short after {bytes} bytes", path.display())]
    CutShort { path: PathBuf, bytes: u64 },
    #[error("{} is corrupt: its SHA-256 is {actual}, its manifest says {expected}", path.display())]
    Corrupt { path: PathBuf, actual: String, expected: String },
}

/// Why models could not be found, or one not be written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the models in {} could not be listed", path.display())]
    Unlisted {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("there is no model for {task} in {}", folder.display())]
    NoModel { task: &'static str, folder: PathBuf },
    #[error("there is no model {name} in {}", folder.display())]
    NoSuchModel { name: String, folder: PathBuf },
    #[error("model {name} version {version} cannot be used")]
    Faulty {
        name: String,
        version: u32,
        #[source]
        fault: Fault,
    },
    #[error("{} could not be written", path.display())]
    NotWritten {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the manifest is not valid")]
    Invalid(#[source] ManifestError),
}

/// One version of a model, its manifest read and valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub manifest: Manifest,
    /// The ONNX file.
    pub model: PathBuf,
}

/// One version as it was found.
#[derive(Debug)]
pub struct Found {
    pub name: String,
    pub version: u32,
    pub stored: Result<Stored, Fault>,
}

/// A version that is there now.
#[derive(Debug)]
pub struct Addition {
    pub stored: Stored,
    /// Whether it was there already.
    pub was_known: bool,
}

/// A folder of models.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Names a folder; it need not exist yet.
    pub fn open(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The part of the folder for copies of the registry's versions: a name there and one here are not the same model.
    /// Where the folder cannot be written to, as in an image, it is in the machine's folder for temporary files.
    pub fn fetched(&self) -> Self {
        let beside = self.folder.join(FETCHED_FOLDER);
        let is_writable = fs::create_dir_all(&beside).and_then(|()| tempfile::tempfile_in(&beside)).is_ok();
        let folder = if is_writable { beside } else { std::env::temp_dir().join(TEMPORARY_FOLDER) };
        Self { folder }
    }

    /// Every version there is, by name and then version; manifests are read, weights are not.
    ///
    /// A folder that does not exist has no models. Entries that are no versions are passed over.
    pub fn list(&self) -> Result<Vec<Found>, StoreError> {
        let mut found = Vec::new();
        for name in entries(&self.folder)? {
            for version in entries(&self.folder.join(&name))? {
                if let Some(number) = number(&version) {
                    found.push(Found {
                        stored: self.read(&name, number),
                        name: name.clone(),
                        version: number,
                    });
                }
            }
        }
        found.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        Ok(found)
    }

    /// The newest model for `task`, its file verified: the highest version, and of several models the one
    /// whose name comes first.
    ///
    /// # Errors
    /// [`StoreError::NoModel`] when there is none; [`StoreError::Faulty`] when it cannot be used, or when any
    /// manifest cannot be read: it might be the newest, and an older one in its stead would be a surprise.
    pub fn newest(&self, task: Task) -> Result<Stored, StoreError> {
        let mut newest: Option<Stored> = None;
        for Found { name, version, stored } in self.list()? {
            let stored = stored.map_err(|fault| StoreError::Faulty { name, version, fault })?;
            let is_newer = newest.as_ref().is_none_or(|newest| newest.manifest.version < version);
            if stored.manifest.task == task && is_newer {
                newest = Some(stored);
            }
        }
        let folder = || self.folder.clone();
        let newest = newest.ok_or_else(|| StoreError::NoModel { task: task.name(), folder: folder() })?;
        match verify(&newest) {
            Ok(()) => Ok(newest),
            Err(fault) => {
                let Manifest { name, version, .. } = newest.manifest;
                Err(StoreError::Faulty { name, version, fault })
            }
        }
    }

    /// The newest version called `name`, its file verified.
    ///
    /// # Errors
    /// [`StoreError::NoSuchModel`] when there is none, [`StoreError::Faulty`] when it cannot be used.
    pub fn newest_of(&self, name: &str) -> Result<Stored, StoreError> {
        let missing = || StoreError::NoSuchModel { name: name.to_owned(), folder: self.folder.clone() };
        Manifest::check_name(name).map_err(|_| missing())?;
        let version = self.versions(name)?.last().copied().ok_or_else(missing)?;
        self.find(name, version)
    }

    /// One version, its file verified.
    ///
    /// # Errors
    /// As [`Store::newest_of`].
    pub fn find(&self, name: &str, version: u32) -> Result<Stored, StoreError> {
        let shown = format!("{name}@{version}");
        let missing = || StoreError::NoSuchModel { name: shown, folder: self.folder.clone() };
        let is_there = Manifest::check_name(name).is_ok() && self.version_folder(name, version).is_dir();
        is_there.then_some(()).ok_or_else(missing)?;
        self.check(name, version).map_err(|fault| StoreError::Faulty {
            name: name.to_owned(),
            version,
            fault,
        })
    }

    /// The numbers of a model's versions, ascending.
    pub fn versions(&self, name: &str) -> Result<Vec<u32>, StoreError> {
        let mut versions: Vec<u32> =
            entries(&self.folder.join(name))?.iter().filter_map(|v| number(v)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Adds a version: the next number of its name, unless the same file with the same manifest is there.
    ///
    /// `drawn` is the trial's picture.
    ///
    /// # Errors
    /// [`StoreError`]; the folder is then as it was.
    pub fn add(&self, manifest: &Manifest, onnx: &[u8], drawn: &[u8]) -> Result<Addition, StoreError> {
        let mut manifest = Manifest { sha256: sha256(onnx), ..manifest.clone() };
        manifest.validate().map_err(StoreError::Invalid)?;
        let parent = self.folder.join(&manifest.name);
        let not_written = |source| StoreError::NotWritten { path: parent.clone(), source };
        let _lock = self.lock(&manifest.name).map_err(not_written)?;
        let versions = self.versions(&manifest.name)?;
        for &version in versions.iter().rev() {
            match self.check(&manifest.name, version) {
                Ok(stored) if is_same(&stored.manifest, &manifest) => {
                    return Ok(Addition { stored, was_known: true });
                }
                // A faulty version is no obstacle to a new one.
                _ => {}
            }
        }
        let highest =
            fs::read_to_string(parent.join(HIGHEST_FILE)).ok().and_then(|text| text.trim().parse().ok());
        let highest: u32 = versions.last().copied().max(highest).unwrap_or(0);
        manifest.version = highest.checked_add(1).ok_or(StoreError::Invalid(ManifestError::Version))?;
        write_to_disk(&parent.join(HIGHEST_FILE), manifest.version.to_string().as_bytes())
            .map_err(not_written)?;
        let place = self.version_folder(&manifest.name, manifest.version);
        self.place(&place, &manifest, |path| write_to_disk(path, onnx), Some(drawn)).map_err(not_written)?;
        Ok(Addition { stored: Stored { model: place.join(MODEL_FILE), manifest }, was_known: false })
    }

    /// Removes a version; its number is not given again. Those who have loaded it keep it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchModel`] when it is not there, [`StoreError::NotWritten`] when it cannot be removed.
    pub fn remove(&self, name: &str, version: u32) -> Result<(), StoreError> {
        let place = self.version_folder(name, version);
        if Manifest::check_name(name).is_err() || !place.is_dir() {
            return Err(StoreError::NoSuchModel {
                name: format!("{name}@{version}"),
                folder: self.folder.clone(),
            });
        }
        let not_written = |source| StoreError::NotWritten { path: place.clone(), source };
        let _lock = self.lock(name).map_err(not_written)?;
        let parent = self.folder.join(name);
        let highest = self.versions(name)?.last().copied().unwrap_or(version);
        let known =
            fs::read_to_string(parent.join(HIGHEST_FILE)).ok().and_then(|text| text.trim().parse().ok());
        let highest = known.unwrap_or(0).max(highest);
        write_to_disk(&parent.join(HIGHEST_FILE), highest.to_string().as_bytes()).map_err(not_written)?;
        let removed = parent.join(format!(".{version}.removed"));
        let remove = || {
            remove_if_there(&removed)?;
            fs::rename(&place, &removed)?;
            remove_if_there(&removed)
        };
        remove().map_err(not_written)
    }

    /// One writer of a name at a time; the lock goes with the process, whatever becomes of it.
    fn lock(&self, name: &str) -> io::Result<File> {
        let parent = self.folder.join(name);
        fs::create_dir_all(&parent)?;
        let lock = File::create(parent.join(".lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    /// One version, its manifest read but its file not verified.
    pub fn read(&self, name: &str, version: u32) -> Result<Stored, Fault> {
        let folder = self.version_folder(name, version);
        let path = folder.join(MANIFEST_FILE);
        let json = read_file(&path, MAX_MANIFEST_BYTES)?;
        let manifest =
            Manifest::read(&json).map_err(|source| Fault::Manifest { path: path.clone(), source })?;
        if (manifest.name.as_str(), manifest.version) != (name, version) {
            return Err(Fault::Misplaced { path, name: manifest.name, version: manifest.version });
        }
        Ok(Stored { manifest, model: folder.join(MODEL_FILE) })
    }

    /// One version, its file verified against its manifest.
    pub fn check(&self, name: &str, version: u32) -> Result<Stored, Fault> {
        let stored = self.read(name, version)?;
        verify(&stored)?;
        Ok(stored)
    }

    /// Writes a version, in the stead of one that is there; other processes see the old or the new one.
    ///
    /// The digest in `manifest` is set to that of `onnx`.
    pub fn write(&self, manifest: &Manifest, onnx: &[u8]) -> Result<Stored, StoreError> {
        let manifest = Manifest { sha256: sha256(onnx), ..manifest.clone() };
        manifest.validate().map_err(StoreError::Invalid)?;
        let place = self.version_folder(&manifest.name, manifest.version);
        let not_written = |source| StoreError::NotWritten { path: place.clone(), source };
        let _lock = self.lock(&manifest.name).map_err(not_written)?;
        self.place(&place, &manifest, |path| write_to_disk(path, onnx), None).map_err(not_written)?;
        Ok(Stored { model: place.join(MODEL_FILE), manifest })
    }

    /// Writes a version as its manifest says, its file copied from `onnx`, in the stead of one that is there.
    ///
    /// # Errors
    /// [`StoreError::Faulty`] when the file is another than the manifest says; nothing is changed then.
    pub fn copy(&self, manifest: &Manifest, onnx: &Path) -> Result<Stored, StoreError> {
        let place = self.version_folder(&manifest.name, manifest.version);
        let not_written = |source| StoreError::NotWritten { path: place.clone(), source };
        let _lock = self.lock(&manifest.name).map_err(not_written)?;
        let mut actual = String::new();
        let copied = self.place(
            &place,
            manifest,
            |path| {
                actual = copy_to_disk(onnx, path)?;
                // Told from other errors by `actual`.
                if actual == manifest.sha256 { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
            },
            None,
        );
        match copied {
            Err(_) if !actual.is_empty() && actual != manifest.sha256 => Err(StoreError::Faulty {
                name: manifest.name.clone(),
                version: manifest.version,
                fault: Fault::Corrupt { path: onnx.to_owned(), actual, expected: manifest.sha256.clone() },
            }),
            copied => {
                copied.map_err(not_written)?;
                Ok(Stored { manifest: manifest.clone(), model: place.join(MODEL_FILE) })
            }
        }
    }

    /// Writes a version's files and moves them to their place; its name must be locked.
    fn place(
        &self,
        place: &Path,
        manifest: &Manifest,
        write_model: impl FnOnce(&Path) -> io::Result<()>,
        drawn: Option<&[u8]>,
    ) -> io::Result<()> {
        let parent = self.folder.join(&manifest.name);
        let partial = parent.join(format!(".{}.partial", manifest.version));
        let replaced = parent.join(format!(".{}.replaced", manifest.version));
        // What an interrupted writer left.
        remove_if_there(&partial)?;
        remove_if_there(&replaced)?;
        fs::create_dir(&partial)?;
        write_model(&partial.join(MODEL_FILE))?;
        write_to_disk(&partial.join(MANIFEST_FILE), manifest.to_json().as_bytes())?;
        if let Some(drawn) = drawn {
            write_to_disk(&partial.join(PICTURE_FILE), drawn)?;
        }
        if place.exists() {
            fs::rename(place, &replaced)?;
        }
        fs::rename(&partial, place)?;
        // The names themselves survive a loss of power.
        File::open(&parent)?.sync_all()?;
        remove_if_there(&replaced)
    }

    fn version_folder(&self, name: &str, version: u32) -> PathBuf {
        self.folder.join(name).join(version.to_string())
    }
}

impl Stored {
    /// The picture of its trial, if there was one.
    pub fn picture(&self) -> Option<PathBuf> {
        Some(self.model.with_file_name(PICTURE_FILE)).filter(|path| path.is_file())
    }
}

/// A version's number, written as it writes itself: 1, not 01 or +1.
fn number(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|number| *number > 0 && number.to_string() == text)
}

/// Whether two manifests say the same of the same file; when it was tried and how fast it was may differ.
fn is_same(there: &Manifest, new: &Manifest) -> bool {
    let plain = |manifest: &Manifest| Manifest { version: 1, trial: None, ..manifest.clone() };
    plain(there) == plain(new)
}

/// Whether the ONNX file is the one that the manifest was written for.
pub fn verify(stored: &Stored) -> Result<(), Fault> {
    let file = read_file(&stored.model, MAX_MODEL_BYTES)?;
    let actual = sha256(&file);
    let path = stored.model.clone();
    if actual.eq_ignore_ascii_case(&stored.manifest.sha256) {
        Ok(())
    } else if is_cut_short(&file) {
        Err(Fault::CutShort { path, bytes: file.len() as u64 })
    } else {
        Err(Fault::Corrupt { path, actual, expected: stored.manifest.sha256.clone() })
    }
}

/// The SHA-256 of `bytes` in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, Fault> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Fault::Missing(path.to_owned()),
        _ => Fault::Unreadable { path: path.to_owned(), source },
    };
    if fs::metadata(path).map_err(unreadable)?.len() > limit {
        return Err(Fault::TooLarge { path: path.to_owned(), limit });
    }
    fs::read(path).map_err(unreadable)
}

/// Names in a folder that are not hidden; none if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<String>, StoreError> {
    let unlisted = |source| StoreError::Unlisted { path: folder.to_owned(), source };
    let listed = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(unlisted)?,
    };
    let mut names = Vec::new();
    for entry in listed {
        let name = entry.map_err(unlisted)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    Ok(names)
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write_to_disk(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Copies a file in pieces, and returns its SHA-256 in hexadecimal.
fn copy_to_disk(from: &Path, to: &Path) -> io::Result<String> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut hash = Sha256::new();
    let mut piece = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut piece)? {
            0 => break,
            read => {
                hash.update(&piece[..read]);
                to.write_all(&piece[..read])?;
            }
        }
    }
    to.sync_all()?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::catalogue::MODELS;

    /// A protobuf message of one field: as much as a model's outside is looked at.
    const ONNX: &[u8] = &[0x0a, 4, 1, 2, 3, 4];

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("models"));
        (folder, store)
    }

    fn manifest(name: &str, version: u32) -> Manifest {
        Manifest { name: name.to_owned(), version, ..MODELS[0].manifest() }
    }

    #[test]
    fn what_is_written_is_found_and_sound() {
        let (_folder, store) = store();
        assert!(store.list().unwrap().is_empty(), "no folder, no models");
        let written = store.write(&manifest("a", 1), ONNX).unwrap();
        assert_eq!(written.manifest.sha256, sha256(ONNX));
        assert_eq!(store.check("a", 1).unwrap(), written);
        assert_eq!(store.newest(Task::Faces).unwrap(), written);
        assert!(matches!(store.newest(Task::Objects), Err(StoreError::NoModel { task: "objects", .. })));
    }

    #[test]
    fn the_highest_version_is_the_newest_as_a_number() {
        let (_folder, store) = store();
        for (name, version) in [("b", 9), ("b", 10), ("a", 10), ("c", 2)] {
            store.write(&manifest(name, version), ONNX).unwrap();
        }
        let newest = store.newest(Task::Faces).unwrap();
        assert_eq!((newest.manifest.name.as_str(), newest.manifest.version), ("a", 10));
    }

    #[test]
    fn each_fault_has_its_message() {
        type Spoil = fn(&Path);
        let cases: [(Spoil, &str); 7] = [
            (|v| fs::remove_file(v.join(MANIFEST_FILE)).unwrap(), "manifest.json is missing"),
            (|v| fs::remove_file(v.join(MODEL_FILE)).unwrap(), "model.onnx is missing"),
            (|v| fs::write(v.join(MODEL_FILE), &ONNX[..5]).unwrap(), "cut short after 5 bytes"),
            (|v| fs::write(v.join(MODEL_FILE), b"").unwrap(), "cut short after 0 bytes"),
            (|v| fs::write(v.join(MODEL_FILE), [0x0a, 4, 1, 2, 3, 5]).unwrap(), "corrupt"),
            (|v| fs::write(v.join(MANIFEST_FILE), "{").unwrap(), "not a valid manifest"),
            (
                |v| fs::write(v.join(MANIFEST_FILE), manifest("b", 1).to_json()).unwrap(),
                "describes b version 1",
            ),
        ];
        for (spoil, expected) in cases {
            let (_folder, store) = store();
            store.write(&manifest("a", 1), ONNX).unwrap();
            spoil(&store.version_folder("a", 1));
            let fault = store.check("a", 1).unwrap_err().to_string();
            assert!(fault.contains(expected), "{fault} does not say {expected}");
        }
    }

    #[test]
    fn a_faulty_version_is_replaced_whole() {
        let (_folder, store) = store();
        store.write(&manifest("a", 1), ONNX).unwrap();
        let version = store.version_folder("a", 1);
        fs::write(version.join(MODEL_FILE), b"").unwrap();
        fs::write(version.join("stray"), b"").unwrap();
        store.write(&manifest("a", 1), ONNX).unwrap();
        store.check("a", 1).unwrap();
        assert!(!version.join("stray").exists());
    }

    #[test]
    fn an_interrupted_writer_leaves_nothing_that_counts() {
        let (_folder, store) = store();
        let parent = store.folder().join("a");
        fs::create_dir_all(parent.join(".1.partial")).unwrap();
        fs::write(parent.join(".1.partial").join(MODEL_FILE), &ONNX[..3]).unwrap();
        assert!(store.list().unwrap().is_empty());
        store.write(&manifest("a", 1), ONNX).unwrap();
        assert!(!parent.join(".1.partial").exists());
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_a_version_is_passed_over() {
        let (_folder, store) = store();
        store.write(&manifest("a", 1), ONNX).unwrap();
        for other in ["a/01", "a/0", "a/latest", ".hidden/1"] {
            fs::create_dir_all(store.folder().join(other)).unwrap();
        }
        fs::write(store.folder().join("README.md"), b"").unwrap();
        let found: Vec<_> = store.list().unwrap().into_iter().map(|f| (f.name, f.version)).collect();
        assert_eq!(found, [("a".to_owned(), 1)]);
    }

    #[test]
    fn versions_count_up_and_the_same_is_known_again() {
        let (_folder, store) = store();
        let add = |onnx: &[u8]| {
            let added = store.add(&manifest("a", 9), onnx, b"jpeg").unwrap();
            (added.stored.manifest.version, added.was_known)
        };
        let other: &[u8] = &[0x0a, 1, 7];
        assert_eq!(add(ONNX), (1, false));
        assert_eq!(add(ONNX), (1, true));
        assert_eq!(add(other), (2, false));
        assert_eq!(add(ONNX), (1, true));
        let mut stricter = manifest("a", 1);
        stricter.thresholds.score = 0.9;
        let stricter = store.add(&stricter, ONNX, b"jpeg").unwrap().stored;
        assert_eq!(stricter.manifest.version, 3, "the same file read otherwise is another version");
        assert_eq!(fs::read(stricter.picture().unwrap()).unwrap(), b"jpeg");
        assert_eq!(store.newest_of("a").unwrap(), stricter);
        assert_eq!(store.find("a", 2).unwrap().manifest.sha256, sha256(other));
    }

    #[test]
    fn a_removed_versions_number_is_not_given_again() {
        let (_folder, store) = store();
        for onnx in [ONNX, &[0x0a, 1, 7]] {
            store.add(&manifest("a", 1), onnx, b"").unwrap();
        }
        store.remove("a", 2).unwrap();
        store.remove("a", 1).unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(matches!(store.remove("a", 1), Err(StoreError::NoSuchModel { .. })));
        assert!(matches!(store.remove("../a", 1), Err(StoreError::NoSuchModel { .. })));
        assert!(matches!(store.newest_of("a"), Err(StoreError::NoSuchModel { .. })));
        assert!(matches!(store.newest_of(".."), Err(StoreError::NoSuchModel { .. })));
        let added = store.add(&manifest("a", 1), ONNX, b"").unwrap();
        assert_eq!((added.stored.manifest.version, added.was_known), (3, false));
    }

    #[test]
    fn a_damaged_version_is_not_taken_for_the_one_that_is_added() {
        let (_folder, store) = store();
        let first = store.add(&manifest("a", 1), ONNX, b"").unwrap().stored;
        fs::write(&first.model, b"").unwrap();
        assert_eq!(store.add(&manifest("a", 1), ONNX, b"").unwrap().stored.manifest.version, 2);
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        let (_folder, store) = store();
        assert!(matches!(store.write(&manifest("../a", 1), ONNX), Err(StoreError::Invalid(_))));
    }
}
