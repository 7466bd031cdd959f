//! The command line. Every flag is also an environment variable, `VIGIE_` and its name.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "media")]
use crate::commands::{
    annotate::AnnotateArgs, bench::BenchArgs, doctor::DoctorArgs, load::LoadArgs, models::ModelsArgs,
};
use crate::commands::{guard::GuardArgs, health::HealthArgs, token::TokenArgs};
#[cfg(feature = "media")]
use crate::load::target::Target;
#[cfg(feature = "media")]
use crate::load::tls::{self, Trust};
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
    #[cfg(feature = "media")]
    Serve(Box<ServeArgs>),
    /// Run a front: pages and signalling, for workers that run elsewhere.
    Signal(Box<SignalArgs>),
    /// Run a media worker, for fronts that run elsewhere.
    #[cfg(feature = "media")]
    Worker(Box<WorkerProcessArgs>),
    /// Mint a token that opens sessions, or an admin's.
    Token(TokenArgs),
    /// Ask whether the service on this machine lives: for an image's HEALTHCHECK.
    Health(HealthArgs),
    /// Annotate pictures and video files.
    #[cfg(feature = "media")]
    Annotate(Box<AnnotateArgs>),
    /// Fetch, list, check, add and remove models.
    #[cfg(feature = "media")]
    Models(ModelsArgs),
    /// Measure this machine with real WebRTC sessions.
    #[cfg(feature = "media")]
    Bench(BenchArgs),
    /// Visit a running service with many synthetic browsers, and report how it does.
    #[cfg(feature = "media")]
    Load(Box<LoadArgs>),
    /// Check this machine, and a deployment: what works, what does not, and what to do about it.
    #[cfg(feature = "media")]
    Doctor(Box<DoctorArgs>),
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
    #[command(flatten)]
    pub front: FrontArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub worker: WorkerArgs,
    #[command(flatten)]
    pub inference: InferenceArgs,
}

#[derive(Clone, Debug, Args)]
pub struct SignalArgs {
    #[command(flatten)]
    pub front: FrontArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Control addresses of the workers, host:port; every address of a name is a worker.
    #[arg(long, env = "VIGIE_WORKERS", value_delimiter = ',', required = true)]
    pub workers: Vec<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

#[derive(Clone, Debug, Args)]
pub struct WorkerProcessArgs {
    /// Address of the control API that fronts call, and of the probes; port 0 takes any free one.
    #[arg(long, env = "VIGIE_CONTROL", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8090))]
    pub control: SocketAddr,
    /// Name of this worker, unlike any other's: it stands in the ids of its sessions. Random if not given.
    #[arg(long, env = "VIGIE_NAME")]
    pub name: Option<String>,
    /// The secret that fronts and workers share, at least 16 characters; better given as VIGIE_CLUSTER_TOKEN,
    /// since other users of a machine can see command lines. With --oip alone, none is needed.
    #[arg(long, env = "VIGIE_CLUSTER_TOKEN", hide_env_values = true, required_unless_present = "oip")]
    pub cluster_token: Option<Secret>,
    /// Address at which whoever reaches it may run the models, by the Open Inference Protocol and without a token;
    /// `kserve` is 0.0.0.0 and the port that PORT says, or 8080.
    #[arg(long, env = "VIGIE_OIP")]
    pub oip: Option<OipAddress>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Seconds that pages have to move to other workers in after a request to stop.
    #[arg(long, env = "VIGIE_DRAIN_SECONDS", default_value_t = 30)]
    pub drain_seconds: u64,
    #[command(flatten)]
    pub inference: InferenceArgs,
}

#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// The secret that fronts and workers share, at least 16 characters; better given as VIGIE_CLUSTER_TOKEN,
    /// since other users of a machine can see command lines.
    #[arg(long = "cluster-token", env = "VIGIE_CLUSTER_TOKEN", hide_env_values = true)]
    pub token: Secret,
}

#[derive(Clone, Debug, Args)]
pub struct FrontArgs {
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
    /// The TURN server over each of its transports, such as turn:turn.example.org:3478?transport=udp.
    #[arg(long = "turn-url", env = "VIGIE_TURN_URL", value_delimiter = ',', value_parser = parse_turn_url, requires = "turn_secret")]
    pub turn_urls: Vec<String>,
    /// The TURN server's static-auth-secret; better given as VIGIE_TURN_SECRET.
    #[arg(long, env = "VIGIE_TURN_SECRET", hide_env_values = true)]
    pub turn_secret: Option<Secret>,
    /// Seconds for which a page's TURN credential opens new allocations.
    #[arg(long, env = "VIGIE_TURN_TTL_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(30..=86_400))]
    pub turn_ttl_seconds: u64,
    /// Bytes of the longest video that is taken in.
    #[arg(long, env = "VIGIE_MAX_UPLOAD_BYTES", default_value_t = 2 << 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_upload_bytes: u64,
    /// MiB of memory for pictures and videos on their way through; who finds none left is told to come back. A picture
    /// takes its size, a video 3 MiB, and 15 where the store is a bucket.
    #[arg(long, env = "VIGIE_UPLOAD_MEMORY", default_value_t = 512, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    pub upload_memory: u32,
    #[command(flatten)]
    pub guard: GuardArgs,
}

