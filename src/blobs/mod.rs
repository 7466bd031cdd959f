//! Blobs: uploads, results, records and models, in a folder or in a cloud's bucket.
//!
//! A blob has a key (`jobs/0123/summary.json`) and appears whole or not at all. Whoever writes or reads a large one does so
//! as a stream, in bounded memory; small ones are records, which can be created or changed on a condition. Every wait ends:
//! a store that does not answer is [`BlobError::Unreachable`] after some seconds.
//!
//! A folder may be shared by the processes of one machine. This part knows nothing of what the blobs mean.

mod error;
mod files;
mod folder;
mod place;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{
    GetOptions, GetRange, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion,
};

pub use error::BlobError;
pub use files::Fetched;
pub use place::OpenError;
pub use writer::{Stored, Writer};

/// Records are at most so large.
pub const MAX_SMALL_BYTES: u64 = 1 << 20;

/// A store of blobs; clones are handles of the same one.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    folder: Option<PathBuf>,
    name: String,
    /// In this process one task at a time waits for the folder's lock.
    turn: tokio::sync::Mutex<()>,
}

/// What is known of a blob without reading it.
#[derive(Clone, Debug)]
pub struct Meta {
    pub key: String,
    pub bytes: u64,
    pub modified: SystemTime,
    pub version: Version,
}

impl Meta {
    /// The blob's entity tag as HTTP writes it, in quotes, if the store has one.
    pub fn etag(&self) -> Option<String> {
        let tag = self.version.0.e_tag.as_ref()?;
        let quoted = tag.starts_with('"') || tag.starts_with("W/");
        Some(if quoted { tag.clone() } else { format!("\"{tag}\"") })
    }
}

/// Tells one content of a blob from what was there before and comes after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(UpdateVersion);

/// A blob's bytes, as they come.
pub type BlobStream = BoxStream<'static, Result<Bytes, BlobError>>;

impl Blobs {
    /// Opens a folder, made if it is not there, or a bucket: `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`.
    /// Credentials and endpoints come from the environment, as object_store names them (`AWS_ACCESS_KEY_ID`, …).
    ///
    /// # Errors
    /// When the folder cannot be written to, or the address is none. A bucket is not asked yet: see [`Blobs::check`].
    pub fn open(place: &str) -> Result<Self, OpenError> {
        let environment: Vec<_> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::open_with(place, &environment)
    }

    /// Opens a store with these settings instead of the environment's.
    ///
    /// # Errors
    /// As [`Blobs::open`].
    pub fn open_with(place: &str, settings: &[(String, String)]) -> Result<Self, OpenError> {
        let place::Opened { store, folder, name } = place::open(place, settings)?;
        Ok(Self(Arc::new(Inner { store, folder, name, turn: tokio::sync::Mutex::default() })))
    }

    /// Where the store is, for messages.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn check(&self) -> Result<(), BlobError> {
        if let Some(folder) = &self.0.folder {
            let folder = folder.clone();
            return folder::blocking(move || std::fs::read_dir(folder).map(drop)).await;
        }
        match self.head("vigie").await {
            Ok(_) | Err(BlobError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes a large blob under `key`, of at most `max_bytes`.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn writer(&self, key: &str, max_bytes: u64) -> Result<Writer, BlobError> {
        Writer::to_key(self, parse(key)?, max_bytes).await
    }

    /// Writes a large blob that is called `<folder>/<SHA-256 of its content>` in the end.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn writer_by_content(&self, folder: &str, max_bytes: u64) -> Result<Writer, BlobError> {
        Writer::by_content(self, parse(folder)?, max_bytes).await
    }

    /// The most bytes of a blob that is called by its content: a bucket cannot rename larger ones.
    pub fn max_content_bytes(&self) -> u64 {
        if self.0.folder.is_some() { u64::MAX } else { writer::CLOUD_MAX_COPY_BYTES }
    }

    /// Bytes of memory that a [`Writer`] takes at the most.
    pub fn writer_bytes(&self) -> usize {
        writer::held_bytes(self.0.folder.is_some())
    }

    /// Joins blobs, in this order, to one that is called `<folder>/<SHA-256 of its content>`. The parts stay.
    ///
    /// # Errors
    /// When one is missing, they are too large together, or the store fails.
    pub async fn join(&self, parts: &[String], folder: &str, max_bytes: u64) -> Result<Stored, BlobError> {
        let mut writer = self.writer_by_content(folder, max_bytes).await?;
        for part in parts {
            let meta = self.head(part).await?;
            let mut bytes = self.read(&meta, 0..meta.bytes).await?;
            while let Some(piece) = bytes.try_next().await? {
                writer.write(piece).await?;
            }
        }
        writer.finish().await
    }

    /// Writes a small blob, whatever was there before.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn put_small(&self, key: &str, bytes: Bytes) -> Result<Version, BlobError> {
        self.put(key, bytes, PutMode::Overwrite).await
    }

