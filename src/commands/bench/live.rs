//! `vigie bench live`: one session, measured side by side with what limits it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use super::LiveArgs;
use super::bare::{self, BareRates};
use super::machine::{self, Machine};
use super::service::Service;
use super::summary::Percentiles;
use crate::load::clip::Clip;
use crate::load::publisher::{Outcome, PublisherConfig, publish};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Frame rates and latency of one session, then bare inference beside an equal session without recognition.
    Rates,
    /// The same session with models four times as slow.
    Overload,
    /// The steps from the offer to the first report.
    Joining,
    /// Memory over many joins and leaves.
    Memory,
}

/// Everything that was measured, as it goes to `--json`.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overload: Option<Overload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    joining: Option<Joins>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
}

#[derive(Serialize)]
struct Rates {
    sent_fps: f64,
    annotated_fps: f64,
    recognised_fps: f64,
    bare: BareRates,
    /// Recognised over the limit: bare inference with all three models, or what was sent where that is less.
    ratio_to_limit: f64,
    server_cpu_cores: f64,
    /// Milliseconds of processor time by thread for each frame that was sent.
    cpu_ms_a_frame: BTreeMap<&'static str, f64>,
    /// From a frame's last packet to its report, in the server.
    server_ms: Percentiles,
    /// Of that, in the models.
    models_ms: Percentiles,
    /// From writing a frame to reading its report.
    report_ms: Percentiles,
    /// From writing a frame to having its annotated picture.
    annotated_ms: Percentiles,
    stages_p50_ms: Value,
}

#[derive(Serialize)]
struct Overload {
    slowdown: f32,
    recognised_fps: f64,
    annotated_fps: f64,
    dropped: u64,
    server_ms_first_half: Percentiles,
    server_ms_second_half: Percentiles,
}

#[derive(Serialize)]
struct Joins {
    answer_ms: Percentiles,
    ice_ms: Percentiles,
    dtls_ms: Percentiles,
    channel_ms: Percentiles,
    first_report_ms: Percentiles,
    /// What the server needed for the frame of the first report, decoding included.
    first_frame_in_server_ms: Percentiles,
}

#[derive(Serialize)]
struct Memory {
    /// Resident KiB after so many joins and leaves.
    after: Vec<(usize, u64)>,
    growth_from_50: f64,
}

/// Samples before this are the models' and the encoder's first ones.
const WARM_UP: Duration = Duration::from_secs(3);
const SLOWDOWN: f32 = 4.0;
const JOINS: usize = 30;

pub async fn run(args: &LiveArgs) -> anyhow::Result<()> {
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    let mut report = Report {
        machine: machine::describe(),
        seconds: args.seconds,
        rates: None,
        overload: None,
        joining: None,
        memory: None,
    };
    let machine = &report.machine;
    println!(
        "vigie {} on {} x {}, load before {:.2}",
        machine.vigie, machine.cores, machine.processor, machine.load_before
    );
    if wanted(Part::Rates) {
        report.rates = Some(rates(args).await.context("measuring rates")?);
    }
    if wanted(Part::Overload) {
        report.overload = Some(overload(args).await.context("measuring overload")?);
    }
    if wanted(Part::Joining) {
        report.joining = Some(joining(args).await.context("measuring joining")?);
    }
    if wanted(Part::Memory) && args.joins > 0 {
        report.memory = Some(memory(args).await.context("measuring memory")?);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("writing {}", path.display()))?;
        println!("\nraw figures in {}", path.display());
    }
    Ok(())
}

fn publisher(service: &Service, args: &LiveArgs, settings: Value) -> PublisherConfig {
    PublisherConfig {
        server: service.address.into(),
        clip: Arc::new(Clip::built_in()),
        rate: args.rate,
        duration: WARM_UP + Duration::from_secs(args.seconds),
        settings,
        stop_at_first_report: false,
        reads_counter: false,
    }
}

