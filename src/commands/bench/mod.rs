//! `vigie bench`: measures this machine against its own limits, with real WebRTC, files and requests.

mod bare;
mod cluster;
mod files;
mod gpu;
mod limits;
mod live;
pub(crate) mod machine;
mod models;
mod service;
pub(crate) mod summary;

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// One live session against bare inference: rates, latency, overload, joining, memory.
    Live(LiveArgs),
    /// What this machine can do at the most: decoding, drawing and encoding, and the models, in bare loops.
    Limits(limits::LimitsArgs),
    /// What a front adds to signalling, and what many present sessions add to a join.
    Cluster(ClusterBenchArgs),
    /// Video files against FFmpeg and bare inference, their memory, and /predict.
    Files(files::FilesArgs),
    /// What the Open Inference Protocol adds to a bare call of a model.
    Models(models::ModelsBenchArgs),
    /// The models alone by size of batch, and how many streams are held: on a GPU, or any device.
    Gpu(gpu::GpuArgs),
}

#[derive(Clone, Debug, Args)]
pub struct LiveArgs {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Frames a second that are sent; far more than 30 shows what recognition reaches when no camera holds it back.
    #[arg(long, default_value_t = 30.0)]
    rate: f64,
    /// Measure rates without the annotated track.
    #[arg(long)]
    overlay: bool,
    /// Joins and leaves of the memory measurement; 0 leaves it out.
    #[arg(long, default_value_t = 1000)]
    joins: usize,
    /// Measure only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<live::Part>,
    /// Write the raw figures here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    inference: crate::cli::InferenceArgs,
}

#[derive(Clone, Debug, Args)]
pub struct ClusterBenchArgs {
    /// Joins of each measurement, and a tenth of its messages.
    #[arg(long, default_value_t = 30)]
    joins: usize,
    /// Sessions that are present while others join.
    #[arg(long, default_value_t = 100)]
    present: usize,
    /// Recognised frames a second that each of them is limited to.
    #[arg(long, default_value_t = 1.0)]
    present_rate: f64,
    /// Write the raw figures here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    inference: crate::cli::InferenceArgs,
}

pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.command {
        BenchCommand::Limits(args) => limits::run(&args),
        BenchCommand::Gpu(args) => gpu::run(&args),
        BenchCommand::Live(args) => runtime.block_on(live::run(&args)),
        BenchCommand::Cluster(args) => runtime.block_on(cluster::run(&args)),
        BenchCommand::Files(args) => runtime.block_on(files::run(args)),
        BenchCommand::Models(args) => runtime.block_on(models::run(&args)),
    }
}
