//! Blobs in a folder and in an S3 bucket (moto's server), by the same tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot reach its store has failed")]

#[path = "common/cluster.rs"]
mod process;
#[path = "common/s3.rs"]
mod s3;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use vigie::blobs::{BlobError, Blobs, MAX_SMALL_BYTES, Version};

use process::eventually;
use s3::{S3, settings};

/// More than two of S3's parts, and no multiple of anything.
const LARGE_BYTES: usize = 11_000_003;
const PLENTY: u64 = 1 << 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(blobs.max_content_bytes(), u64::MAX);
    keeps_blobs(&blobs).await;
    // Another handle, as another process has it: only the folder's own lock is between the two.
    changes_on_a_condition(&blobs, &Blobs::open(folder.path().to_str().unwrap()).unwrap()).await;
    unfinished(&blobs).await;
    gone(folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_blobs() {
    let server = S3::start();
    let blobs = server.bucket("store");
    assert_eq!(blobs.max_content_bytes(), 5 << 30);
    keeps_blobs(&blobs).await;
    changes_on_a_condition(&blobs, &server.bucket("store")).await;
    unfinished(&blobs).await;
    let begun = || server.request("GET", "/store?uploads=").contains("<Upload>");
    eventually("broken uploads are called off", || !begun()).await;
    // Under a prefix, stores do not see each other.
    let inside = server.bucket("store/inside");
    inside.put_small("jobs/1", text("inside")).await.unwrap();
    assert_eq!(keys(&inside, "jobs").await, set(["jobs/1"]));
    assert!(matches!(blobs.head("jobs/1").await, Err(BlobError::NotFound { .. })));
    assert_eq!(keys(&blobs, "inside").await, set(["inside/jobs/1"]));
}

async fn keeps_blobs(blobs: &Blobs) {
    blobs.check().await.unwrap();
    small_ones(blobs).await;
    large_ones(blobs).await;
    lists(blobs).await;
    as_files(blobs).await;
}

async fn small_ones(blobs: &Blobs) {
    assert!(matches!(blobs.get_small("a/b").await, Err(BlobError::NotFound { key }) if key == "a/b"));
    assert!(matches!(blobs.head("a/b").await, Err(BlobError::NotFound { .. })));
    let first = blobs.create("a/b", text("one")).await.unwrap();
    assert_eq!(blobs.get_small("a/b").await.unwrap(), (text("one"), first.clone()));
    assert!(matches!(blobs.create("a/b", text("two")).await, Err(BlobError::AlreadyExists { .. })));
    let second = blobs.put_small("a/b", text("three")).await.unwrap();
    assert_eq!(blobs.get_small("a/b").await.unwrap(), (text("three"), second.clone()));
    assert_eq!(blobs.head("a/b").await.unwrap().version, second);
    assert_ne!(first, second);

    assert!(matches!(blobs.update("a/b", text("four"), &first).await, Err(BlobError::Changed { .. })));
    let third = blobs.update("a/b", text("five"), &second).await.unwrap();
    assert_eq!(blobs.get_small("a/b").await.unwrap(), (text("five"), third.clone()));
    blobs.delete("a/b").await.unwrap();
    blobs.delete("a/b").await.unwrap();
    let gone = blobs.update("a/b", text("six"), &third).await.unwrap_err();
    assert!(matches!(gone, BlobError::NotFound { .. } | BlobError::Changed { .. }), "{gone:?}");

    let too_much = Bytes::from(vec![0; MAX_SMALL_BYTES as usize + 1]);
    assert!(matches!(blobs.put_small("a/c", too_much).await, Err(BlobError::TooLarge { .. })));
    for key in
        ["", "/", "a//b", "../a", "a/../../b", "a/..", "./a", "a/", "/etc/passwd", "a#1", "a\nb", "a\0b"]
    {
        let refused = blobs.put_small(key, text("x")).await;
        assert!(matches!(refused, Err(BlobError::InvalidKey { .. })), "{key:?}: {refused:?}");
    }
}

async fn large_ones(blobs: &Blobs) {
    let content = noise(LARGE_BYTES);
    let mut writer = blobs.writer("large/one", PLENTY).await.unwrap();
    for piece in content.chunks(777_777) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(writer.bytes(), LARGE_BYTES as u64);
    assert!(matches!(blobs.head("large/one").await, Err(BlobError::NotFound { .. })), "not whole yet");
    let stored = writer.finish().await.unwrap();
    assert_eq!((stored.key.as_str(), stored.bytes), ("large/one", LARGE_BYTES as u64));
    assert_eq!(stored.sha256, sha256(&content));

    let meta = blobs.head("large/one").await.unwrap();
    assert_eq!(meta.bytes, LARGE_BYTES as u64);
    let etag = meta.etag().unwrap();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "{etag}");
    for (from, to) in
        [(0, LARGE_BYTES), (0, 1), (5_242_879, 5_242_882), (LARGE_BYTES - 1, LARGE_BYTES), (9, 9)]
    {
        assert!(read(blobs, &meta, from, to).await == content[from..to], "{from}..{to}");
    }
    assert!(read(blobs, &meta, 10_000_000, LARGE_BYTES + 99).await == content[10_000_000..]);
    assert!(read(blobs, &meta, LARGE_BYTES, LARGE_BYTES + 1).await.is_empty());
    assert!(matches!(blobs.get_small("large/one").await, Err(BlobError::TooLarge { .. })));

    blobs.put_small("large/one", text("another")).await.unwrap();
    let changed = match blobs.read(&meta, 0..10).await {
        Ok(stream) => stream.try_collect::<Vec<_>>().await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(changed, Err(BlobError::Changed { .. })), "{changed:?}");

    // By content: the same twice is one blob, and parts joined are the same again.
    for _ in 0..2 {
        let mut writer = blobs.writer_by_content("uploads", PLENTY).await.unwrap();
        writer.write(Bytes::from(content.clone())).await.unwrap();
        let stored = writer.finish().await.unwrap();
        assert_eq!(stored.key, format!("uploads/{}", sha256(&content)));
    }
    blobs.writer_by_content("uploads", PLENTY).await.unwrap().finish().await.unwrap();
    let empty = format!("uploads/{}", sha256(b""));
    assert_eq!(blobs.head(&empty).await.unwrap().bytes, 0);
    let both = BTreeSet::from([empty, format!("uploads/{}", sha256(&content))]);
    assert_eq!(keys(blobs, "uploads").await, both);
    assert_eq!(keys(blobs, "partial").await, BTreeSet::new());
    let mut parts = Vec::new();
    for (n, part) in content.chunks(4_000_000).enumerate() {
        let mut writer = blobs.writer(&format!("tus/1/{n:08}"), PLENTY).await.unwrap();
        writer.write(Bytes::copy_from_slice(part)).await.unwrap();
        parts.push(writer.finish().await.unwrap().key);
    }
    let joined = blobs.join(&parts, "uploads", PLENTY).await.unwrap();
    assert_eq!(joined.sha256, sha256(&content));
    let refused = blobs.join(&parts, "uploads", 5_000_000).await;
    assert!(matches!(refused, Err(BlobError::TooLarge { max_bytes: 5_000_000 })));
    blobs.delete_all("tus").await.unwrap();
    assert_eq!(keys(blobs, "tus").await, BTreeSet::new());
}