async fn rates(args: &LiveArgs) -> anyhow::Result<Rates> {
    let output = if args.overlay { "overlay" } else { "both" };
    println!("\none session, 640x480 at {} fps, faces + gender + objects, output {output}", args.rate);
    let service = Service::start(&args.inference, 1.0).await?;
    let settings = json!({ "output": output, "max_rate": 120 });
    let (cpu_before, began) = (service.cpu_seconds()?, Instant::now());
    let (outcome, cpu) =
        tokio::join!(publish(publisher(&service, args, settings)), cpu_by_thread(&service, args.seconds));
    let (outcome, cpu) = (outcome?, cpu?);
    let server_cpu_cores = (service.cpu_seconds()? - cpu_before) / began.elapsed().as_secs_f64();
    service.stop().await?;

    // The limit: the same session without recognition leaves the processor to bare loops over the same models.
    let service = Service::start(&args.inference, 1.0).await?;
    let off = json!({ "output": output, "tasks": { "faces": false, "gender": false, "objects": false }, "max_rate": 0.1 });
    let duration = Duration::from_secs(args.seconds);
    let inference = args.inference.clone();
    let bare = tokio::task::spawn_blocking(move || {
        std::thread::sleep(WARM_UP);
        bare::measure(&inference, &Clip::built_in(), duration)
    });
    let (beside, bare) = tokio::join!(publish(publisher(&service, args, off)), bare);
    let (beside, bare) = (beside?, bare??);
    service.stop().await?;

    let settled = Settled::of(&outcome, args.seconds);
    let reports = &settled.reports;
    let stage = |of: fn(&crate::pipeline::report::Timings) -> f32| {
        Percentiles::of_ms(reports.iter().map(|r| f64::from(of(&r.timings)))).p50
    };
    let rates = Rates {
        sent_fps: settled.sent_fps,
        annotated_fps: settled.annotated_fps,
        recognised_fps: settled.recognised_fps,
        ratio_to_limit: settled.recognised_fps / bare.all_three.min(settled.sent_fps),
        bare,
        server_cpu_cores,
        cpu_ms_a_frame: cpu.into_iter().map(|(what, s)| (what, s * 1000.0 / settled.sent_fps)).collect(),
        server_ms: Percentiles::of_ms(reports.iter().map(|r| f64::from(r.timings.total))),
        models_ms: Percentiles::of_ms(reports.iter().map(|r| f64::from(r.timings.infer))),
        report_ms: Percentiles::of(reports.iter().map(|r| r.latency)),
        annotated_ms: Percentiles::of(settled.annotated.iter().copied()),
        stages_p50_ms: json!({
            "receive": stage(|t| t.receive), "decode": stage(|t| t.decode), "queue": stage(|t| t.queue),
            "prepare": stage(|t| t.prepare), "infer": stage(|t| t.infer), "track": stage(|t| t.track),
        }),
    };
    let beside = Settled::of(&beside, args.seconds);
    println!("  sent                     {:>7.1} fps", rates.sent_fps);
    println!("  annotated track received {:>7.1} fps", rates.annotated_fps);
    println!("  recognised               {:>7.1} fps", rates.recognised_fps);
    println!(
        "  bare inference           {:>7.1} fps with all three models, {:.1} without gender (beside {:.1} annotated fps)",
        rates.bare.all_three, rates.bare.detectors_only, beside.annotated_fps
    );
    println!(
        "  recognised / limit       {:>7.2} (bare with all three, or what was sent)",
        rates.ratio_to_limit
    );
    println!("  server                   {:>7.2} cores", rates.server_cpu_cores);
    println!("  CPU a sent frame, ms     {}", serde_json::to_string(&rates.cpu_ms_a_frame)?);
    println!("  frame in to report out   {}", rates.server_ms);
    println!("  of that in the models    {}", rates.models_ms);
    println!("  sender to report         {}", rates.report_ms);
    println!("  sender to annotated      {}", rates.annotated_ms);
    println!("  stages, p50 in ms        {}", rates.stages_p50_ms);
    Ok(rates)
}

/// Seconds of processor time a second, by thread, while the session that lasts `seconds` is at work.
async fn cpu_by_thread(service: &Service, seconds: u64) -> anyhow::Result<BTreeMap<&'static str, f64>> {
    tokio::time::sleep(WARM_UP).await;
    let (before, began) = (service.cpu_by_thread()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds).mul_f32(0.9)).await;
    let (after, took) = (service.cpu_by_thread()?, began.elapsed().as_secs_f64());
    let used = |(what, s): (&'static str, f64)| (what, (s - before.get(what).unwrap_or(&0.0)) / took);
    Ok(after.into_iter().map(used).collect())
}

