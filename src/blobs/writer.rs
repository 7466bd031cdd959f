//! A blob while it is written: in parts, with bounded memory, and visible only when it is whole.

use bytes::Bytes;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayloadMut};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::{BlobError, Blobs};

/// What S3 and its kin ask of every part but the last.
const CLOUD_PART_BYTES: usize = 5 << 20;
const FOLDER_PART_BYTES: usize = 1 << 20;
/// Parts that are under way while the next one is gathered.
const PARTS_AT_ONCE: usize = 2;
/// S3's limits: so many parts make a blob,
const CLOUD_MAX_PARTS: u64 = 10_000;
/// and so much is copied in one go, as what is renamed has to be.
pub(super) const CLOUD_MAX_COPY_BYTES: u64 = 5 << 30;

/// Bytes of the parts of a writer to a folder or a bucket, the one that is gathered among them.
pub(super) fn held_bytes(is_folder: bool) -> usize {
    (PARTS_AT_ONCE + 1) * part_bytes(is_folder)
}

fn part_bytes(is_folder: bool) -> usize {
    if is_folder { FOLDER_PART_BYTES } else { CLOUD_PART_BYTES }
}

/// Where unfinished blobs of unknown name are.
pub(super) const PARTIAL: &str = "partial";

/// A blob that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub key: String,
    pub bytes: u64,
    /// Lower-case hexadecimal digits.
    pub sha256: String,
}

/// Writes one blob. Dropped before [`Writer::finish`], it leaves nothing.
pub struct Writer {
    blobs: Blobs,
    target: Target,
    staged: Key,
    max_bytes: u64,
    bytes: u64,
    hash: Sha256,
    gathered: PutPayloadMut,
    /// Until it is complete or given up.
    upload: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<object_store::Result<()>>,
}

enum Target {
    Key(Key),
    /// `<folder>/<SHA-256>`.
    Content(Key),
}

impl Target {
    /// The most that a bucket takes of it.
    fn cloud_max_bytes(&self) -> u64 {
        match self {
            Self::Key(_) => CLOUD_MAX_PARTS * CLOUD_PART_BYTES as u64,
            // Renamed when its content is known.
            Self::Content(_) => CLOUD_MAX_COPY_BYTES,
        }
    }
}

impl Writer {
    pub(super) async fn to_key(blobs: &Blobs, key: Key, max_bytes: u64) -> Result<Self, BlobError> {
        Self::start(blobs, Target::Key(key.clone()), key, max_bytes).await
    }

    pub(super) async fn by_content(blobs: &Blobs, folder: Key, max_bytes: u64) -> Result<Self, BlobError> {
        let staged = Key::from_iter([PARTIAL, &format!("{:032x}", rand::random::<u128>())]);
        Self::start(blobs, Target::Content(folder), staged, max_bytes).await
    }

    async fn start(blobs: &Blobs, target: Target, staged: Key, max_bytes: u64) -> Result<Self, BlobError> {
        let upload = blobs.store().put_multipart(&staged).await;
        let upload = upload.map_err(|error| BlobError::of(staged.as_ref(), error))?;
        let max_bytes = match blobs.folder() {
            Some(_) => max_bytes,
            None => max_bytes.min(target.cloud_max_bytes()),
        };
        Ok(Self {
            blobs: blobs.clone(),
            target,
            staged,
            max_bytes,
            bytes: 0,
            hash: Sha256::new(),
            gathered: PutPayloadMut::new(),
            upload: Some(upload),
            parts: JoinSet::new(),
        })
    }

    /// How much was written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds `bytes`; waits while the store is slower than whoever writes.
    ///
    /// # Errors
    /// When the blob becomes too large, or the store cannot take it. The writer is of no more use then.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), BlobError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(BlobError::TooLarge { max_bytes: self.max_bytes });
        }
        self.hash.update(&bytes);
        while !bytes.is_empty() {
            let missing = self.part_bytes() - self.gathered.content_length();
            // Copied together: network reads are small, and a list of ten thousand of them is not.
            self.gathered.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
            if self.gathered.content_length() == self.part_bytes() {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    /// Makes the blob visible, whole.
    ///
    /// # Errors
    /// When the store cannot take it; nothing is left then.
    pub async fn finish(mut self) -> Result<Stored, BlobError> {
        if self.gathered.content_length() > 0 {
            self.send_part().await?;
        }
        self.wait_for_parts(0).await?;
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = upload.complete().await
        {
            let _ = upload.abort().await;
            return Err(self.error(error));
        }
        let sha256: String = self.hash.finalize_reset().iter().map(|byte| format!("{byte:02x}")).collect();
        let key = match &self.target {
            Target::Key(key) => key.clone(),
            Target::Content(folder) => {
                let key = folder.clone().join(sha256.as_str());
                self.publish(key).await?
            }
        };
        Ok(Stored { key: key.into(), bytes: self.bytes, sha256 })
    }

    /// Gives what was written under a working name the name of its content.
    async fn publish(&mut self, key: Key) -> Result<Key, BlobError> {
        let store = self.blobs.store();
        let renamed = match store.head(&key).await {
            // The same content, by its name; a folder's rename would only replace it by itself.
            Ok(_) => store.delete(&self.staged).await,
            Err(_) => store.rename(&self.staged, &key).await,
        };
        if let Err(error) = renamed {
            let _ = store.delete(&self.staged).await;
            return Err(self.error(error));
        }
        Ok(key)
    }

    async fn send_part(&mut self) -> Result<(), BlobError> {
        self.wait_for_parts(PARTS_AT_ONCE - 1).await?;
        let part = std::mem::take(&mut self.gathered).freeze();
        if let Some(upload) = &mut self.upload {
            self.parts.spawn(upload.put_part(part));
        }
        Ok(())
    }

    /// Waits until no more than `left` parts are under way.
    async fn wait_for_parts(&mut self, left: usize) -> Result<(), BlobError> {
        while self.parts.len() > left {
            match self.parts.join_next().await {
                Some(Ok(Ok(()))) | None => {}
                Some(Ok(Err(error))) => return Err(self.error(error)),
                Some(Err(error)) => return Err(BlobError::Io { source: error.into() }),
            }
        }
        Ok(())
    }

    fn part_bytes(&self) -> usize {
        part_bytes(self.blobs.folder().is_some())
    }

    fn error(&self, error: object_store::Error) -> BlobError {
        BlobError::of(self.staged.as_ref(), error)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(mut upload) = self.upload.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let mut parts = std::mem::take(&mut self.parts);
            runtime.spawn(async move {
                parts.shutdown().await;
                let _ = upload.abort().await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_takes_more_under_a_name_than_it_can_rename() {
        let key = || Key::from("jobs/1/annotated.mp4");
        assert_eq!(Target::Key(key()).cloud_max_bytes(), 50_000 << 20);
        assert_eq!(Target::Content(key()).cloud_max_bytes(), 5 << 30);
    }
}
