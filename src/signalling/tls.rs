//! The front's certificate: read from files that may be replaced under a running service, or made for a LAN.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error as RustlsError, ServerConfig};

/// How often the files are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// How long a certificate that is made here holds: the longest that browsers take (CA/Browser Forum, SC-081).
const VALIDITY: Duration = Duration::from_secs(199 * DAY_S);
/// It is replaced at a start when it has less than this left.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * DAY_S);
const DAY_S: u64 = 86_400;

/// Why there is no certificate to serve with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{} cannot be read as PEM", path.display())]
    Unreadable { path: PathBuf, source: PemError },
    #[error("{} holds no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} and {} do not belong together", certificate.display(), key.display())]
    Mismatch { certificate: PathBuf, key: PathBuf, source: RustlsError },
    #[error("the TLS settings are not possible")]
    Settings(#[from] RustlsError),
    #[error("making a certificate")]
    NotMade(#[from] rcgen::Error),
    #[error("{}", path.display())]
    NotWritten { path: PathBuf, source: io::Error },
}

/// The certificate that new connections are shown.
#[derive(Debug)]
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads PEM files: the certificate with its chain, and its private key.
    ///
    /// # Errors
    /// When they cannot be read or do not belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let current = RwLock::new(Arc::new(load(certificate, key, &provider)?));
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Arc::new(Self { certificate, key, provider, current }))
    }

    /// What turns a TCP connection into one over TLS 1.2 or 1.3.
    ///
    /// # Errors
    /// Never with the provider that is built in.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// SHA-256 of the certificate, as browsers show it.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.current().cert.first().map_or(&[][..], |certificate| certificate));
        let bytes: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        bytes.join(":")
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().expect("no code panics while it holds the certificate"))
    }

    /// Reads the files again whenever they change, and at SIGHUP. What cannot be used leaves the old one in use.
    ///
    /// # Errors
    /// When SIGHUP cannot be listened for.
    pub async fn watch(&self) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut seen = self.modified();
        loop {
            tokio::select! {
                _ = hangup.recv() => {}
                () = tokio::time::sleep(WATCH_INTERVAL) => {
                    let modified = self.modified();
                    if modified == seen {
                        continue;
                    }
                    seen = modified;
                }
            }
            match load(&self.certificate, &self.key, &self.provider) {
                Ok(loaded) => {
                    *self.current.write().expect("no code panics while it holds the certificate") =
                        Arc::new(loaded);
                    tracing::info!(fingerprint = self.fingerprint(), "another certificate is in use");
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the certificate stays as it was");
                }
            }
        }
    }

    fn modified(&self) -> [Option<SystemTime>; 2] {
        [&self.certificate, &self.key].map(|path| fs::metadata(path).and_then(|data| data.modified()).ok())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn load(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Unreadable { path, source }
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).map_err(unreadable(certificate))?.collect();
    let chain = chain.map_err(unreadable(certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: certificate.to_owned() });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|source| TlsError::Mismatch {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })
}

/// What a made certificate was made for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MadeFor {
    names: BTreeSet<String>,
    /// Seconds of Unix time.
    expires_s: u64,
}

/// A certificate for `names`, hosts and addresses, signed by nobody but itself; `folder` keeps it for the next start,
/// so that who has accepted it once need not again while the names stay.
///
/// # Errors
/// When it cannot be made or kept.
pub fn self_signed(
    folder: &Path,
    names: BTreeSet<String>,
    now: SystemTime,
) -> Result<Arc<Certificate>, TlsError> {
    let [certificate, key, made_for] =
        ["certificate.pem", "key.pem", "made-for.json"].map(|name| folder.join(name));
    let until =
        |after: Duration| (now + after).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept: Option<MadeFor> = fs::read(&made_for).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let is_good =
        kept.is_some_and(|kept| names.is_subset(&kept.names) && kept.expires_s > until(RENEW_BEFORE));
    if is_good && let Ok(kept) = Certificate::read(&certificate, &key) {
        return Ok(kept);
    }
    let pair = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "vigie on this network");
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Phones' clocks differ.
    parameters.not_before = (now - Duration::from_secs(DAY_S)).into();
    parameters.not_after = (now + VALIDITY).into();
    let made = parameters.self_signed(&pair)?;
    let record = serde_json::to_vec(&MadeFor { names, expires_s: until(VALIDITY) });
    write(folder, &key, pair.serialize_pem().as_bytes())?;
    write(folder, &certificate, made.pem().as_bytes())?;
    write(folder, &made_for, &record.expect("names and a number are JSON"))?;
    Certificate::read(&certificate, &key)
}

/// Whole or not at all, and for this user's eyes only.
fn write(folder: &Path, path: &Path, content: &[u8]) -> Result<(), TlsError> {
    let writing = || {
        fs::create_dir_all(folder)?;
        // Made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    writing().map_err(|source: io::Error| TlsError::NotWritten { path: path.to_owned(), source })
}

/// What this machine is called by itself and its neighbours: its addresses, its name, and that over mDNS.
pub fn own_names() -> BTreeSet<String> {
    let mut names: BTreeSet<String> =
        [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].map(|ip| ip.to_string()).into();
    names.insert("localhost".into());
    let uname = rustix::system::uname();
    if let Ok(host) = uname.nodename().to_str() {
        let host = host.to_ascii_lowercase();
        let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        if is_name && !host.is_empty() {
            names.extend([format!("{}.local", host.split('.').next().unwrap_or_default()), host]);
        }
    }
    names.extend(addresses().iter().map(ToString::to_string));
    names
}

/// The addresses under which neighbours reach this machine.
pub fn addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let is_stable = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => !ip.is_loopback(),
        // Link-local ones need a zone, which no certificate can name.
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    interfaces.into_iter().map(|interface| interface.ip()).filter(is_stable).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_made_certificate_is_kept_until_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("tls");
        let now = SystemTime::now();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let at_home = names(&["localhost", "192.168.1.2"]);
        let made = self_signed(&folder, names(&["localhost", "192.168.1.2", "10.0.0.2"]), now).unwrap();
        let mode = fs::metadata(folder.join("key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            self_signed(&folder, BTreeSet::clone(&at_home), now).unwrap().fingerprint(),
            made.fingerprint()
        );
        let later = now + VALIDITY - RENEW_BEFORE;
        assert_ne!(self_signed(&folder, at_home, later).unwrap().fingerprint(), made.fingerprint());
        let kept = self_signed(&folder, names(&["localhost"]), later).unwrap();
        let moved = self_signed(&folder, names(&["localhost", "192.168.9.9"]), later).unwrap();
        assert_ne!(moved.fingerprint(), kept.fingerprint(), "another address wants another certificate");
        assert!(made.acceptor().is_ok());
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &other] {
            self_signed(folder.path(), BTreeSet::from(["localhost".into()]), SystemTime::now()).unwrap();
        }
        let (certificate, key) = (one.path().join("certificate.pem"), other.path().join("key.pem"));
        assert!(matches!(Certificate::read(&certificate, &key), Err(TlsError::Mismatch { .. })));
        assert!(matches!(Certificate::read(&key, &key), Err(TlsError::NoCertificate { .. })));
        assert!(matches!(Certificate::read(&certificate, &certificate), Err(TlsError::Unreadable { .. })));
    }
}
