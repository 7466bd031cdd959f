//! What a store in a folder needs beyond object_store: reading in large pieces, a lock, and sweeping up after a crash.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::BlobError;

/// Each piece costs a trip to a thread that may block: a few hundred kilobytes make that cheap.
const PIECE_BYTES: u64 = 256 << 10;

/// Files that are worked on, before they become blobs.
pub(super) const SCRATCH: &str = "scratch";

const LOCK: &str = ".lock";

/// Runs what may block on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| BlobError::Io { source: error.into() })?.map_err(BlobError::of_file)
}

/// Reads `range` of an open file.
pub(super) fn pieces(mut file: File, range: Range<u64>) -> BoxStream<'static, Result<Bytes, BlobError>> {
    let start = range.start;
    let seek = blocking(move || file.seek(SeekFrom::Start(start)).map(|_| file));
    let pieces = move |file: File| {
        stream::try_unfold((file, range.end - range.start), |(mut file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let read = blocking(move || {
                let mut piece = Vec::new();
                (&mut file).take(left.min(PIECE_BYTES)).read_to_end(&mut piece)?;
                match piece.len() as u64 {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    read => Ok((Bytes::from(piece), (file, left - read))),
                }
            });
            read.await.map(Some)
        })
    };
    stream::once(seek)
        .flat_map(move |file| match file {
            Ok(file) => pieces(file).boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        })
        .boxed()
}

/// Keeps every other process of this machine from changing records on a condition, until it is dropped.
pub(super) async fn lock(folder: &Path) -> Result<File, BlobError> {
    let path = folder.join(LOCK);
    blocking(move || {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.lock()?;
        Ok(file)
    })
    .await
}

/// Deletes what processes that ended in the middle left in `folder`, if nobody touched it for `idle`.
pub(super) async fn sweep(folder: &Path, idle: Duration) -> Result<u64, BlobError> {
    let folder = folder.to_owned();
    blocking(move || {
        let before = SystemTime::now().checked_sub(idle).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut swept = sweep_staged(&folder, before)?;
        for entry in fs::read_dir(folder.join(SCRATCH)).into_iter().flatten() {
            let path = entry?.path();
            if newest(&path).is_some_and(|newest| newest < before) {
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                swept += u64::from(removed.is_ok());
            }
        }
        Ok(swept)
    })
    .await
}

/// object_store's files in the making are `<name>#<number>` beside their target.
fn sweep_staged(folder: &Path, before: SystemTime) -> io::Result<u64> {
    let mut swept = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // What is gone in between is gone: others delete too.
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        if about.is_dir() {
            swept += sweep_staged(&path, before).unwrap_or(0);
        } else if is_staged(&path) && about.modified().is_ok_and(|modified| modified < before) {
            swept += u64::from(fs::remove_file(&path).is_ok());
        }
    }
    Ok(swept)
}

fn is_staged(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// When a file, or anything in a folder, was last written to.
fn newest(path: &Path) -> Option<SystemTime> {
    let own = fs::symlink_metadata(path).ok()?;
    let inside = if own.is_dir() { fs::read_dir(path).ok() } else { None };
    let inside = inside.into_iter().flatten().flatten().filter_map(|entry| newest(&entry.path())).max();
    inside.max(own.modified().ok())
}
