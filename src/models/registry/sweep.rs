//! What processes that ended in the middle left: versions without a manifest, uploads that nobody tries.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;

use super::{MANIFEST_FILE, MODELS_PREFIX, Registry, RegistryError, folder, parts};

/// Where uploads lie until they are tried: `intake/<random>/model.onnx`, `intake/<random>/picture`.
pub const INTAKE_PREFIX: &str = "intake";

impl Registry {
    /// Deletes what was begun and not finished, if nobody touched it for `idle`. To be called from time to time, with more
    /// than any trial takes. Returns how many were deleted.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sweep(&self, idle: Duration) -> Result<usize, RegistryError> {
        let before = SystemTime::now().checked_sub(idle).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(self.sweep_versions(before).await? + self.sweep_intake(before).await?)
    }

    async fn sweep_versions(&self, before: SystemTime) -> Result<usize, RegistryError> {
        // When the newest file of each was written, and whether there is a manifest.
        let mut found = BTreeMap::<(String, u32), (SystemTime, bool)>::new();
        let mut listed = self.blobs.list(MODELS_PREFIX)?;
        while let Some(meta) = listed.try_next().await? {
            let Some((name, version, file)) = parts(&meta.key) else { continue };
            let (newest, is_whole) =
                found.entry((name.to_owned(), version)).or_insert((SystemTime::UNIX_EPOCH, false));
            *newest = (*newest).max(meta.modified);
            *is_whole |= file == MANIFEST_FILE;
        }
        found.retain(|_, (newest, is_whole)| !*is_whole && *newest < before);
        for (name, version) in found.keys() {
            // In this order, as when one is removed: a writer that comes for the same content takes another number.
            self.change_index(name, |index| index.forget(*version)).await?;
            if self.read_manifest(name, *version).await?.is_none() {
                self.blobs.delete_all(&folder(name, *version)).await?;
            }
        }
        Ok(found.len())
    }

    async fn sweep_intake(&self, before: SystemTime) -> Result<usize, RegistryError> {
        let mut swept = 0;
        let mut listed = self.blobs.list(INTAKE_PREFIX)?;
        while let Some(meta) = listed.try_next().await? {
            if meta.modified < before {
                self.blobs.delete(&meta.key).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}
