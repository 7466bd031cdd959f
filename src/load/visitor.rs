//! A visitor: sessions one after another, as a page holds them. It comes back when it is refused or lost, and
//! opens the next session before it leaves the old one when it is asked to move.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use super::publisher::{Outcome, Publisher, PublisherConfig, Stop, Until, VisitError};

/// A first report that takes longer does not come.
const FIRST_REPORT_LIMIT: Duration = Duration::from_secs(30);
/// Before another try where the service names no time; doubled each time up to the limit.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
const RETRY_PAUSE_LIMIT: Duration = Duration::from_secs(4);

/// How many visitors are where, for a progress line.
#[derive(Debug, Default)]
pub struct Tally {
    pub live: AtomicUsize,
    pub joined: AtomicUsize,
    pub failed: AtomicUsize,
    pub lost: AtomicUsize,
}

/// What became of one visitor.
#[derive(Debug, Default)]
pub struct Visits {
    /// Of every session that was joined, in order.
    pub outcomes: Vec<Outcome>,
    /// When it was to join, and how long until its first report, failed tries and all.
    pub began: Option<Instant>,
    pub first_result: Option<Duration>,
    /// Tries that did not come to a report, by the reason's code.
    pub failed: BTreeMap<String, u32>,
    /// Sessions that ended before their time, by the reason's code.
    pub lost: BTreeMap<String, u32>,
    /// Sessions that were left for a new one because the service asked for it.
    pub migrated: u32,
    /// Sentences for the first reasons of each code.
    pub reasons: BTreeMap<String, String>,
}

/// Visits from now until the configured duration is over.
pub async fn visit(config: PublisherConfig, tally: Arc<Tally>) -> Visits {
    let began = Instant::now();
    let mut visitor = Visitor {
        end: began + config.duration,
        config,
        tally,
        visits: Visits { began: Some(began), ..Visits::default() },
    };
    visitor.run().await;
    visitor.visits
}

struct Visitor {
    config: PublisherConfig,
    end: Instant,
    tally: Arc<Tally>,
    visits: Visits,
}

impl Visitor {
    async fn run(&mut self) {
        let mut current = self.join().await;
        while let Some(mut publisher) = current.take() {
            self.visits
                .first_result
                .get_or_insert_with(|| self.visits.began.map(|began| began.elapsed()).unwrap_or_default());
            self.tally.live.fetch_add(1, Ordering::Relaxed);
            let stopped = publisher.run(Until::End).await;
            if let Ok(Stop::Migrate) = stopped {
                self.visits.migrated += 1;
                current = self.move_from(&mut publisher).await;
            }
            self.tally.live.fetch_sub(1, Ordering::Relaxed);
            publisher.leave().await;
            self.visits.outcomes.push(publisher.outcome);
            if let Err(error) = stopped {
                self.tally.lost.fetch_add(1, Ordering::Relaxed);
                note(&mut self.visits.lost, &mut self.visits.reasons, &error);
                current = self.join().await;
            }
        }
    }

    /// Opens the next session while the old one goes on.
    async fn move_from(&mut self, old: &mut Publisher) -> Option<Box<Publisher>> {
        let old_goes_on = async {
            while let Ok(Stop::Migrate) = old.run(Until::End).await {}
            std::future::pending().await
        };
        tokio::select! {
            joined = self.join() => joined,
            () = old_goes_on => None,
        }
    }

    /// Tries until a report has come; `None` when the time is over first.
    async fn join(&mut self) -> Option<Box<Publisher>> {
        let mut pause = RETRY_PAUSE;
        loop {
            let left = self.end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let config = PublisherConfig { duration: left, ..self.config.clone() };
            let error = match join_once(config).await {
                Ok(Some(publisher)) => {
                    self.tally.joined.fetch_add(1, Ordering::Relaxed);
                    return Some(publisher);
                }
                Ok(None) => return None,
                Err(error) => error,
            };
            self.tally.failed.fetch_add(1, Ordering::Relaxed);
            note(&mut self.visits.failed, &mut self.visits.reasons, &error);
            let wait = error.retry_after().unwrap_or(pause);
            pause = (pause * 2).min(RETRY_PAUSE_LIMIT);
            sleep_until((Instant::now() + wait).min(self.end).into()).await;
        }
    }
}

/// One try; `None` when the time was over before the first report.
async fn join_once(config: PublisherConfig) -> Result<Option<Box<Publisher>>, VisitError> {
    let mut publisher = Box::new(Publisher::open(config).await?);
    let stopped = timeout(FIRST_REPORT_LIMIT, publisher.run(Until::FirstReport)).await;
    if let Ok(Ok(Stop::There)) = stopped {
        return Ok(Some(publisher));
    }
    // Without goodbye the service would keep its place until it misses the media.
    publisher.leave().await;
    match stopped {
        Ok(Ok(Stop::Migrate)) => {
            Err(VisitError::Ended { reason: "the service asked to move before the first report".into() })
        }
        Ok(Ok(Stop::There | Stop::TimeUp)) => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(VisitError::NoReport),
    }
}

fn note(counts: &mut BTreeMap<String, u32>, reasons: &mut BTreeMap<String, String>, error: &VisitError) {
    *counts.entry(error.code().to_owned()).or_default() += 1;
    reasons.entry(error.code().to_owned()).or_insert_with(|| describe(error));
}

/// An error with what caused it.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
