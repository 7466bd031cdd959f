//! A version of the registry as a local file, for ONNX Runtime.

use super::{MODEL_FILE, Registry, RegistryError, folder};
use crate::models::store::{Fault, Store, StoreError, Stored};

impl Registry {
    /// Makes a verified copy of a version, or finds it as it was copied before, in the [`Store::fetched`] part of `into`.
    ///
    /// # Errors
    /// [`RegistryError::UnknownVersion`] when it is not there, [`RegistryError::Corrupt`] when its file is another than its
    /// manifest says.
    pub async fn fetch(&self, name: &str, version: u32, into: &Store) -> Result<Stored, RegistryError> {
        let manifest = self.read(name, version).await?;
        let copies = into.fetched();
        let found = {
            let (copies, manifest) = (copies.clone(), manifest.clone());
            blocking(move || {
                // Another registry may have had another version by this number.
                Ok(copies.check(&manifest.name, version).ok().filter(|stored| stored.manifest == manifest))
            })
        };
        if let Some(stored) = found.await? {
            return Ok(stored);
        }
        let file = self.blobs.fetch(&format!("{}/{MODEL_FILE}", folder(name, version))).await?;
        let copied = blocking(move || {
            let copied = copies.copy(&manifest, file.path());
            drop(file);
            copied
        });
        copied.await.map_err(|error| match error {
            RegistryError::Local(StoreError::Faulty {
                name,
                version,
                fault: Fault::Corrupt { actual, expected, .. },
            }) => RegistryError::Corrupt { name, version, actual, expected },
            other => other,
        })
    }
}

/// Runs what reads and writes files on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, RegistryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
