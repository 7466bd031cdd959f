//! What live sessions notice while a large model is uploaded and loaded that none of them uses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::json;

use super::ModelsBenchArgs;
use super::bulk;
use super::client::Registry;
use crate::commands::bench::summary::Percentiles;
use crate::load::clip::Clip;
use crate::load::publisher::{Outcome, Publisher, PublisherConfig, Stop, Until};

const BYTES: usize = 100_000_000;
const SESSIONS: usize = 4;
/// Reports before this are the sessions' first.
const WARM_UP: Duration = Duration::from_secs(5);
/// Quiet before the upload, and after each load.
const QUIET: Duration = Duration::from_secs(10);
const LOADS: usize = 3;

#[derive(Clone, Debug, Serialize)]
pub struct Loading {
    bytes: usize,
    sessions: usize,
    /// Recognised frames a second that each session asks for.
    rate: f64,
    /// From a frame's last packet to its report, of all sessions together.
    before_ms: Percentiles,
    during_upload_ms: Percentiles,
    during_loads_ms: Percentiles,
    after_ms: Percentiles,
    /// Of the medians, to those before and after together.
    upload_ratio: f64,
    load_ratio: f64,
    load_seconds: Vec<f64>,
}

/// Spans of time, from the beginning of the measurement.
#[derive(Default)]
struct Spans {
    upload: Vec<(Instant, Instant)>,
    loads: Vec<(Instant, Instant)>,
    before: Vec<(Instant, Instant)>,
    after: Vec<(Instant, Instant)>,
}

pub async fn measure(args: &ModelsBenchArgs) -> anyhow::Result<Loading> {
    println!("\nloading a model of {BYTES} bytes, {LOADS} times, under {SESSIONS} live sessions");
    let registry = Registry::start(&args.inference, &["--admit", "count"]).await?;
    let model = bulk::model(BYTES, 1);
    let address = registry.service.address;
    let clip = Arc::new(Clip::built_in());
    let config = || PublisherConfig {
        server: address.into(),
        clip: Arc::clone(&clip),
        rate: 30.0,
        duration: Duration::from_secs(600),
        settings: json!({ "max_rate": args.session_rate }),
        stop_at_first_report: false,
        reads_counter: false,
    };
    let mut sessions = Vec::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for _ in 0..SESSIONS {
        sessions.push(tokio::spawn(session(config(), stopped.clone())));
    }
    let spans = disturb(&registry, &model).await;
    stop.send_replace(true);
    let mut outcomes = Vec::new();
    for session in sessions {
        outcomes.push(session.await?.context("a session")?);
    }
    let spans = spans?;
    registry.service.stop().await?;
    let measured = summarise(args, &spans, &outcomes)?;
    println!("  before                   {}", measured.before_ms);
    println!("  during the upload        {}   {:.2} times", measured.during_upload_ms, measured.upload_ratio);
    println!("  while it is loaded       {}   {:.2} times", measured.during_loads_ms, measured.load_ratio);
    println!("  after                    {}", measured.after_ms);
    let seconds: Vec<String> = measured.load_seconds.iter().map(|seconds| format!("{seconds:.1}")).collect();
    println!("  the loads took           {} s", seconds.join(", "));
    Ok(measured)
}

/// Publishes until told to stop.
async fn session(
    config: PublisherConfig,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<Outcome> {
    let mut publisher = Publisher::open(config).await?;
    loop {
        tokio::select! {
            stop = publisher.run(Until::End) => ensure!(stop? == Stop::Migrate, "it ended before its time"),
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    publisher.leave().await;
    Ok(publisher.outcome)
}

async fn disturb(registry: &Registry, model: &[u8]) -> anyhow::Result<Spans> {
    let mut spans = Spans::default();
    tokio::time::sleep(WARM_UP).await;
    spans.before.push(quiet().await);
    let began = Instant::now();
    registry.upload("bench", model).await?;
    spans.upload.push((began, Instant::now()));
    for _ in 0..LOADS {
        spans.after.push(quiet().await);
        let began = Instant::now();
        registry.load_for_nobody("bench@1").await?;
        registry.until_loaded("bench", true).await?;
        spans.loads.push((began, Instant::now()));
        spans.after.push(quiet().await);
        registry.end_traffic().await?;
        registry.until_loaded("bench", false).await?;
    }
    Ok(spans)
}

async fn quiet() -> (Instant, Instant) {
    let began = Instant::now();
    tokio::time::sleep(QUIET).await;
    (began, Instant::now())
}

fn summarise(args: &ModelsBenchArgs, spans: &Spans, outcomes: &[Outcome]) -> anyhow::Result<Loading> {
    let within = |spans: &[(Instant, Instant)]| {
        let of = |outcome: &Outcome| -> Vec<f64> {
            let Some(began) = outcome.began else { return Vec::new() };
            let is_within = |at: Instant| spans.iter().any(|(from, to)| (*from..*to).contains(&at));
            let reports = outcome.reports.iter().filter(|report| is_within(began + report.at));
            reports.map(|report| f64::from(report.timings.total)).collect()
        };
        Percentiles::of_ms(outcomes.iter().flat_map(of))
    };
    let undisturbed = within(&[spans.before.as_slice(), &spans.after].concat());
    let (during_upload_ms, during_loads_ms) = (within(&spans.upload), within(&spans.loads));
    ensure!(undisturbed.count > 0 && during_loads_ms.count > 0, "no reports came");
    Ok(Loading {
        bytes: BYTES,
        sessions: outcomes.len(),
        rate: args.session_rate,
        before_ms: within(&spans.before),
        during_upload_ms,
        during_loads_ms,
        after_ms: within(&spans.after),
        upload_ratio: during_upload_ms.p50 / undisturbed.p50,
        load_ratio: during_loads_ms.p50 / undisturbed.p50,
        load_seconds: spans.loads.iter().map(|(from, to)| (*to - *from).as_secs_f64()).collect(),
    })
}
