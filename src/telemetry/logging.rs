//! Structured logs on standard error. No frames, faces, SDP or tokens are ever logged.

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// What is logged without `--log`: ours in full, the WebRTC stack only where something is wrong.
const DEFAULT_FILTER: &str = "info,webrtc=error,rtc=error,rtc_ice=off,rtc_dtls=error,rtc_sctp=off,\
     rtc_interceptor=error,ort=warn";

/// Starts logging; `filter` has the syntax of `RUST_LOG` and replaces the default.
///
/// # Errors
/// When `filter` cannot be parsed or logging was started already.
pub fn start(filter: Option<&str>, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(filter.unwrap_or(DEFAULT_FILTER))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!(error))
}