async fn lists(blobs: &Blobs) {
    assert_eq!(blobs.folders("jobs").await.unwrap(), Vec::<String>::new());
    for key in ["jobs/1/job.json", "jobs/1/summary.json", "jobs/12/job.json"] {
        blobs.put_small(key, text("{}")).await.unwrap();
    }
    assert_eq!(
        keys(blobs, "jobs").await,
        set(["jobs/1/job.json", "jobs/1/summary.json", "jobs/12/job.json"])
    );
    assert_eq!(keys(blobs, "jobs/1").await, set(["jobs/1/job.json", "jobs/1/summary.json"]));
    assert_eq!(BTreeSet::from_iter(blobs.folders("jobs").await.unwrap()), set(["1", "12"]));
    blobs.delete_all("jobs/1").await.unwrap();
    assert_eq!(keys(blobs, "jobs").await, set(["jobs/12/job.json"]));
    assert_eq!(blobs.folders("jobs").await.unwrap(), ["12"]);
    blobs.delete_all("jobs").await.unwrap();
    blobs.delete_all("jobs").await.unwrap();
}

async fn as_files(blobs: &Blobs) {
    let content = noise(6_000_001);
    let scratch = blobs.scratch().await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    for (n, folder) in [scratch.path(), elsewhere.path()].into_iter().enumerate() {
        let file = folder.join("annotated.mp4");
        std::fs::write(&file, &content).unwrap();
        let key = format!("results/{n}/annotated.mp4");
        assert_eq!(blobs.upload_from(&file, &key).await.unwrap().bytes, content.len() as u64);
        let fetched = blobs.fetch(&key).await.unwrap();
        assert!(std::fs::read(fetched.path()).unwrap() == content);
    }
    assert!(matches!(blobs.fetch("results/9").await, Err(BlobError::NotFound { .. })));
    let missing = blobs.upload_from(&scratch.path().join("missing"), "results/9").await;
    assert!(matches!(missing, Err(BlobError::Io { .. })), "{missing:?}");
    blobs.delete_all("results").await.unwrap();
}

