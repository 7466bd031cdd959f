//! A version of the registry as a local file, for ONNX Runtime.

use super::{MODEL_FILE, Registry, RegistryError, blocking, folder};
use crate::models::store::{Fault, Store, StoreError, Stored};

impl Registry {
    /// Makes a verified copy of a version, or finds it as it was copied before, in the [`Store::fetched`] part of `into`.
    ///
    /// # Errors
    /// [`RegistryError::UnknownVersion`] when it is not there, [`RegistryError::Corrupt`] when its file is another than its
    /// manifest says.
    pub async fn fetch(&self, name: &str, version: u32, into: &Store) -> Result<Stored, RegistryError> {
        let manifest = self.read(name, version).await?;
        let (into, wanted) = (into.clone(), manifest.clone());
        let (copies, found) = blocking(move || {
            let copies = into.fetched();
            // Another registry may have had another version by this number.
            let found = copies.check(&wanted.name, wanted.version).ok();
            (copies, found.filter(|stored| stored.manifest == wanted))
        })
        .await?;
        if let Some(stored) = found {
            return Ok(stored);
        }
        let file = self.blobs.fetch(&format!("{}/{MODEL_FILE}", folder(name, version))).await?;
        // The fetched file, which may itself be a copy, goes with the end of the work.
        let copied = blocking(move || copies.copy(&manifest, file.path())).await?;
        copied.map_err(|error| match error {
            StoreError::Faulty { name, version, fault: Fault::Corrupt { actual, expected, .. } } => {
                RegistryError::Corrupt { name, version, actual, expected }
            }
            other => other.into(),
        })
    }
}
