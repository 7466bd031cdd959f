//! `vigie bench cluster`: a front and a worker as processes of their own. What does the front add to
//! signalling, and what do many sessions that are present add to a join?

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde::Serialize;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::ClusterBenchArgs;
use super::machine::{self, Machine};
use super::service::{Service, add_inference};
use super::summary::Percentiles;
use crate::cluster::protocol::SessionTerms;
use crate::cluster::remote::Remote;
use crate::cluster::token::ClusterToken;
use crate::load::clip::Clip;
use crate::load::publisher::{Joining, PublisherConfig, publish};
use crate::load::target::Target;

const TOKEN: &str = "the-cluster-of-this-benchmark";
/// Exchanges for each join that is asked for: they take a fraction of a millisecond.
const EXCHANGES_A_JOIN: usize = 10;
/// The present sessions join this many a second, and are given this long to settle.
const PRESENT_RAMP: usize = 10;
const SETTLING: Duration = Duration::from_secs(5);
/// A worker answers a candidate that comes before any offer at once, and keeps nothing of it.
const QUESTION: &str = r#"{"type":"candidate","candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host"}"#;

#[derive(Serialize)]
struct Report {
    machine: Machine,
    signalling: Signalling,
    joins: Joins,
}

#[derive(Serialize)]
struct Signalling {
    /// From a message to its answer, on an open socket.
    exchange_direct_ms: Percentiles,
    exchange_through_front_ms: Percentiles,
    /// From opening a socket to the welcome.
    open_direct_ms: Percentiles,
    open_through_front_ms: Percentiles,
}

#[derive(Serialize)]
struct Joins {
    present: usize,
    present_rate: f64,
    alone: Steps,
    with_others: Steps,
    alone_again: Steps,
}

#[derive(Serialize)]
struct Steps {
    answer_ms: Percentiles,
    channel_ms: Percentiles,
    first_report_ms: Percentiles,
}

pub async fn run(args: &ClusterBenchArgs) -> anyhow::Result<()> {
    let machine = machine::describe();
    println!("{} x {}, load {}", machine.cores, machine.processor, machine.load_before);
    let (worker, front) = start(args).await?;
    let signalling = signalling(args, worker.address, front.address).await?;
    let joins = joins(args, front.address).await?;
    front.stop().await?;
    worker.stop().await?;
    if let Some(path) = &args.json {
        let report = Report { machine, signalling, joins };
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("writing {}", path.display()))?;
        println!("\nraw figures in {}", path.display());
    }
    Ok(())
}

async fn start(args: &ClusterBenchArgs) -> anyhow::Result<(Service, Service)> {
    let command = |arguments: &[&str]| -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).args(["--log", "error"]).env("VIGIE_CLUSTER_TOKEN", TOKEN);
        Ok(command)
    };
    let mut worker = command(&["worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0"])?;
    worker.args(["--admit", "count", "--max-sessions", &(args.present * 2 + 10).to_string()]);
    add_inference(&mut worker, &args.inference);
    let worker = Service::run(worker).await?;
    let address = worker.address.to_string();
    let front = command(&["signal", "--listen", "127.0.0.1:0", "--workers", &address])?;
    Ok((worker, Service::run(front).await?))
}

/// Front and worker in turns, so that both meet the same machine.
async fn signalling(
    args: &ClusterBenchArgs,
    worker: SocketAddr,
    front: SocketAddr,
) -> anyhow::Result<Signalling> {
    let remote = Remote::new(worker, ClusterToken::new(TOKEN)?);
    let target = Target::from(front);
    let mut open = [Vec::new(), Vec::new()];
    let mut exchange = [Vec::new(), Vec::new()];
    for _ in 0..args.joins {
        let began = Instant::now();
        let mut direct = remote.open_session(&SessionTerms::default()).await?;
        receive(&mut direct).await?;
        open[0].push(began.elapsed());
        let began = Instant::now();
        let mut through = target.socket(None).await?;
        receive(&mut through).await?;
        open[1].push(began.elapsed());
        for _ in 0..EXCHANGES_A_JOIN {
            exchange[0].push(ask(&mut direct).await?);
            exchange[1].push(ask(&mut through).await?);
        }
        direct.close(None).await?;
        through.close(None).await?;
    }
    let [open_direct_ms, open_through_front_ms] = open.map(Percentiles::of);
    let [exchange_direct_ms, exchange_through_front_ms] = exchange.map(Percentiles::of);
    println!("\nsignalling, straight to the worker and through the front in turns");
    println!("  a message and its answer {exchange_direct_ms}");
    println!("  through the front        {exchange_through_front_ms}");
    println!("  opening and the welcome  {open_direct_ms}");
    println!("  through the front        {open_through_front_ms}");
    Ok(Signalling { exchange_direct_ms, exchange_through_front_ms, open_direct_ms, open_through_front_ms })
}