/// Where videos, their jobs and uploaded models are kept: the same for every front and worker of a service.
#[derive(Clone, Debug, Args)]
pub struct StoreArgs {
    /// Folder or bucket (s3://…, az://…, gs://…) of uploaded videos, their results, and uploaded models. Fronts and workers
    /// of their own must share it.
    #[arg(long, env = "VIGIE_STORE", default_value = ".vigie/data")]
    pub store: String,
    /// The NATS server whose JetStream hands video jobs to workers, such as nats://nats.example.org:4222; fronts and
    /// workers of their own annotate no videos without one.
    #[arg(long, env = "VIGIE_NATS_URL", hide_env_values = true)]
    pub nats_url: Option<String>,
    /// Hours after which an ended video job is deleted, with its video and its results.
    #[arg(long, env = "VIGIE_VIDEO_EXPIRY_HOURS", default_value_t = 24.0, value_parser = parse_hours)]
    pub video_expiry_hours: f64,
}

fn parse_hours(text: &str) -> Result<f64, &'static str> {
    match text.parse() {
        Ok(hours) if (0.0001..=87_600.0).contains(&hours) => Ok(hours),
        _ => Err("hours are a number from 0.0001 to 87600"),
    }
}

/// Where models are served openly.
#[derive(Clone, Copy, Debug)]
pub struct OipAddress(pub SocketAddr);

impl FromStr for OipAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text != "kserve" {
            return text.parse().map(Self).map_err(|error| format!("{error}, nor is it kserve"));
        }
        // KServe's contract with custom predictors.
        let port = match std::env::var("PORT") {
            Ok(port) => port.parse().map_err(|error| format!("PORT is {port:?}: {error}"))?,
            Err(_) => 8080,
        };
        Ok(Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)))
    }
}

/// A secret from the command line or the environment.
#[derive(Clone)]
pub struct Secret(pub String);

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn parse_turn_url(text: &str) -> Result<String, &'static str> {
    if text.starts_with("turn:") || text.starts_with("turns:") {
        Ok(text.to_owned())
    } else {
        Err("a TURN URL begins with turn: or turns:")
    }
}

#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// UDP addresses for media, comma-separated; 0.0.0.0:0 is any port on every interface but loopback.
    #[arg(long, env = "VIGIE_MEDIA", value_delimiter = ',', default_values = ["127.0.0.1:0", "0.0.0.0:0"])]
    pub media: Vec<SocketAddr>,
    /// Live sessions at a time; more are told to come back.
    #[arg(long, env = "VIGIE_MAX_SESSIONS", default_value_t = 16)]
    pub max_sessions: usize,
    /// Viewers of one session at a time, by WHEP; more are told to come back.
    #[arg(long, env = "VIGIE_MAX_VIEWERS", default_value_t = 8)]
    pub max_viewers: usize,
    /// Codec of the annotated track: the first that the browser takes.
    #[arg(long, env = "VIGIE_ANNOTATED_CODECS", value_enum, value_delimiter = ',', default_values = ["h264", "vp8"])]
    pub annotated_codecs: Vec<AnnotatedCodec>,
    /// Video jobs at a time; 0 to leave them to other workers.
    #[arg(long, env = "VIGIE_VIDEO_JOBS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=64))]
    pub video_jobs: u16,
    /// Bytes that the results of one video may have together, and so take of the disk while they are made; a video that makes more
    /// of them has failed.
    #[arg(long, env = "VIGIE_MAX_VIDEO_RESULT_BYTES", default_value_t = 2 << 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_video_result_bytes: u64,
    /// Seconds of CPU time that the trial of an uploaded model may take; ten times as many may pass.
    #[arg(long, env = "VIGIE_TRIAL_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub trial_seconds: u64,
    /// Megabytes that such a trial may take besides four times the file.
    #[arg(long, env = "VIGIE_TRIAL_MEMORY", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(256..=262_144))]
    pub trial_memory: u64,
    /// What decides, below that number, whether a session is taken.
    #[arg(long, env = "VIGIE_ADMIT", value_enum, default_value_t)]
    pub admit: Admit,
    /// Recognised frames a second that every session is to keep when many share the worker.
    #[arg(long, env = "VIGIE_MIN_RATE", default_value_t = 0.25, value_parser = parse_rate)]
    pub min_rate: f32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Admit {
    /// What is measured: sessions are refused while media falls behind, or recognition below its least rate.
    #[default]
    Headroom,
    /// The number of sessions alone.
    Count,
}

