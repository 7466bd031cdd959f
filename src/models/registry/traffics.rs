//! Traffics in the registry's store: `traffic/<slot>.json`, changed by compare-and-swap only.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{READS_AT_ONCE, Registry, RegistryError};
use crate::blobs::{BlobError, MAX_SMALL_BYTES, Version};
use crate::models::traffic::{Slot, Traffic};

const PREFIX: &str = "traffic";

impl Registry {
    /// Every slot's traffic, by slot, with what [`Registry::set_traffic`] expects.
    ///
    /// # Errors
    /// When the store fails, or one cannot be read.
    pub async fn traffics(&self) -> Result<Vec<(Traffic, Version)>, RegistryError> {
        let metas: Vec<_> = self.blobs.list(PREFIX)?.try_collect().await?;
        let mut traffics: Vec<(Traffic, Version)> = stream::iter(metas)
            .map(async |meta| self.read_traffic(&meta.key).await)
            .buffer_unordered(READS_AT_ONCE)
            .try_filter_map(async |traffic| Ok(traffic))
            .try_collect()
            .await?;
        traffics.sort_by_cached_key(|(traffic, _)| traffic.slot.to_string());
        Ok(traffics)
    }

    /// One slot's traffic, if it has one.
    ///
    /// # Errors
    /// As [`Registry::traffics`].
    pub async fn traffic(&self, slot: &Slot) -> Result<Option<(Traffic, Version)>, RegistryError> {
        self.read_traffic(&key(slot)).await
    }

    /// Writes a slot's traffic in the stead of the one that was read as `expected`; `None` expects that there is none.
    ///
    /// # Errors
    /// [`RegistryError::TrafficChanged`] when another has written it since, [`RegistryError::UnknownVersion`] when it
    /// names an upload that is not there.
    pub async fn set_traffic(
        &self,
        traffic: &Traffic,
        expected: Option<&Version>,
    ) -> Result<Version, RegistryError> {
        let key = key(&traffic.slot);
        let json = serde_json::to_vec_pretty(traffic).expect("a traffic has string keys and finite numbers");
        if json.len() as u64 > MAX_SMALL_BYTES {
            return Err(BlobError::TooLarge { max_bytes: MAX_SMALL_BYTES }.into());
        }
        let written = match expected {
            Some(version) => self.blobs.update(&key, json.into(), version).await,
            None => self.blobs.create(&key, json.into()).await,
        };
        written.map_err(|error| changed(&traffic.slot, error))
    }

    /// Takes a slot's traffic away, so that it uses the model that it has without one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove_traffic(&self, slot: &Slot) -> Result<(), RegistryError> {
        Ok(self.blobs.delete(&key(slot)).await?)
    }

    /// The slot whose traffic names a version now, if there is one.
    pub(super) async fn user_of(&self, name: &str, version: u32) -> Result<Option<Slot>, RegistryError> {
        let named =
            |traffic: &Traffic| traffic.models().any(|model| model.name == name && model.version == version);
        let found = self.traffics().await?.into_iter().find(|(traffic, _)| named(traffic));
        Ok(found.map(|(traffic, _)| traffic.slot))
    }

    async fn read_traffic(&self, key: &str) -> Result<Option<(Traffic, Version)>, RegistryError> {
        let (json, version) = match self.blobs.get_small(key).await {
            Ok(read) => read,
            // Or another has just removed it.
            Err(BlobError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let unreadable = |source| RegistryError::Unreadable { key: key.to_owned(), source };
        let traffic: Traffic = serde_json::from_slice(&json).map_err(|error| unreadable(error.into()))?;
        traffic.validate().map_err(|error| unreadable(error.into()))?;
        Ok(Some((traffic, version)))
    }
}

fn changed(slot: &Slot, error: BlobError) -> RegistryError {
    match error {
        BlobError::Changed { .. } | BlobError::AlreadyExists { .. } | BlobError::NotFound { .. } => {
            RegistryError::TrafficChanged { slot: slot.to_string() }
        }
        error => error.into(),
    }
}

fn key(slot: &Slot) -> String {
    format!("{PREFIX}/{}.json", slot.file_stem())
}