async fn receive(
    socket: &mut (impl Stream<Item = Result<Message, SocketError>> + Unpin),
) -> anyhow::Result<String> {
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            return Ok(text.as_str().to_owned());
        }
    }
    bail!("the socket closed")
}

async fn ask(
    socket: &mut (impl Stream<Item = Result<Message, SocketError>> + Sink<Message, Error = SocketError> + Unpin),
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    socket.send(Message::text(QUESTION)).await?;
    let answer = receive(socket).await?;
    let took = began.elapsed();
    if !answer.contains("no_offer") {
        bail!("an answer that was not expected: {answer}");
    }
    Ok(took)
}

async fn joins(args: &ClusterBenchArgs, front: SocketAddr) -> anyhow::Result<Joins> {
    println!("\njoining, {} times one after another", args.joins);
    // The first finds cold caches, and is not counted.
    join(front).await?;
    let alone = steps("alone", args, front).await?;
    let mut others = present(args, front)?;
    let ramp = Duration::from_secs((args.present / PRESENT_RAMP) as u64);
    tokio::time::sleep(ramp + SETTLING).await;
    let with_others = steps(&format!("with {} present", args.present), args, front).await?;
    if let Some(status) = others.try_wait()? {
        bail!("the present sessions ended: {status}");
    }
    others.kill().await?;
    // Killed, they said no goodbye: the worker finds that out by itself.
    tokio::time::sleep(4 * SETTLING).await;
    let alone_again = steps("alone again", args, front).await?;
    Ok(Joins { present: args.present, present_rate: args.present_rate, alone, with_others, alone_again })
}

/// The others, in a process of their own so that they do not wait for each other's thread.
fn present(args: &ClusterBenchArgs, front: SocketAddr) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([
        "load",
        &format!("http://{front}"),
        "--seconds",
        "3600",
        "--size",
        "320x240",
        "--rate",
        "10",
    ]);
    command.args(["--sessions", &args.present.to_string(), "--ramp", &PRESENT_RAMP.to_string()]);
    command.args(["--max-rate", &args.present_rate.to_string()]);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?)
}

async fn join(front: SocketAddr) -> anyhow::Result<Joining> {
    let config = PublisherConfig {
        server: front.into(),
        clip: Arc::new(Clip::built_in_small()),
        rate: 15.0,
        duration: Duration::from_secs(60),
        settings: Value::Null,
        stop_at_first_report: true,
        reads_counter: false,
    };
    Ok(publish(config).await?.joining)
}

async fn steps(title: &str, args: &ClusterBenchArgs, front: SocketAddr) -> anyhow::Result<Steps> {
    let mut joins = Vec::new();
    for _ in 0..args.joins {
        joins.push(join(front).await?);
    }
    let of = |step: fn(&Joining) -> Option<Duration>| Percentiles::of(joins.iter().filter_map(step));
    let steps = Steps {
        answer_ms: of(|joining| joining.answer),
        channel_ms: of(|joining| joining.channel),
        first_report_ms: of(|joining| joining.first_report),
    };
    println!("  {title}");
    println!("    answer                 {}", steps.answer_ms);
    println!("    results channel open   {}", steps.channel_ms);
    println!("    first report           {}", steps.first_report_ms);
    Ok(steps)
}
