//! A name's numbers: which were given, and to what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MAX_TRIES, MAX_VERSIONS, MODELS_PREFIX, Registry, RegistryError, pause};
use crate::blobs::{BlobError, Version};

/// The record `models/<name>/index.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    /// The highest number that was ever given.
    highest: u32,
    /// Digest of file and manifest → number.
    contents: BTreeMap<String, u32>,
}

impl Index {
    pub(super) fn version_of(&self, content: &str) -> Option<u32> {
        self.contents.get(content).copied()
    }

    /// The number of `content`, which is the next one if it has none; `None` when there are too many.
    pub(super) fn claim(&mut self, content: &str) -> Option<u32> {
        if let Some(version) = self.version_of(content) {
            return Some(version);
        }
        if self.contents.len() >= MAX_VERSIONS {
            return None;
        }
        self.highest = self.highest.checked_add(1)?;
        self.contents.insert(content.to_owned(), self.highest);
        Some(self.highest)
    }

    pub(super) fn forget(&mut self, version: u32) {
        self.contents.retain(|_, number| *number != version);
    }
}

impl Registry {
    /// A name's index as it is now; an empty one for a new name.
    pub(super) async fn index(&self, name: &str) -> Result<(Index, Option<Version>), RegistryError> {
        let key = key(name);
        match self.blobs.get_small(&key).await {
            Ok((json, version)) => {
                let index = serde_json::from_slice(&json);
                let index = index.map_err(|error| RegistryError::Unreadable { key, source: error.into() })?;
                Ok((index, Some(version)))
            }
            Err(BlobError::NotFound { .. }) => Ok((Index::default(), None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes a name's index, whoever else does too.
    pub(super) async fn change_index<T>(
        &self,
        name: &str,
        change: impl Fn(&mut Index) -> T,
    ) -> Result<T, RegistryError> {
        let key = key(name);
        for _ in 0..MAX_TRIES {
            let (before, version) = self.index(name).await?;
            let mut index = before.clone();
            let outcome = change(&mut index);
            if index == before {
                return Ok(outcome);
            }
            let json = serde_json::to_vec(&index).expect("an index has string keys and numbers");
            let written = match version {
                Some(version) => self.blobs.update(&key, json.into(), &version).await,
                None => self.blobs.create(&key, json.into()).await,
            };
            match written {
                Ok(_) => return Ok(outcome),
                Err(BlobError::Changed { .. } | BlobError::AlreadyExists { .. }) => pause().await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended { key })
    }
}

fn key(name: &str) -> String {
    format!("{MODELS_PREFIX}/{name}/index.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_up_and_none_is_given_again() {
        let mut index = Index::default();
        assert_eq!(["a", "b", "a"].map(|content| index.claim(content)), [Some(1), Some(2), Some(1)]);
        index.forget(2);
        index.forget(1);
        assert_eq!(index.claim("b"), Some(3));
        index.highest = u32::MAX;
        assert_eq!(index.claim("c"), None);
    }

    #[test]
    fn there_are_only_so_many() {
        let mut index = Index::default();
        for content in 0..MAX_VERSIONS {
            assert!(index.claim(&content.to_string()).is_some());
        }
        assert_eq!(index.claim("one more"), None);
        index.forget(7);
        assert!(index.claim("one more").is_some());
        assert!(serde_json::to_vec(&index).unwrap().len() < crate::blobs::MAX_SMALL_BYTES as usize);
    }
}
