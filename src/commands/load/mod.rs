//! `vigie load`: many synthetic browsers, and clients that post pictures, against a running service.

pub(super) mod chart;
mod page;
mod summary;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cli::AccessArgs;
use crate::commands::bench::machine::{self, cpu_seconds};
use crate::load::clip::Clip;
use crate::load::counter;
use crate::load::poster::{BUILT_IN_PICTURE, Posts, post};
use crate::load::publisher::PublisherConfig;
use crate::load::visitor::{Tally, Visits, visit};
use summary::{Plan, Summary};

#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// The service: http, https, ws or wss.
    url: String,
    /// Synthetic browsers.
    #[arg(long, default_value_t = 10)]
    sessions: usize,
    /// How many of them join a second.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    ramp: f64,
    /// Seconds from the last one's start to the end.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// What they show: an IVF file with VP8, or built-in.
    #[arg(long, default_value = BUILT_IN)]
    clip: String,
    /// Size of the built-in clip.
    #[arg(long, value_enum, default_value_t)]
    size: Size,
    /// Frames a second that each sends; the clip's own rate if not given.
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    /// What is to be recognised.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["faces", "gender", "objects"])]
    tasks: Vec<Task>,
    /// Recognised frames a second and session at the most, 0.1 to 120; the service's default if not given.
    #[arg(long)]
    max_rate: Option<f64>,
    /// What comes back besides the reports.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Draw a number into each picture and read it back from the first session's annotated track: latency glass
    /// to glass.
    #[arg(long)]
    counter: bool,
    /// Clients that post pictures to /predict, one after another each.
    #[arg(long, default_value_t = 0, value_name = "CLIENTS")]
    predict: usize,
    /// The picture that they post; a frame of the built-in clip if not given.
    #[arg(long, value_name = "FILE", requires = "predict")]
    picture: Option<PathBuf>,
    /// Write the figures here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots here.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
}

