//! What can go wrong with a blob.

use std::error::Error;
use std::io;

type Source = Box<dyn Error + Send + Sync>;

/// Why a blob was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("there is no {key}")]
    NotFound { key: String },
    #[error("there is a {key} already")]
    AlreadyExists { key: String },
    /// Somebody else wrote it since it was read.
    #[error("{key} has changed")]
    Changed { key: String },
    #[error("the store is full")]
    Full,
    #[error("more than {max_bytes} bytes")]
    TooLarge { max_bytes: u64 },
    #[error("{key:?} cannot be the name of a blob")]
    InvalidKey { key: String },
    #[error("the store refuses the credentials it was given")]
    Denied { source: Source },
    #[error("the store cannot be reached")]
    Unreachable { source: Source },
    #[error("the store's folder cannot be used")]
    Io { source: Source },
}

impl BlobError {
    /// Tells what happened to `key`.
    pub(super) fn of(key: &str, error: object_store::Error) -> Self {
        use object_store::Error as E;
        let key = key.to_owned();
        match error {
            E::NotFound { .. } => Self::NotFound { key },
            E::AlreadyExists { .. } => Self::AlreadyExists { key },
            E::Precondition { .. } | E::NotModified { .. } => Self::Changed { key },
            E::InvalidPath { .. } => Self::InvalidKey { key },
            E::PermissionDenied { source, .. } | E::Unauthenticated { source, .. } => Self::Denied { source },
            error if says_full(&error) => Self::Full,
            E::Generic { store: "LocalFileSystem", source } => Self::Io { source },
            E::JoinError { source } => Self::Io { source: source.into() },
            E::Generic { source, .. } => Self::Unreachable { source },
            other => Self::Unreachable { source: other.into() },
        }
    }

    /// Tells what happened to a file of ours.
    pub fn of_file(error: io::Error) -> Self {
        match is_full(&error) {
            true => Self::Full,
            false => Self::Io { source: error.into() },
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// A full disk says so, and so do some servers (MinIO). What a server answered is told by object_store in words only.
fn says_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(is_full) {
            return true;
        }
        next = error.source();
    }
    error.to_string().contains("status code: 507")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_broken_one_however_deep_it_is_wrapped() {
        let generic = |source: Source| object_store::Error::Generic { store: "LocalFileSystem", source };
        let wrapped = |code| generic(Box::new(generic(Box::new(io::Error::from_raw_os_error(code)))));
        assert!(matches!(BlobError::of("a", wrapped(libc::ENOSPC)), BlobError::Full));
        assert!(matches!(BlobError::of("a", wrapped(libc::EDQUOT)), BlobError::Full));
        assert!(matches!(BlobError::of("a", wrapped(libc::EIO)), BlobError::Io { .. }));
    }
}
