//! What a runner does beside the annotation: it tells of long work, gives it up, and says what was too much.

use std::future::pending;
use std::path::Path;

use super::*;
use crate::blobs::Blobs;
use crate::jobs::id::JobId;
use crate::jobs::queue::{self, Queue};
use crate::jobs::record::{State, Upload};

/// A job in a store of its own that has just begun.
async fn begun(folder: &Path) -> (Jobs, Delivery, Box<Run>) {
    let blobs = Blobs::open(&folder.display().to_string()).unwrap();
    let mut writer = blobs.writer_by_content("uploads", 100).await.unwrap();
    writer.write("a film".into()).await.unwrap();
    let stored = writer.finish().await.unwrap();
    let upload = Upload { bytes: stored.bytes, sha256: stored.sha256 };
    let queue = Queue::local(queue::Options::default());
    let jobs = Jobs::new(blobs, queue, Duration::from_secs(3600), Arc::new(Metrics::new()));
    let options = Options::read(None, None, None).unwrap();
    jobs.create(JobId::random(), &upload, "film", options).await.unwrap();
    let delivery = jobs.queue().take().await;
    let Begin::Run(run) = jobs.begin(&delivery).await.unwrap() else { panic!("it does not begin") };
    (jobs, delivery, run)
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_is_told_in_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let (jobs, delivery, mut run) = begun(folder.path()).await;
    let id = run.job.id;
    // Stands in the record as soon as that is written again.
    run.job.progress.frames = 7;
    let done = keep_alive(&jobs, &mut run, &delivery, tokio::time::sleep(3 * HEARTBEAT)).await;
    assert_eq!(done, Ok(()));
    assert_eq!(jobs.find(id).await.unwrap().progress.frames, 7);
    // And the record still is this run's.
    jobs.complete(*run).await.unwrap();
    assert_eq!(jobs.find(id).await.unwrap().state, State::Done);
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_is_given_up_with_its_job() {
    for wanted in [Verdict::Cancelled, Verdict::Lost] {
        let folder = tempfile::tempdir().unwrap();
        let (jobs, delivery, mut run) = begun(folder.path()).await;
        match wanted {
            Verdict::Cancelled => drop(jobs.cancel(run.job.id).await.unwrap()),
            _ => jobs.delete(run.job.id).await.unwrap(),
        }
        assert_eq!(keep_alive(&jobs, &mut run, &delivery, pending::<()>()).await, Err(wanted));
    }
}

#[tokio::test]
async fn who_has_to_go_waits_for_nothing() {
    let (leaving, mut is_stopping) = watch::channel(false);
    assert_eq!(unless_stopping(&mut is_stopping, async { 7 }).await, Some(7));
    leaving.send_replace(true);
    assert_eq!(unless_stopping(&mut is_stopping, pending::<u8>()).await, None);
}

#[test]
fn results_that_are_too_large_say_what_helps() {
    let fault = too_large(1000, "the most that the store takes of a file");
    assert_eq!(fault.code, "too_large");
    assert_eq!(
        fault.message,
        "its results have more than 1000 bytes, the most that the store takes of a file: \
         send the video in shorter pieces, or with smaller pictures"
    );
}