const BUILT_IN: &str = "built-in";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Size {
    #[default]
    #[value(name = "640x480")]
    Vga,
    #[value(name = "320x240")]
    Qvga,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    Faces,
    Gender,
    Objects,
    Text,
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Output {
    #[default]
    Overlay,
    Annotated,
    Both,
}

fn positive(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if value.is_finite() && value > 0.0 && value <= 1000.0 {
        Ok(value)
    } else {
        Err("not between 0 and 1000".into())
    }
}

/// Visits the service, prints what came of it, and writes the files that are asked for.
pub fn run(args: &LoadArgs) -> anyhow::Result<()> {
    if args.sessions == 0 && args.predict == 0 {
        bail!("nothing to do: --sessions and --predict are both 0");
    }
    // One thread for all: the machine is for the service, and a synthetic browser needs little.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = runtime.block_on(load(args))?;
    summary.print();
    if let Some(path) = &args.json {
        write(path, serde_json::to_string_pretty(&summary)?)?;
    }
    if let Some(path) = &args.html {
        write(path, page::render(&summary))?;
    }
    let plan = &summary.plan;
    if plan.sessions > 0 && summary.sessions.joined == 0 {
        bail!("no session was joined");
    }
    if plan.predict_clients > 0 && summary.predict.as_ref().is_some_and(|predict| predict.answered == 0) {
        bail!("no picture was answered");
    }
    Ok(())
}

fn write(path: &Path, text: String) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

fn clip(args: &LoadArgs) -> anyhow::Result<(Clip, f64)> {
    if args.clip != BUILT_IN {
        let bytes = std::fs::read(&args.clip).with_context(|| format!("reading {}", args.clip))?;
        let clip = Clip::from_ivf(&bytes).with_context(|| format!("reading {}", args.clip))?;
        return Ok((clip, args.rate.unwrap_or(30.0)));
    }
    Ok(match args.size {
        Size::Vga => (Clip::built_in(), args.rate.unwrap_or(30.0)),
        Size::Qvga => (Clip::built_in_small(), args.rate.unwrap_or(15.0)),
    })
}

/// The bit rate of a clip.
fn kbps(clip: &Clip, rate: f64) -> u32 {
    let bytes: usize = clip.frames.iter().map(|frame| frame.len()).sum();
    (bytes as f64 * 8.0 / 1000.0 * rate / clip.frames.len() as f64) as u32
}

fn settings(args: &LoadArgs) -> Value {
    let wants = |task| args.tasks.contains(&task);
    let mut settings = json!({
        "tasks": {
            "faces": wants(Task::Faces),
            "gender": wants(Task::Gender),
            "objects": wants(Task::Objects),
            "text": wants(Task::Text),
        },
        "output": args.output,
    });
    if let Some(rate) = args.max_rate {
        settings["max_rate"] = rate.into();
    }
    settings
}

async fn load(args: &LoadArgs) -> anyhow::Result<Summary> {
    let target = args.access.target(&args.url).await?;
    let (mut clip, rate) = clip(args)?;
    if args.counter {
        clip = counter::counted(&clip, kbps(&clip, rate)).context("drawing numbers into the clip")?;
    }
    let picture = match &args.picture {
        Some(path) => {
            Bytes::from(std::fs::read(path).with_context(|| format!("reading {}", path.display()))?)
        }
        None => Bytes::from_static(BUILT_IN_PICTURE),
    };
    let ramp = Duration::from_secs_f64(args.sessions.saturating_sub(1) as f64 / args.ramp);
    let length = ramp + Duration::from_secs(args.seconds);
    let plan = Plan {
        url: target.url(),
        sessions: args.sessions,
        ramp_per_second: args.ramp,
        seconds: args.seconds,
        width: clip.width,
        height: clip.height,
        sent_fps: rate,
        settings: settings(args),
        predict_clients: args.predict,
    };
    let mut machine = machine::describe();
    let (began, cpu_before) = (Instant::now(), cpu_seconds());
    let tally = Arc::new(Tally::default());
    let bar = progress(length);
    let mut config = PublisherConfig {
        server: target.clone(),
        clip: Arc::new(clip),
        rate,
        duration: length,
        settings: plan.settings.clone(),
        stop_at_first_report: false,
        reads_counter: false,
    };
    let mut visitors = JoinSet::new();
    let mut clients = JoinSet::new();
    let starting = async {
        for _ in 0..args.predict {
            clients.spawn(post(target.clone(), picture.clone(), began + length));
        }
        for number in 0..args.sessions {
            let at = Duration::from_secs_f64(number as f64 / args.ramp);
            tokio::time::sleep_until((began + at).into()).await;
            config.duration = length.saturating_sub(began.elapsed());
            // One is enough: decoding takes from the service's processors.
            config.reads_counter = args.counter && number == 0;
            visitors.spawn(visit(config.clone(), Arc::clone(&tally)));
        }
        let visits: Vec<Visits> = std::mem::take(&mut visitors).join_all().await;
        let posts: Vec<Posts> = std::mem::take(&mut clients).join_all().await;
        (visits, posts)
    };
    let (visits, posts) = tokio::select! {
        ended = starting => ended,
        () = show(&bar, &tally, args.sessions, began) => unreachable!("it shows for ever"),
    };
    bar.finish_and_clear();
    machine.load_before = (machine.load_before * 100.0).round() / 100.0;
    let cpu = (cpu_seconds() - cpu_before) / began.elapsed().as_secs_f64();
    Ok(Summary::of(plan, machine, began, length, &visits, &posts, cpu))
}

fn progress(length: Duration) -> ProgressBar {
    let bar = ProgressBar::new(length.as_secs());
    let style = ProgressStyle::with_template("{bar:30} {elapsed} of {len} s  {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

async fn show(bar: &ProgressBar, tally: &Tally, sessions: usize, began: Instant) {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tick.tick().await;
        let count = |of: &std::sync::atomic::AtomicUsize| of.load(Ordering::Relaxed);
        let mut text = format!("{} of {sessions} live", count(&tally.live));
        for (name, number) in [("tries failed", count(&tally.failed)), ("lost", count(&tally.lost))] {
            if number > 0 {
                text += &format!(", {number} {name}");
            }
        }
        bar.set_position(began.elapsed().as_secs());
        bar.set_message(text);
    }
}
