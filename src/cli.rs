//! The command line. Every flag is also an environment variable, `VIGIE_` and its name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{annotate::AnnotateArgs, bench::BenchArgs, models::ModelsArgs};
use crate::telemetry::logging::LogFormat;

/// Real-time recognition over WebRTC: faces, apparent gender and everyday objects, live in a browser.
#[derive(Debug, Parser)]
#[command(name = "vigie", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub logging: LoggingArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine: pages, signalling and one media worker.
    Serve(Box<ServeArgs>),
    /// Annotate pictures and video files.
    Annotate(Box<AnnotateArgs>),
    /// Fetch, list and check models.
    Models(ModelsArgs),
    /// Measure this machine with real WebRTC sessions.
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub struct LoggingArgs {
    /// What to log, as RUST_LOG writes it (for example `vigie=debug`).
    #[arg(long = "log", env = "VIGIE_LOG", global = true)]
    pub filter: Option<String>,
    /// How log lines look.
    #[arg(long, env = "VIGIE_LOG_FORMAT", global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Address of the pages and of signalling; port 0 takes any free one.
    #[arg(long, env = "VIGIE_LISTEN", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080))]
    pub listen: SocketAddr,
    /// Serve other machines although anybody who reaches the address may open sessions.
    #[arg(long, env = "VIGIE_INSECURE_OPEN")]
    pub insecure_open: bool,
    /// Origins besides the page's own that may open sessions, such as https://example.org.
    #[arg(long, env = "VIGIE_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
    /// STUN servers for pages behind other networks, such as stun:stun.example.org:3478.
    #[arg(long, env = "VIGIE_STUN", value_delimiter = ',')]
    pub stun: Vec<String>,
    #[command(flatten)]
    pub worker: WorkerArgs,
    #[command(flatten)]
    pub inference: InferenceArgs,
}

#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// UDP addresses for media, comma-separated; 0.0.0.0:0 is any port on every interface but loopback.
    #[arg(long, env = "VIGIE_MEDIA", value_delimiter = ',', default_values = ["127.0.0.1:0", "0.0.0.0:0"])]
    pub media: Vec<SocketAddr>,
    /// Live sessions at a time; more are told to come back.
    #[arg(long, env = "VIGIE_MAX_SESSIONS", default_value_t = 16)]
    pub max_sessions: usize,
    /// Codec of the annotated track: the first that the browser takes.
    #[arg(long, env = "VIGIE_ANNOTATED_CODECS", value_enum, value_delimiter = ',', default_values = ["h264", "vp8"])]
    pub annotated_codecs: Vec<AnnotatedCodec>,
    /// Seconds that sessions have to end in after a request to stop.
    #[arg(long, env = "VIGIE_DRAIN_SECONDS", default_value_t = 5)]
    pub drain_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AnnotatedCodec {
    H264,
    Vp8,
}

#[derive(Clone, Debug, Args)]
pub struct InferenceArgs {
    /// Directory of the models.
    #[arg(long, env = "VIGIE_MODELS", default_value = ".vigie/models")]
    pub models: PathBuf,
    /// The ONNX Runtime library; without it the first libonnxruntime.so* in .vigie/onnxruntime.
    #[arg(long, env = "VIGIE_ORT_LIBRARY")]
    pub ort_library: Option<PathBuf>,
    /// Where inference runs: auto, cpu, cuda:N or tensorrt:N.
    #[arg(long, env = "VIGIE_DEVICE", default_value = "auto")]
    pub device: String,
    /// Engines that run side by side; without it, one a core.
    #[arg(long, env = "VIGIE_LANES")]
    pub lanes: Option<usize>,
    /// Threads of one engine. More than one is seldom faster with several lanes.
    #[arg(long, env = "VIGIE_LANE_THREADS", default_value_t = 1)]
    pub lane_threads: usize,
    /// Longer side of the object model's input, a multiple of 32: 320 for speed, 512 for small things.
    #[arg(long, env = "VIGIE_OBJECT_SIZE", default_value_t = 320)]
    pub object_size: u32,
    /// Make every inference take this many times as long: for measuring overload.
    #[arg(long, env = "VIGIE_SLOWDOWN", default_value_t = 1.0, hide = true)]
    pub slowdown: f32,
}
