//! Settings of the front's door: tokens, certificate, limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::Args;
use ipnet::IpNet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::{FrontArgs, Secret};
use crate::signalling::auth::{Door, TokenKey};
use crate::signalling::limits::{LimitSettings, Limits};
use crate::signalling::server::ConnectionSettings;
use crate::signalling::tls::{self, Certificate};

/// File descriptors that are left to media, models and files.
const RESERVED_FILES: u64 = 256;

#[derive(Clone, Debug, Args)]
pub struct GuardArgs {
    /// Signs session tokens (see `vigie token`), at least 32 characters; better given as VIGIE_SESSION_SECRET.
    #[arg(long, env = "VIGIE_SESSION_SECRET", hide_env_values = true, requires = "admin_token")]
    pub session_secret: Option<Secret>,
    /// Lets admins in, at least 32 characters; better given as VIGIE_ADMIN_TOKEN.
    #[arg(long, env = "VIGIE_ADMIN_TOKEN", hide_env_values = true, requires = "session_secret")]
    pub admin_token: Option<Secret>,
    /// Let everybody read /metrics, which otherwise want the admin's token where there is one.
    #[arg(long, env = "VIGIE_OPEN_METRICS")]
    pub open_metrics: bool,
    /// Serve over TLS with this certificate and its chain (PEM); read again when it changes, and at SIGHUP.
    #[arg(long, env = "VIGIE_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, env = "VIGIE_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serve over TLS with a certificate made for this machine's names and addresses: browsers give cameras to
    /// pages over TLS only, and warn once that nobody has signed it.
    #[arg(long, env = "VIGIE_TLS_SELF_SIGNED", conflicts_with = "tls_cert")]
    pub tls_self_signed: bool,
    /// Where a certificate that was made is kept.
    #[arg(long, env = "VIGIE_TLS_FOLDER", default_value = ".vigie/tls")]
    pub tls_folder: PathBuf,
    /// Networks of proxies whose X-Forwarded-For says who asks, such as 10.0.0.0/8.
    #[arg(long, env = "VIGIE_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,
    /// Connections at a time, as far as the file descriptors go.
    #[arg(long, env = "VIGIE_MAX_CONNECTIONS", default_value_t = 4096)]
    pub max_connections: usize,
    /// Connections at a time from one address; 128 without it, and 1024 from this machine.
    #[arg(long, env = "VIGIE_MAX_CONNECTIONS_PER_ADDRESS")]
    pub max_connections_per_address: Option<usize>,
    /// Signalling sockets at a time from one address; 64 without it, and 1024 from this machine.
    #[arg(long, env = "VIGIE_MAX_SOCKETS_PER_ADDRESS")]
    pub max_sockets_per_address: Option<usize>,
    /// Multiplies what one address may ask for a second.
    #[arg(long, env = "VIGIE_RATE_FACTOR", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate_factor: u32,
}

/// Refuses to serve strangers by accident.
pub fn check_open(front: &FrontArgs) -> anyhow::Result<()> {
    if !front.listen.ip().is_loopback() && !front.insecure_open && front.guard.session_secret.is_none() {
        bail!(
            "{} can be reached by other machines, and anybody there could open sessions: \
             give VIGIE_SESSION_SECRET and VIGIE_ADMIN_TOKEN, listen on 127.0.0.1, or allow it with --insecure-open",
            front.listen
        );
    }
    door(front).map(drop)
}

/// Who may come in.
pub fn door(front: &FrontArgs) -> anyhow::Result<Door> {
    let guard = &front.guard;
    let (Some(session), Some(admin)) = (&guard.session_secret, &guard.admin_token) else {
        return Ok(Door::Open { is_loopback: front.listen.ip().is_loopback() });
    };
    if session.0.trim() == admin.0.trim() {
        bail!("the session secret and the admin's token are the same: whoever mints sessions would be admin");
    }
    let session = TokenKey::new(&session.0).context("--session-secret")?;
    let admin = TokenKey::new(&admin.0).context("--admin-token")?;
    Ok(Door::Keyed { session, admin })
}

pub fn limits(guard: &GuardArgs) -> Arc<Limits> {
    Arc::new(Limits::new(&LimitSettings {
        rate_factor: guard.rate_factor,
        sockets_per_address: guard.max_sockets_per_address,
        trusted_proxies: guard.trusted_proxies.clone(),
    }))
}

/// Takes as many file descriptors as the system gives, and leaves some to others.
pub fn connections(guard: &GuardArgs) -> ConnectionSettings {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        tracing::debug!("the limit of file descriptors stays as it is");
    }
    let files = getrlimit(Resource::Nofile).current.or(current).unwrap_or(u64::MAX);
    let room =
        usize::try_from(files.saturating_sub(RESERVED_FILES).max(RESERVED_FILES / 2)).unwrap_or(usize::MAX);
    if room < guard.max_connections {
        tracing::warn!(room, "fewer connections than wanted: file descriptors are short (ulimit -n)");
    }
    ConnectionSettings {
        total: guard.max_connections.min(room),
        per_address: guard.max_connections_per_address,
    }
}

/// The certificate to serve with, if any.
pub fn certificate(guard: &GuardArgs) -> anyhow::Result<Option<Arc<Certificate>>> {
    if let (Some(certificate), Some(key)) = (&guard.tls_cert, &guard.tls_key) {
        return Ok(Some(Certificate::read(certificate, key)?));
    }
    if !guard.tls_self_signed {
        return Ok(None);
    }
    let made = tls::self_signed(&guard.tls_folder, tls::own_names(), SystemTime::now())?;
    Ok(Some(made))
}

/// Tells people how to reach a service whose certificate nobody knows yet.
pub fn introduce(certificate: &Certificate, listening: SocketAddr) {
    tracing::info!(
        fingerprint = certificate.fingerprint(),
        "browsers will warn of this certificate: compare its SHA-256 fingerprint"
    );
    if listening.ip().is_unspecified() {
        for address in tls::addresses() {
            tracing::info!("open https://{}", SocketAddr::new(address, listening.port()));
        }
    }
}