/// Counts up from several tasks at once through two handles: no increment is lost.
async fn changes_on_a_condition(one: &Blobs, other: &Blobs) {
    const TASKS: usize = 6;
    const STEPS: usize = 8;
    one.put_small("counter", text("0")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let blobs = if task % 2 == 0 { one.clone() } else { other.clone() };
        tasks.spawn(async move {
            for _ in 0..STEPS {
                while !increment(&blobs).await {}
            }
        });
    }
    tasks.join_all().await;
    let (count, _) = one.get_small("counter").await.unwrap();
    assert_eq!(count, text(&(TASKS * STEPS).to_string()));
}

async fn increment(blobs: &Blobs) -> bool {
    let (count, version): (Bytes, Version) = blobs.get_small("counter").await.unwrap();
    let count: usize = std::str::from_utf8(&count).unwrap().parse().unwrap();
    match blobs.update("counter", text(&(count + 1).to_string()), &version).await {
        Ok(_) => true,
        Err(BlobError::Changed { .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}

/// Writers that are given up, or become too large, leave nothing.
async fn unfinished(blobs: &Blobs) {
    let mut writer = blobs.writer_by_content("uploads", PLENTY).await.unwrap();
    writer.write(Bytes::from(noise(7_000_000))).await.unwrap();
    drop(writer);
    let mut writer = blobs.writer("unfinished/large", 6_000_000).await.unwrap();
    writer.write(Bytes::from(noise(6_000_000))).await.unwrap();
    let refused = writer.write(text("x")).await;
    assert!(matches!(refused, Err(BlobError::TooLarge { max_bytes: 6_000_000 })));
    drop(writer);
    assert_eq!(keys(blobs, "unfinished").await, BTreeSet::new());
    assert_eq!(keys(blobs, "partial").await, BTreeSet::new());
    blobs.delete_all("uploads").await.unwrap();
    blobs.delete("counter").await.unwrap();
    blobs.delete("large/one").await.unwrap();
}

/// Nothing is left in a folder but its lock.
async fn gone(folder: &Path) {
    let files = || {
        let mut found = Vec::new();
        walk(folder, &mut found);
        found
    };
    eventually("the folder is empty", || files().is_empty()).await;
}

fn walk(folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => walk(&path, files),
            path if path.ends_with(".lock") => {}
            path => files.push(path.display().to_string()),
        }
    }
}

#[test]
fn what_a_killed_process_left_is_swept_up_when_it_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let mut child =
        this_test("write_until_killed", folder.path(), &[]).stdout(Stdio::null()).spawn().unwrap();
    let staged = folder.path().join("partial");
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::read_dir(&staged).map_or(0, Iterator::count) == 0 {
        assert!(Instant::now() < deadline, "nothing is written");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let blobs = Blobs::open(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(keys(&blobs, "partial").await, BTreeSet::new(), "half a blob is none");
        assert_eq!(blobs.sweep(Duration::from_secs(3600)).await.unwrap(), 0, "it might still be written");
        assert_eq!(blobs.sweep(Duration::ZERO).await.unwrap(), 2, "an upload and a scratch folder");
        gone(folder.path()).await;
    });
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left_on_it() {
    let folder = tempfile::tempdir().unwrap();
    // A file system of its own, of a few megabytes.
    let mount = "mount -t tmpfs -o size=4m none \"$VIGIE_TEST_FOLDER\" && exec \"$@\"";
    let mut command =
        this_test("fill_the_disk", folder.path(), &["unshare", "-Urm", "sh", "-c", mount, "sh"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A test of this file as a process of its own, started by `before`, with a folder to work in.
fn this_test(name: &str, folder: &Path, before: &[&str]) -> Command {
    let own = std::env::current_exe().unwrap();
    let words: Vec<&str> = before.iter().copied().chain([own.to_str().unwrap()]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["--exact", name, "--nocapture"]).env("VIGIE_TEST_FOLDER", folder);
    command
}

/// Set only for the processes that [`this_test`] starts.
fn given_folder() -> Option<Blobs> {
    std::env::var("VIGIE_TEST_FOLDER").ok().map(|folder| Blobs::open(&folder).unwrap())
}

#[tokio::test]
async fn write_until_killed() {
    let Some(blobs) = given_folder() else { return };
    let scratch = blobs.scratch().await.unwrap();
    std::fs::write(scratch.path().join("annotated.mp4"), "half").unwrap();
    let mut writer = blobs.writer_by_content("uploads", u64::MAX).await.unwrap();
    loop {
        writer.write(Bytes::from(vec![7; 100_000])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn fill_the_disk() {
    let Some(blobs) = given_folder() else { return };
    let whole = || async {
        let mut writer = blobs.writer_by_content("uploads", PLENTY).await?;
        for _ in 0..100 {
            writer.write(Bytes::from(vec![7; 100_000])).await?;
        }
        writer.finish().await
    };
    assert!(matches!(whole().await, Err(BlobError::Full)));
    let folder = std::env::var("VIGIE_TEST_FOLDER").unwrap();
    gone(Path::new(&folder)).await;
    // Records are refused as well, and the room is back when something goes.
    std::fs::write(Path::new(&folder).join("hog"), vec![7; 5 << 20]).unwrap_err();
    let refused = blobs.put_small("jobs/1/job.json", Bytes::from(vec![7; 100_000])).await;
    assert!(matches!(refused, Err(BlobError::Full)), "{refused:?}");
    std::fs::remove_file(Path::new(&folder).join("hog")).unwrap();
    blobs.put_small("jobs/1/job.json", text("{}")).await.unwrap();
}

#[tokio::test]
async fn a_bucket_that_cannot_be_used_is_told_apart() {
    // Bound, and not listening: whoever connects is refused.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let blobs = Blobs::open_with("s3://store", &settings(&format!("http://{nobody}"))).unwrap();
    let refused = blobs.check().await;
    assert!(matches!(refused, Err(BlobError::Unreachable { .. })), "{refused:?}");

    for (status, expected) in
        [("507 Insufficient Storage", "the store is full"), ("403 Forbidden", "refuses")]
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        let blobs = Blobs::open_with("s3://store", &settings(&endpoint)).unwrap();
        let error = blobs.put_small("a", text("x")).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{status}: {error:?}");
    }
}

#[test]
fn places_that_are_none_are_refused_when_they_are_opened() {
    for place in ["http://example.org/store", "ftp://example.org", "s3://", "memory://"] {
        assert!(Blobs::open_with(place, &[]).is_err(), "{place}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(Blobs::open(file.path().to_str().unwrap()).is_err());
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Bytes that repeat nowhere near a part's length (an xorshift generator).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn read(blobs: &Blobs, meta: &vigie::blobs::Meta, from: usize, to: usize) -> Vec<u8> {
    let stream = blobs.read(meta, from as u64..to as u64).await.unwrap();
    stream.try_collect::<Vec<_>>().await.unwrap().concat()
}

async fn keys(blobs: &Blobs, prefix: &str) -> BTreeSet<String> {
    blobs.list(prefix).unwrap().map_ok(|meta| meta.key).try_collect().await.unwrap()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}
