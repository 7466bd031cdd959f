//! Where a store is: a folder, or a bucket by its URL.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

const CONNECT: Duration = Duration::from_secs(5);
/// Without a byte for so long, an answer is given up. A part of an upload has to be through in that time too.
const SILENCE: Duration = Duration::from_secs(60);
/// Unreachable is said after about so long.
const RETRY_FOR: Duration = Duration::from_secs(30);
const RETRIES: usize = 3;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{place} is neither a folder nor an s3://, az:// or gs:// address of a bucket")]
    UnknownScheme { place: String },
    #[error("the bucket {place} cannot be used")]
    Bucket { place: String, source: object_store::Error },
    #[error("the folder {} cannot be used", folder.display())]
    Folder { folder: PathBuf, source: std::io::Error },
}

/// A store that was opened.
pub(super) struct Opened {
    pub store: Arc<dyn ObjectStore>,
    /// The folder, where it is one.
    pub folder: Option<PathBuf>,
    /// For messages.
    pub name: String,
}

/// Opens what `place` says. `settings` are named as object_store's environment variables (`AWS_…`, `AZURE_…`, `GOOGLE_…`).
pub(super) fn open(place: &str, settings: &[(String, String)]) -> Result<Opened, OpenError> {
    let Some((scheme, rest)) = place.split_once("://") else { return folder(Path::new(place)) };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let unusable = |source| OpenError::Bucket { place: place.to_owned(), source };
    let store: Arc<dyn ObjectStore> = match scheme {
        "file" => return folder(Path::new(rest)),
        _ if bucket.is_empty() => return Err(OpenError::UnknownScheme { place: place.to_owned() }),
        "s3" => {
            let builder = AmazonS3Builder::new().with_client_options(client(settings)).with_retry(retries());
            let builder = configured(builder, "aws_", settings, |b, key, value| b.with_config(key, value));
            Arc::new(builder.with_bucket_name(bucket).build().map_err(unusable)?)
        }
        "az" => {
            let builder =
                MicrosoftAzureBuilder::new().with_client_options(client(settings)).with_retry(retries());
            let builder = configured(builder, "azure_", settings, |b, key, value| b.with_config(key, value));
            Arc::new(builder.with_container_name(bucket).build().map_err(unusable)?)
        }
        "gs" => {
            let builder =
                GoogleCloudStorageBuilder::new().with_client_options(client(settings)).with_retry(retries());
            let builder = configured(builder, "google_", settings, |b, key, value| b.with_config(key, value));
            Arc::new(builder.with_bucket_name(bucket).build().map_err(unusable)?)
        }
        _ => return Err(OpenError::UnknownScheme { place: place.to_owned() }),
    };
    let prefix = Key::parse(prefix.trim_end_matches('/')).map_err(|error| unusable(error.into()))?;
    let store = if prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix)) };
    Ok(Opened { store, folder: None, name: place.to_owned() })
}

fn folder(folder: &Path) -> Result<Opened, OpenError> {
    let unusable = |source| OpenError::Folder { folder: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(unusable)?;
    let folder = folder.canonicalize().map_err(unusable)?;
    // A folder that cannot be written to is better known now than at the first upload.
    tempfile::tempfile_in(&folder).map_err(unusable)?;
    let store = LocalFileSystem::new_with_prefix(&folder)
        .map_err(|source| OpenError::Bucket { place: folder.display().to_string(), source })?
        .with_automatic_cleanup(true)
        // What was accepted outlives a power cut.
        .with_fsync(true);
    Ok(Opened { store: Arc::new(store), name: folder.display().to_string(), folder: Some(folder) })
}

/// Applies the settings that begin with `prefix` and that the builder knows.
fn configured<B, K: FromStr>(
    builder: B,
    prefix: &str,
    settings: &[(String, String)],
    set: impl Fn(B, K, &str) -> B,
) -> B {
    settings.iter().fold(builder, |builder, (name, value)| {
        let name = name.to_ascii_lowercase();
        match name.parse() {
            Ok(key) if name.starts_with(prefix) => set(builder, key, value),
            _ => builder,
        }
    })
}

fn client(settings: &[(String, String)]) -> ClientOptions {
    // Whoever gives an endpoint with http:// (MinIO beside the service) has decided on it.
    let plain = settings
        .iter()
        .any(|(name, value)| name.to_ascii_uppercase().contains("ENDPOINT") && value.starts_with("http://"));
    ClientOptions::new()
        .with_allow_http(plain)
        .with_connect_timeout(CONNECT)
        .with_read_timeout(SILENCE)
        // A whole download takes as long as its reader.
        .with_timeout_disabled()
}

fn retries() -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_FOR }
}
