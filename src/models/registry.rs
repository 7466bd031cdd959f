//! The registry: models that were uploaded, their versions, and what uses them, on the blob store.
//!
//! The store holds, for a model:
//!
//! - `models/<name>/index.json`: the highest number that was ever given, and which contents have which;
//! - `models/<name>/<version>/model.onnx` and `trial.jpg`, and, written last, `manifest.json`: a version is there when
//!   that is there.
//!
//! A number is taken by a conditional write of the index before anything is stored under it, so that no two writers have
//! the same and none is given twice. What a writer that died left under its number has no manifest: nobody sees it, and the
//! next upload of that content completes it. Whoever removes takes the content out of the index first; a writer looks
//! there last, so that the two can meet in any order.

mod fetch;
mod index;
mod sweep;
mod traffics;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};

pub use self::sweep::INTAKE_PREFIX;
use super::catalogue::MODELS;
use super::check::MAX_FILE_BYTES;
use super::manifest::{Manifest, ManifestError};
use super::store::{StoreError, sha256};
use crate::blobs::{BlobError, Blobs, MAX_SMALL_BYTES, Meta};

const MODELS_PREFIX: &str = "models";
const MANIFEST_FILE: &str = "manifest.json";
const MODEL_FILE: &str = "model.onnx";
const PICTURE_FILE: &str = "trial.jpg";
/// Bytes of a trial's picture; trials answer with no more.
const MAX_PICTURE_BYTES: u64 = 16 << 20;
/// What reads text, which is brought by another way than the rest.
const TEXT_MODELS: [&str; 2] = ["ppocr-detect", "ppocr-read"];
/// Versions of one name that there can be at a time.
const MAX_VERSIONS: usize = 1000;
/// Manifests that are read at the same time.
const READS_AT_ONCE: usize = 16;
/// Bytes that are written without a pause.
const WRITE_BYTES: usize = 1 << 20;
/// Conditional writes that may be lost to others before it is given up.
const MAX_TRIES: u32 = 32;
/// How long another's conditional write is waited for, at most.
const MAX_PAUSE_MS: u64 = 50;

/// Why the registry did not do something.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("there is no model {name}@{version}")]
    UnknownVersion { name: String, version: u32 },
    #[error("{name}@{version} is in use: the traffic of {slot} names it")]
    InUse { name: String, version: u32, slot: String },
    #[error("the traffic of {slot} has changed since it was read")]
    TrafficChanged { slot: String },
    #[error("the name {name} is that of a model that vigie brings")]
    ReservedName { name: String },
    #[error("{name} has {MAX_VERSIONS} versions already; remove some first")]
    TooManyVersions { name: String },
    #[error("the manifest is not valid")]
    Invalid(#[source] ManifestError),
    #[error(
        "the manifest would have {bytes} bytes, more than {MAX_SMALL_BYTES}: it has too many or too long labels"
    )]
    ManifestTooLarge { bytes: usize },
    #[error("{key} cannot be read")]
    Unreadable { key: String, source: Box<dyn Error + Send + Sync> },
    #[error("{name}@{version} is corrupt: its SHA-256 is {actual}, its manifest says {expected}")]
    Corrupt { name: String, version: u32, actual: String, expected: String },
    #[error("others change {key} all the time")]
    Contended { key: String },
    #[error("the store cannot be used")]
    Store(#[from] BlobError),
    #[error("the local copy cannot be made")]
    Local(#[from] StoreError),
}

/// A version in the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub manifest: Manifest,
    /// Of `model.onnx`.
    pub size_bytes: u64,
    pub has_picture: bool,
}

/// The registry on a store; clones are handles of the same one.
#[derive(Clone)]
pub struct Registry {
    blobs: Blobs,
}