    /// Writes a small blob where none is.
    ///
    /// # Errors
    /// [`BlobError::AlreadyExists`] where one is.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Version, BlobError> {
        self.put(key, bytes, PutMode::Create).await
    }

    /// Replaces a small blob if it still is the one of `version`.
    ///
    /// # Errors
    /// [`BlobError::Changed`] if it is another one, [`BlobError::NotFound`] or `Changed` if it is gone.
    pub async fn update(&self, key: &str, bytes: Bytes, version: &Version) -> Result<Version, BlobError> {
        let Some(folder) = &self.0.folder else {
            return self.put(key, bytes, PutMode::Update(version.0.clone())).await;
        };
        // Files have no conditional write: all that is written on a condition is written behind one lock.
        let _turn = self.0.turn.lock().await;
        let _lock = folder::lock(folder).await?;
        match self.head(key).await?.version == *version {
            true => self.put(key, bytes, PutMode::Overwrite).await,
            false => Err(BlobError::Changed { key: key.to_owned() }),
        }
    }

    /// Reads a small blob.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] when it is none.
    pub async fn get_small(&self, key: &str) -> Result<(Bytes, Version), BlobError> {
        let got = self.0.store.get(&parse(key)?).await.map_err(|error| BlobError::of(key, error))?;
        if got.meta.size > MAX_SMALL_BYTES {
            return Err(BlobError::TooLarge { max_bytes: MAX_SMALL_BYTES });
        }
        let version = version_of(&got.meta);
        let bytes = got.bytes().await.map_err(|error| BlobError::of(key, error))?;
        Ok((bytes, version))
    }

    /// What is known of a blob.
    ///
    /// # Errors
    /// [`BlobError::NotFound`] when there is none.
    pub async fn head(&self, key: &str) -> Result<Meta, BlobError> {
        let meta = self.0.store.head(&parse(key)?).await;
        meta.map(to_meta).map_err(|error| BlobError::of(key, error))
    }

    /// Reads `range` of exactly the blob that `meta` was told of.
    ///
    /// # Errors
    /// [`BlobError::Changed`] when it is another one now.
    pub async fn read(&self, meta: &Meta, range: Range<u64>) -> Result<BlobStream, BlobError> {
        let range = range.start..range.end.min(meta.bytes);
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let UpdateVersion { e_tag, version } = meta.version.0.clone();
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: e_tag,
            // Only buckets that keep old versions are asked for one by its name.
            version: version.filter(|_| meta.version.0.e_tag.is_none()),
            ..GetOptions::default()
        };
        let key = meta.key.clone();
        let got = self.0.store.get_opts(&parse(&key)?, options).await;
        let got = got.map_err(|error| BlobError::of(&key, error))?;
        Ok(match got.payload {
            GetResultPayload::File(file, _) => folder::pieces(file, got.range),
            GetResultPayload::Stream(pieces) => {
                pieces.map_err(move |error| BlobError::of(&key, error)).boxed()
            }
        })
    }

    /// Deletes a blob, if there is one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, key: &str) -> Result<(), BlobError> {
        match self.0.store.delete(&parse(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::of(key, error)),
        }
    }

    /// Deletes every blob under `prefix` (whole parts of keys, as `jobs/0123`).
    ///
    /// # Errors
    /// When the store fails; some may be deleted then.
    pub async fn delete_all(&self, prefix: &str) -> Result<(), BlobError> {
        let mut keys = self.list(prefix)?;
        while let Some(meta) = keys.try_next().await? {
            self.delete(&meta.key).await?;
        }
        if let Some(folder) = &self.0.folder {
            // What a process that was killed had begun to write there is no blob, and goes too.
            let rest = folder.join(parse(prefix)?.as_ref());
            folder::blocking(move || match std::fs::remove_dir_all(rest) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            })
            .await?;
        }
        Ok(())
    }

    /// Every blob under `prefix`, in no order.
    ///
    /// # Errors
    /// When `prefix` cannot be one.
    pub fn list(&self, prefix: &str) -> Result<BoxStream<'static, Result<Meta, BlobError>>, BlobError> {
        let listed = self.0.store.list(Some(&parse(prefix)?));
        let prefix = prefix.to_owned();
        Ok(listed.map(move |meta| meta.map(to_meta).map_err(|error| BlobError::of(&prefix, error))).boxed())
    }

    /// The names directly under `prefix` that have blobs under them: of `jobs`, every job.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>, BlobError> {
        let listed = self.0.store.list_with_delimiter(Some(&parse(prefix)?)).await;
        let listed = listed.map_err(|error| BlobError::of(prefix, error));
        match listed {
            Ok(listed) => {
                let names =
                    listed.common_prefixes.iter().filter_map(|found| found.filename().map(str::to_owned));
                Ok(names.collect())
            }
            Err(BlobError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Deletes what was begun and never finished, if nobody touched it for `idle`. To be called from time to time, with more
    /// than any upload pauses. (What S3 and GCS keep of broken uploads goes by a lifecycle rule of the bucket.)
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sweep(&self, idle: Duration) -> Result<u64, BlobError> {
        let mut swept = 0;
        let mut partial = self.list(writer::PARTIAL)?;
        while let Some(meta) = partial.try_next().await? {
            if meta.modified.elapsed().is_ok_and(|age| age > idle) {
                self.delete(&meta.key).await?;
                swept += 1;
            }
        }
        match &self.0.folder {
            Some(folder) => Ok(swept + folder::sweep(folder, idle).await?),
            None => Ok(swept),
        }
    }

    async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<Version, BlobError> {
        if bytes.len() as u64 > MAX_SMALL_BYTES {
            return Err(BlobError::TooLarge { max_bytes: MAX_SMALL_BYTES });
        }
        let put = self.0.store.put_opts(&parse(key)?, bytes.into(), mode.into()).await;
        let put = put.map_err(|error| BlobError::of(key, error))?;
        Ok(Version(UpdateVersion { e_tag: put.e_tag, version: put.version }))
    }

    fn store(&self) -> &dyn ObjectStore {
        &*self.0.store
    }

    fn folder(&self) -> Option<&Path> {
        self.0.folder.as_deref()
    }
}

/// Reads a key. `..`, empty parts and whatever object_store would have to escape are refused.
fn parse(key: &str) -> Result<Key, BlobError> {
    let invalid = || BlobError::InvalidKey { key: key.to_owned() };
    let parsed = Key::parse(key).map_err(|_| invalid())?;
    let as_is = parsed.as_ref() == key && !key.is_empty() && !key.contains('#');
    if as_is { Ok(parsed) } else { Err(invalid()) }
}

fn to_meta(meta: ObjectMeta) -> Meta {
    let version = version_of(&meta);
    Meta { bytes: meta.size, modified: meta.last_modified.into(), key: meta.location.into(), version }
}

fn version_of(meta: &ObjectMeta) -> Version {
    Version(UpdateVersion { e_tag: meta.e_tag.clone(), version: meta.version.clone() })
}