fn parse_rate(text: &str) -> Result<f32, &'static str> {
    let rate = text.parse().ok().filter(|rate| (0.0..=120.0).contains(rate));
    rate.ok_or("expected a number from 0 to 120")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AnnotatedCodec {
    H264,
    Vp8,
}

/// How a client gets into a running service.
#[cfg(feature = "media")]
#[derive(Clone, Debug, Args)]
pub struct AccessArgs {
    /// A bearer token, where the service wants one.
    #[arg(long, env = "VIGIE_TOKEN", hide_env_values = true)]
    pub token: Option<Secret>,
    /// PEM file of a certificate to trust besides the system's, such as a service's self-signed one.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Take any certificate: whoever answers is believed.
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
}

#[cfg(feature = "media")]
impl AccessArgs {
    /// Whose certificates are taken.
    pub fn trust(&self) -> Trust<'_> {
        match &self.ca {
            _ if self.insecure => Trust::Anybody,
            Some(file) => Trust::File(file),
            None => Trust::System,
        }
    }

    /// The service at `url`.
    pub async fn target(&self, url: &str) -> anyhow::Result<Target> {
        let token = self.token.as_ref().map(|token| token.0.as_str());
        Target::find(url, token, || tls::client(self.trust())).await
    }
}

#[derive(Clone, Debug, Args)]
pub struct InferenceArgs {
    /// Directory of the models.
    #[arg(long, env = "VIGIE_MODELS", default_value = ".vigie/models")]
    pub models: PathBuf,
    /// Models to use in place of the default ones, as NAME or NAME@VERSION; one for each task at most.
    #[arg(long = "model", env = "VIGIE_MODEL", value_delimiter = ',')]
    pub chosen: Vec<String>,
    /// What is done with things of a label, as LABEL=MODEL: a classifier that looks at them, or `text` to read what is
    /// written on them; `*=text` reads the whole picture. For each label as often as needed, comma-separated.
    #[arg(long = "cascade", env = "VIGIE_CASCADE", value_delimiter = ',')]
    pub cascades: Vec<String>,
    /// The ONNX Runtime library; without it the first libonnxruntime.so* in .vigie/onnxruntime.
    #[arg(long, env = "VIGIE_ORT_LIBRARY")]
    pub ort_library: Option<PathBuf>,
    /// Where inference runs: auto, cpu, cuda:N or tensorrt:N; several GPUs with commas between them.
    #[arg(long, env = "VIGIE_DEVICE", default_value = "auto")]
    pub device: String,
    /// What decodes live video: cpu, or nvdec:N for the decoder of a GPU, which gives the processor what it cannot decode.
    #[arg(long, env = "VIGIE_DECODE", default_value = "cpu")]
    pub decode: String,
    /// Directory in which TensorRT keeps the engines that it makes, which takes it minutes.
    #[arg(long, env = "VIGIE_ENGINE_CACHE", default_value = ".vigie/engines")]
    pub engine_cache: PathBuf,
    /// MiB of a GPU's memory that one model may take, on CUDA; what does not fit runs in smaller batches.
    #[arg(long, env = "VIGIE_GPU_MEMORY")]
    pub gpu_memory: Option<usize>,
    /// Engines that run side by side; without it, one a core, or two on a GPU.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_setting_of_a_service_is_also_an_environment_variable() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        let services: &[_] =
            if cfg!(feature = "media") { &["serve", "signal", "worker"] } else { &["signal"] };
        for name in services {
            let command = cli.find_subcommand(name).unwrap();
            for argument in command.get_arguments() {
                let Some(long) = argument.get_long().filter(|long| !["help", "version"].contains(long))
                else {
                    continue;
                };
                let expected = format!("VIGIE_{}", long.to_uppercase().replace('-', "_"));
                let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
                assert_eq!(variable, Some(expected), "vigie {name} --{long}");
            }
        }
    }

    #[test]
    fn secrets_are_not_in_what_is_printed_of_arguments() {
        let arguments =
            ["vigie", "signal", "--workers", "worker:8090", "--cluster-token", "hush-hush-hush-hush"];
        let cli = Cli::try_parse_from(arguments).unwrap();
        assert!(!format!("{cli:?}").contains("hush"));
    }
}
