//! Blobs as files, for those who can work on nothing else: FFmpeg, ONNX Runtime.

use std::io::Write;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use object_store::ObjectStoreExt;
use tempfile::{NamedTempFile, TempDir};

use super::{BlobError, Blobs, Meta, folder, parse};

/// A blob as a file, which is not to be changed: the store's own, or a copy that goes when this is dropped.
pub struct Fetched {
    path: PathBuf,
    _copy: Option<(TempDir, NamedTempFile)>,
}

impl Fetched {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Blobs {
    /// Makes a blob readable as a file: in place where the store is a folder, or as a copy.
    ///
    /// # Errors
    /// When there is none, or no room for the copy.
    pub async fn fetch(&self, key: &str) -> Result<Fetched, BlobError> {
        let meta = self.head(key).await?;
        if let Some(folder) = &self.0.folder {
            return Ok(Fetched { path: folder.join(&meta.key), _copy: None });
        }
        let scratch = self.scratch().await?;
        let within = scratch.path().to_owned();
        let mut copy = folder::blocking(move || NamedTempFile::new_in(within)).await?;
        let mut bytes = self.read(&meta, 0..meta.bytes).await?;
        while let Some(piece) = bytes.try_next().await? {
            copy = folder::blocking(move || copy.write_all(&piece).map(|()| copy)).await?;
        }
        Ok(Fetched { path: copy.path().to_owned(), _copy: Some((scratch, copy)) })
    }

    /// A folder to work in, which goes when it is dropped. [`Blobs::upload_from`] is quick from there.
    ///
    /// # Errors
    /// When there is no room for it.
    pub async fn scratch(&self) -> Result<TempDir, BlobError> {
        let within =
            self.0.folder.as_ref().map_or_else(std::env::temp_dir, |folder| folder.join(folder::SCRATCH));
        folder::blocking(move || {
            std::fs::create_dir_all(&within)?;
            tempfile::Builder::new().prefix("vigie-").tempdir_in(within)
        })
        .await
    }

    /// Makes a blob of a file, which may be moved away by that.
    ///
    /// # Errors
    /// When the file cannot be read, or the store does not take it.
    pub async fn upload_from(&self, file: &Path, key: &str) -> Result<Meta, BlobError> {
        let inside = self.0.folder.as_ref().and_then(|folder| file.strip_prefix(folder).ok());
        match inside.and_then(Path::to_str) {
            Some(inside) => {
                let path = file.to_owned();
                folder::blocking(move || std::fs::File::open(path)?.sync_all()).await?;
                let renamed = self.0.store.rename(&parse(inside)?, &parse(key)?).await;
                renamed.map_err(|error| BlobError::of(key, error))?;
            }
            None => {
                let path = file.to_owned();
                let (file, bytes) = folder::blocking(move || {
                    let file = std::fs::File::open(path)?;
                    let bytes = file.metadata()?.len();
                    Ok((file, bytes))
                })
                .await?;
                let mut writer = self.writer(key, bytes).await?;
                let mut pieces = folder::pieces(file, 0..bytes);
                while let Some(piece) = pieces.try_next().await? {
                    writer.write(piece).await?;
                }
                writer.finish().await?;
            }
        }
        self.head(key).await
    }
}