async fn overload(args: &LiveArgs) -> anyhow::Result<Overload> {
    println!("\nthe same with models {SLOWDOWN} times as slow");
    let service = Service::start(&args.inference, SLOWDOWN).await?;
    let settings = json!({ "output": "both", "max_rate": 120 });
    let outcome = publish(publisher(&service, args, settings)).await?;
    service.stop().await?;
    let settled = Settled::of(&outcome, args.seconds);
    let (first, second) = settled.reports.split_at(settled.reports.len() / 2);
    let totals = |half: &[crate::load::publisher::ReportSample]| {
        Percentiles::of_ms(half.iter().map(|r| f64::from(r.timings.total)))
    };
    let overload = Overload {
        slowdown: SLOWDOWN,
        recognised_fps: settled.recognised_fps,
        annotated_fps: settled.annotated_fps,
        dropped: outcome.dropped,
        server_ms_first_half: totals(first),
        server_ms_second_half: totals(second),
    };
    println!("  recognised               {:>7.1} fps", overload.recognised_fps);
    println!("  annotated track received {:>7.1} fps", overload.annotated_fps);
    println!("  dropped and counted      {:>7}", overload.dropped);
    println!("  frame in to report out   {} in the first half", overload.server_ms_first_half);
    println!("                           {} in the second", overload.server_ms_second_half);
    Ok(overload)
}

async fn joining(args: &LiveArgs) -> anyhow::Result<Joins> {
    println!("\njoining, from the offer, {JOINS} times one after another");
    let service = Service::start(&args.inference, 1.0).await?;
    let mut joins = Vec::new();
    // The first finds cold caches, and is not counted.
    for _ in 0..=JOINS {
        joins.push(join(&service, args).await?.joining);
    }
    service.stop().await?;
    joins.remove(0);
    let of = |step: fn(&crate::load::publisher::Joining) -> Option<Duration>| {
        Percentiles::of(joins.iter().filter_map(step))
    };
    let joins = Joins {
        answer_ms: of(|j| j.answer),
        ice_ms: of(|j| j.ice),
        dtls_ms: of(|j| j.dtls),
        channel_ms: of(|j| j.channel),
        first_report_ms: of(|j| j.first_report),
        first_frame_in_server_ms: Percentiles::of_ms(
            joins.iter().map(|j| f64::from(j.first_report_timings.total)),
        ),
    };
    println!("  answer                   {}", joins.answer_ms);
    println!("  ICE connected            {}", joins.ice_ms);
    println!("  DTLS finished            {}", joins.dtls_ms);
    println!("  results channel open     {}", joins.channel_ms);
    println!("  first report             {}", joins.first_report_ms);
    println!("  its frame in the server  {}", joins.first_frame_in_server_ms);
    Ok(joins)
}

async fn join(service: &Service, args: &LiveArgs) -> anyhow::Result<Outcome> {
    let mut config = publisher(service, args, Value::Null);
    config.stop_at_first_report = true;
    Ok(publish(config).await?)
}

async fn memory(args: &LiveArgs) -> anyhow::Result<Memory> {
    println!("\nmemory over {} joins and leaves", args.joins);
    let service = Service::start(&args.inference, 1.0).await?;
    let mut after = Vec::new();
    for count in 1..=args.joins {
        join(&service, args).await?;
        if count % 50 == 0 {
            // The last session's threads are given a moment to go.
            tokio::time::sleep(Duration::from_millis(500)).await;
            after.push((count, service.memory_kib()?));
        }
    }
    service.stop().await?;
    let (first, last) = (after.first().map_or(1, |(_, kib)| *kib), after.last().map_or(1, |(_, kib)| *kib));
    let memory = Memory { after, growth_from_50: last as f64 / first as f64 - 1.0 };
    for (count, kib) in &memory.after {
        println!("  after {count:>5}              {:>7.1} MiB", *kib as f64 / 1024.0);
    }
    println!("  growth since 50          {:>+7.1} %", memory.growth_from_50 * 100.0);
    Ok(memory)
}

/// What came back once everything was warm.
struct Settled {
    sent_fps: f64,
    annotated_fps: f64,
    recognised_fps: f64,
    reports: Vec<crate::load::publisher::ReportSample>,
    annotated: Vec<Duration>,
}

impl Settled {
    fn of(outcome: &Outcome, seconds: u64) -> Self {
        let seconds = seconds as f64;
        let reports: Vec<_> = outcome.reports.iter().filter(|r| r.at >= WARM_UP).cloned().collect();
        let annotated: Vec<_> = outcome
            .annotated
            .iter()
            .filter(|(at, _)| *at >= WARM_UP)
            .filter_map(|(_, latency)| *latency)
            .collect();
        Self {
            sent_fps: outcome.sent_at.iter().filter(|at| **at >= WARM_UP).count() as f64 / seconds,
            annotated_fps: annotated.len() as f64 / seconds,
            recognised_fps: reports.len() as f64 / seconds,
            reports,
            annotated,
        }
    }
}
