//! The registry in a folder and in an S3 bucket (moto's server), by the same tests.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use vigie::blobs::Blobs;
use vigie::models::catalogue::MODELS;
use vigie::models::manifest::{Manifest, Provenance};
use vigie::models::registry::{Registry, RegistryError};
use vigie::models::store::{Store, sha256};
use vigie::models::traffic::{ModelVersion, Slot, Traffic};

use crate::common::s3::S3;
use crate::hostile::sound;
use crate::onnx::Model;

/// A manifest that could be of an upload; its digest is set when it is added.
fn manifest(name: &str) -> Manifest {
    let provenance = Provenance::stated("a test", None);
    Manifest { name: name.to_owned(), provenance, ..MODELS[0].manifest() }
}

/// Files that differ in a word.
fn onnx(word: &str) -> Bytes {
    Model::of(sound()).with_metadata(&[("word", word)]).bytes().into()
}

async fn add(registry: &Registry, name: &str, word: &str) -> (u32, bool) {
    let (manifest, was_known) =
        registry.add(&manifest(name), onnx(word), Bytes::from_static(b"jpeg")).await.unwrap();
    assert_eq!(manifest.sha256, sha256(&onnx(word)));
    (manifest.version, was_known)
}

async fn keys(registry: &Registry, prefix: &str) -> Vec<String> {
    let mut keys: Vec<String> =
        registry.blobs().list(prefix).unwrap().map_ok(|meta| meta.key).try_collect().await.unwrap();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_models() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Registry::new(Blobs::open(folder.path().to_str().unwrap()).unwrap());
    keeps_models(&open(), &open()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_models() {
    let server = S3::start();
    let open = || Registry::new(server.bucket("store/with/prefix"));
    keeps_models(&open(), &open()).await;
}

/// `other` is a handle as another process has it.
async fn keeps_models(registry: &Registry, other: &Registry) {
    counts_up(registry).await;
    gives_out(registry).await;
    together(registry, other).await;
    broken_off(registry).await;
    in_use(registry, other).await;
    names(registry).await;
}

async fn counts_up(registry: &Registry) {
    assert!(registry.list().await.unwrap().is_empty());
    assert_eq!(add(registry, "count", "one").await, (1, false));
    assert_eq!(add(registry, "count", "one").await, (1, true));
    assert_eq!(add(registry, "count", "two").await, (2, false));
    let mut stricter = manifest("count");
    stricter.thresholds.score = 0.9;
    let (stricter, was_known) = registry.add(&stricter, onnx("one"), Bytes::new()).await.unwrap();
    assert_eq!((stricter.version, was_known), (3, false), "the same file read otherwise is another version");
    assert_eq!(add(registry, "other", "one").await, (1, false), "and so is another name's");

    registry.remove("count", 3).await.unwrap();
    registry.remove("count", 1).await.unwrap();
    assert!(keys(registry, "models/count/1").await.is_empty());
    assert!(matches!(registry.read("count", 1).await, Err(RegistryError::UnknownVersion { version: 1, .. })));
    assert!(matches!(registry.remove("count", 1).await, Err(RegistryError::UnknownVersion { .. })));
    assert_eq!(
        add(registry, "count", "one").await,
        (4, false),
        "a removed version's number is not given again"
    );
    let there: Vec<_> = registry.list().await.unwrap();
    let there: Vec<_> =
        there.iter().map(|entry| (entry.manifest.name.as_str(), entry.manifest.version)).collect();
    assert_eq!(there, [("count", 2), ("count", 4), ("other", 1)]);
}

async fn gives_out(registry: &Registry) {
    let entry = registry.entry("count", 2).await.unwrap();
    assert_eq!((entry.size_bytes, entry.has_picture), (onnx("two").len() as u64, true));
    assert_eq!(registry.read("count", 2).await.unwrap(), entry.manifest);
    assert_eq!(registry.picture("count", 2).await.unwrap(), "jpeg");
    let meta = registry.model("count", 2).await.unwrap();
    let pieces = registry.blobs().read(&meta, 0..meta.bytes).await.unwrap();
    assert_eq!(pieces.try_collect::<Vec<_>>().await.unwrap().concat(), onnx("two"));

    let folder = tempfile::tempdir().unwrap();
    let local = Store::open(folder.path());
    let fetched = registry.fetch("count", 2, &local).await.unwrap();
    assert_eq!(std::fs::read(&fetched.model).unwrap(), onnx("two"));
    assert_eq!(fetched.manifest, entry.manifest);
    assert!(local.list().unwrap().is_empty(), "a copy is no model of the folder's own");
    // It is found again, mended when it was damaged, and replaced where another registry's has its number.
    assert_eq!(registry.fetch("count", 2, &local).await.unwrap(), fetched);
    std::fs::write(&fetched.model, b"").unwrap();
    assert_eq!(registry.fetch("count", 2, &local).await.unwrap(), fetched);
    local.fetched().write(&Manifest { version: 4, ..manifest("count") }, &onnx("elsewhere")).unwrap();
    let fourth = registry.fetch("count", 4, &local).await.unwrap();
    assert_eq!(std::fs::read(fourth.model).unwrap(), onnx("one"));
    assert!(matches!(registry.fetch("count", 9, &local).await, Err(RegistryError::UnknownVersion { .. })));

    // What was damaged in the store is not taken for the model.
    let mut writer = registry.blobs().writer("models/other/1/model.onnx", 1 << 20).await.unwrap();
    writer.write(onnx("damaged")).await.unwrap();
    writer.finish().await.unwrap();
    let damaged = registry.fetch("other", 1, &local).await;
    assert!(matches!(damaged, Err(RegistryError::Corrupt { .. })), "{damaged:?}");
    // A manifest of a vigie to come hides itself alone.
    let before = registry.list().await.unwrap().len();
    registry.blobs().put_small("models/other/1/manifest.json", Bytes::from_static(b"{}")).await.unwrap();
    assert!(matches!(registry.read("other", 1).await, Err(RegistryError::Unreadable { .. })));
    assert!(matches!(registry.entry("other", 1).await, Err(RegistryError::Unreadable { .. })));
    assert_eq!(registry.list().await.unwrap().len(), before - 1);
}

async fn together(registry: &Registry, other: &Registry) {
    // Everybody adds the same two files at once: there are two versions, each was new to one.
    let adding = (0..12).map(|index| {
        let (from, word) = ([registry, other][index % 2], ["left", "right"][index / 2 % 2]);
        async move { (word, add(from, "together", word).await) }
    });
    let added = join_all(adding).await;
    for word in ["left", "right"] {
        let mine: Vec<_> =
            added.iter().filter(|(added, _)| *added == word).map(|(_, found)| *found).collect();
        assert!(mine.iter().all(|(version, _)| *version == mine[0].0), "{added:?}");
        assert_eq!(mine.iter().filter(|(_, was_known)| !was_known).count(), 1, "{added:?}");
    }
    assert_eq!(registry.list().await.unwrap().iter().filter(|e| e.manifest.name == "together").count(), 2);
    // Others add while one is removed: whatever is there afterwards is whole.
    let churn = (0..6).map(|index| async move {
        match index % 2 {
            0 => drop(registry.add(&manifest("churn"), onnx("same"), Bytes::from_static(b"jpeg")).await),
            _ => {
                for entry in other.list().await.unwrap().iter().filter(|e| e.manifest.name == "churn") {
                    let _ = other.remove("churn", entry.manifest.version).await;
                }
            }
        }
    });
    join_all(churn).await;
    for entry in registry.list().await.unwrap().iter().filter(|entry| entry.manifest.name == "churn") {
        assert_eq!((entry.size_bytes, entry.has_picture), (onnx("same").len() as u64, true));
    }
}

async fn broken_off(registry: &Registry) {
    // A writer that died had its number, and had written all but the manifest.
    assert_eq!(add(registry, "broken", "one").await, (1, false));
    assert_eq!(add(registry, "broken", "two").await, (2, false));
    registry.blobs().delete("models/broken/1/manifest.json").await.unwrap();
    registry.blobs().delete("models/broken/2/manifest.json").await.unwrap();
    registry.blobs().put_small("intake/0123/model.onnx", Bytes::from_static(b"half")).await.unwrap();
    assert!(registry.list().await.unwrap().iter().all(|entry| entry.manifest.name != "broken"));
    assert!(matches!(registry.picture("broken", 1).await, Err(RegistryError::UnknownVersion { .. })));
    // The same content takes its place; what nobody comes back for is swept, when it is old enough.
    assert_eq!(add(registry, "broken", "one").await, (1, false));
    assert_eq!(registry.sweep(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(registry.sweep(Duration::ZERO).await.unwrap(), 2);
    assert!(keys(registry, "models/broken/2").await.is_empty() && keys(registry, "intake").await.is_empty());
    assert_eq!(add(registry, "broken", "two").await, (3, false));
    assert_eq!(registry.list().await.unwrap().iter().filter(|e| e.manifest.name == "broken").count(), 2);
}

async fn in_use(registry: &Registry, other: &Registry) {
    let model = |text: &str| text.parse::<ModelVersion>().unwrap();
    let slot: Slot = "classify:a/b c".parse().unwrap();
    let mut traffic = Traffic::new(slot.clone());
    traffic.stable = Some(model("broken@1"));
    assert!(
        registry.traffics().await.unwrap().is_empty() && registry.traffic(&slot).await.unwrap().is_none()
    );
    let first = registry.set_traffic(&traffic, None).await.unwrap();
    let changed = other.set_traffic(&traffic, None).await;
    assert!(matches!(changed, Err(RegistryError::TrafficChanged { .. })), "{changed:?}");
    let (read, version) = other.traffic(&slot).await.unwrap().unwrap();
    assert_eq!((&read, &version), (&traffic, &first));

    let refused = registry.remove("broken", 1).await.unwrap_err();
    assert!(matches!(&refused, RegistryError::InUse { slot, .. } if slot == "classify:a/b c"), "{refused:?}");
    registry.remove("broken", 3).await.unwrap();

    traffic.stable = Some(model("together@1"));
    other.set_traffic(&traffic, Some(&version)).await.unwrap();
    let stale = registry.set_traffic(&traffic, Some(&first)).await;
    assert!(matches!(stale, Err(RegistryError::TrafficChanged { .. })), "{stale:?}");
    registry.remove("broken", 1).await.unwrap();
    assert_eq!(registry.traffics().await.unwrap().len(), 1);
    registry.remove_traffic(&slot).await.unwrap();
    registry.remove("together", 1).await.unwrap();
}

async fn names(registry: &Registry) {
    for name in ["", "..", "a/b", "A", "é", "index.json", &"x".repeat(65)] {
        let added = registry.add(&manifest(name), onnx("x"), Bytes::new()).await;
        assert!(matches!(added, Err(RegistryError::Invalid(_))), "{name}: {added:?}");
        assert!(matches!(registry.read(name, 1).await, Err(RegistryError::UnknownVersion { .. })), "{name}");
        assert!(
            matches!(registry.remove(name, 1).await, Err(RegistryError::UnknownVersion { .. })),
            "{name}"
        );
    }
    let reserved = registry.add(&manifest("centernet"), onnx("x"), Bytes::new()).await;
    assert!(matches!(reserved, Err(RegistryError::ReservedName { .. })), "{reserved:?}");
    let mut long = manifest("long");
    long.task = vigie::models::manifest::Task::Objects;
    long.head = vigie::models::manifest::Head::Yolo;
    long.labels = (0..40_000).map(|index| format!("{index:060}")).collect();
    let refused = registry.add(&long, onnx("x"), Bytes::new()).await;
    assert!(matches!(refused, Err(RegistryError::ManifestTooLarge { .. })), "{refused:?}");
}