impl Registry {
    pub fn new(blobs: Blobs) -> Self {
        Self { blobs }
    }

    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Every version there is, by name and then version. One whose manifest cannot be read, such as a newer vigie's, is
    /// logged and left out.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        let found = self.entries(MODELS_PREFIX).await?.into_iter();
        Ok(found
            .filter_map(|entry| entry.inspect_err(|error| tracing::warn!(error = error as &dyn Error)).ok())
            .collect())
    }

    /// One version's manifest.
    ///
    /// # Errors
    /// [`RegistryError::UnknownVersion`] when it is not there.
    pub async fn read(&self, name: &str, version: u32) -> Result<Manifest, RegistryError> {
        check_name(name, version)?;
        let unknown = || RegistryError::UnknownVersion { name: name.to_owned(), version };
        self.read_manifest(name, version).await?.ok_or_else(unknown)
    }

    /// One version with what lies beside its manifest.
    ///
    /// # Errors
    /// As [`Registry::read`].
    pub async fn entry(&self, name: &str, version: u32) -> Result<Entry, RegistryError> {
        check_name(name, version)?;
        let found = self.entries(&folder(name, version)).await?.pop();
        found.unwrap_or_else(|| Err(RegistryError::UnknownVersion { name: name.to_owned(), version }))
    }

    /// The picture of a version's trial, a JPEG.
    ///
    /// # Errors
    /// [`RegistryError::UnknownVersion`] when there is none.
    pub async fn picture(&self, name: &str, version: u32) -> Result<Bytes, RegistryError> {
        let meta = self.meta(name, version, PICTURE_FILE).await?;
        if meta.bytes > MAX_PICTURE_BYTES {
            return Err(BlobError::TooLarge { max_bytes: MAX_PICTURE_BYTES }.into());
        }
        let pieces = self.blobs.read(&meta, 0..meta.bytes).await?;
        let all = pieces.try_fold(BytesMut::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        });
        Ok(all.await?.freeze())
    }

    /// What is known of a version's ONNX file: [`Blobs::read`] reads it.
    ///
    /// # Errors
    /// [`RegistryError::UnknownVersion`] when there is none.
    pub async fn model(&self, name: &str, version: u32) -> Result<Meta, RegistryError> {
        self.meta(name, version, MODEL_FILE).await
    }

    /// Adds a version: the next number of its name, unless the same file with the same manifest is there. The second value
    /// says whether it was. `drawn` is the picture of the trial, a JPEG.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing that anybody sees is left then.
    pub async fn add(
        &self,
        manifest: &Manifest,
        onnx: Bytes,
        drawn: Bytes,
    ) -> Result<(Manifest, bool), RegistryError> {
        let hashed = onnx.clone();
        let sha256 = blocking(move || sha256(&hashed)).await?;
        let mut manifest = Manifest { sha256, version: 1, ..manifest.clone() };
        manifest.validate().map_err(RegistryError::Invalid)?;
        check_free(&manifest.name)?;
        let bytes = manifest.to_json().len();
        // Room for a longer number.
        if bytes as u64 + 16 > MAX_SMALL_BYTES {
            return Err(RegistryError::ManifestTooLarge { bytes });
        }
        let content = fingerprint(&manifest);
        for _ in 0..MAX_TRIES {
            manifest.version = self.claim(&manifest.name, &content).await?;
            if let Some(there) = self.read_manifest(&manifest.name, manifest.version).await? {
                return Ok((there, true));
            }
            let was_known = self.place(&manifest, &onnx, &drawn).await?;
            // Somebody may have removed it in between, and then some of the files that were just written.
            let (index, _) = self.index(&manifest.name).await?;
            if index.version_of(&content) == Some(manifest.version) {
                let there = if was_known {
                    self.read_manifest(&manifest.name, manifest.version).await?
                } else {
                    None
                };
                return Ok((there.unwrap_or(manifest), was_known));
            }
            self.delete(&manifest.name, manifest.version).await?;
        }
        Err(RegistryError::Contended { key: folder(&manifest.name, manifest.version) })
    }

    /// Removes a version; its number is not given again. Those who have loaded it keep it.
    ///
    /// # Errors
    /// [`RegistryError::UnknownVersion`] when it is not there, [`RegistryError::InUse`] while a traffic names it. (A traffic
    /// that comes to name it at this very moment names what is not there; workers then keep what they have.)
    pub async fn remove(&self, name: &str, version: u32) -> Result<(), RegistryError> {
        self.read(name, version).await?;
        if let Some(slot) = self.user_of(name, version).await? {
            return Err(RegistryError::InUse { name: name.to_owned(), version, slot: slot.to_string() });
        }
        self.change_index(name, |index| index.forget(version)).await?;
        self.delete(name, version).await
    }

    /// The manifest first: without it the version is not there, whatever else is.
    async fn delete(&self, name: &str, version: u32) -> Result<(), RegistryError> {
        let folder = folder(name, version);
        self.blobs.delete(&format!("{folder}/{MANIFEST_FILE}")).await?;
        Ok(self.blobs.delete_all(&folder).await?)
    }

    /// Writes a version's files, and says whether somebody else had written the same before.
    async fn place(&self, manifest: &Manifest, onnx: &Bytes, drawn: &Bytes) -> Result<bool, RegistryError> {
        let folder = folder(&manifest.name, manifest.version);
        for (file, bytes, most) in
            [(MODEL_FILE, onnx, MAX_FILE_BYTES as u64), (PICTURE_FILE, drawn, MAX_PICTURE_BYTES)]
        {
            let mut writer = self.blobs.writer(&format!("{folder}/{file}"), most).await?;
            let mut rest = bytes.clone();
            while !rest.is_empty() {
                writer.write(rest.split_to(WRITE_BYTES.min(rest.len()))).await?;
                // Each piece is hashed, which takes a while: others of this thread have their turn.
                tokio::task::yield_now().await;
            }
            writer.finish().await?;
        }
        let key = format!("{folder}/{MANIFEST_FILE}");
        match self.blobs.create(&key, manifest.to_json().into()).await {
            Ok(_) => Ok(false),
            Err(BlobError::AlreadyExists { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// What is under `prefix`; of each version by itself, whether it can be read.
    async fn entries(&self, prefix: &str) -> Result<Vec<Result<Entry, RegistryError>>, RegistryError> {
        // In the order of the files: by name, then version.
        let read = stream::iter(self.files(prefix).await?).map(async |files: Files| {
            let Files { name, version, bytes, has_picture } = files;
            match self.read_manifest(&name, version).await {
                Ok(manifest) => {
                    // Another may have removed it since it was listed.
                    manifest.map(|manifest| Ok(Ok(Entry { manifest, size_bytes: bytes, has_picture })))
                }
                Err(error @ RegistryError::Unreadable { .. }) => Some(Ok(Err(error))),
                Err(error) => Some(Err(error)),
            }
        });
        read.buffered(READS_AT_ONCE).filter_map(async |entry| entry).try_collect().await
    }

    /// The versions under `prefix` that have a manifest.
    async fn files(&self, prefix: &str) -> Result<Vec<Files>, RegistryError> {
        let mut listed = self.blobs.list(prefix)?;
        let mut found = BTreeMap::<(String, u32), (Files, bool)>::new();
        while let Some(meta) = listed.try_next().await? {
            let Some((name, version, file)) = parts(&meta.key) else { continue };
            let empty = || (Files { name: name.to_owned(), version, bytes: 0, has_picture: false }, false);
            let (files, is_whole) = found.entry((name.to_owned(), version)).or_insert_with(empty);
            match file {
                MANIFEST_FILE => *is_whole = true,
                MODEL_FILE => files.bytes = meta.bytes,
                PICTURE_FILE => files.has_picture = true,
                _ => {}
            }
        }
        Ok(found.into_values().filter(|(_, is_whole)| *is_whole).map(|(files, _)| files).collect())
    }

    async fn read_manifest(&self, name: &str, version: u32) -> Result<Option<Manifest>, RegistryError> {
        let key = format!("{}/{MANIFEST_FILE}", folder(name, version));
        let json = match self.blobs.get_small(&key).await {
            Ok((json, _)) => json,
            Err(BlobError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let unreadable = |source| RegistryError::Unreadable { key: key.clone(), source };
        let manifest = Manifest::read(&json).map_err(|error| unreadable(error.into()))?;
        match (manifest.name.as_str(), manifest.version) == (name, version) {
            true => Ok(Some(manifest)),
            false => Err(unreadable("it is another version's".into())),
        }
    }

    async fn meta(&self, name: &str, version: u32, file: &str) -> Result<Meta, RegistryError> {
        self.read(name, version).await?;
        match self.blobs.head(&format!("{}/{file}", folder(name, version))).await {
            Err(BlobError::NotFound { .. }) => {
                Err(RegistryError::UnknownVersion { name: name.to_owned(), version })
            }
            other => Ok(other?),
        }
    }

    /// The number of `content`: the one that it has, or the next.
    async fn claim(&self, name: &str, content: &str) -> Result<u32, RegistryError> {
        self.change_index(name, |index| index.claim(content))
            .await?
            .ok_or_else(|| RegistryError::TooManyVersions { name: name.to_owned() })
    }
}

/// The blobs of one version.
struct Files {
    name: String,
    version: u32,
    bytes: u64,
    has_picture: bool,
}

fn folder(name: &str, version: u32) -> String {
    format!("{MODELS_PREFIX}/{name}/{version}")
}

/// Name, version and file of a key.
fn parts(key: &str) -> Option<(&str, u32, &str)> {
    let mut parts = key.strip_prefix(MODELS_PREFIX)?.strip_prefix('/')?.split('/');
    let (name, number, file) = (parts.next()?, parts.next()?, parts.next()?);
    let version: u32 = number.parse().ok()?;
    let is_version = version > 0 && version.to_string() == number && parts.next().is_none();
    (is_version && Manifest::check_name(name).is_ok()).then_some((name, version, file))
}

/// A name that no model can have is nobody's; keys are made of it.
fn check_name(name: &str, version: u32) -> Result<(), RegistryError> {
    let unknown = |_| RegistryError::UnknownVersion { name: name.chars().take(64).collect(), version };
    Manifest::check_name(name).map_err(unknown)
}

/// Whether an upload may be called `name`: with a name that vigie brings it would be unclear which of the two is meant.
///
/// # Errors
/// [`RegistryError::Invalid`], [`RegistryError::ReservedName`].
pub fn check_free(name: &str) -> Result<(), RegistryError> {
    Manifest::check_name(name).map_err(RegistryError::Invalid)?;
    match MODELS.iter().any(|entry| entry.name == name) || TEXT_MODELS.contains(&name) {
        true => Err(RegistryError::ReservedName { name: name.to_owned() }),
        false => Ok(()),
    }
}

/// What makes two uploads the same: the file, and how it is to be read; not when it was tried and how fast it was.
fn fingerprint(manifest: &Manifest) -> String {
    sha256(Manifest { version: 1, trial: None, ..manifest.clone() }.to_json().as_bytes())
}

/// Runs what takes long, or waits for files, on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RegistryError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| BlobError::Io { source: error.into() })?)
}

/// A short while, not as long for everybody.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(1..=MAX_PAUSE_MS))).await;
}
