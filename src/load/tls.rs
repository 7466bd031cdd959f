//! Whose certificates a client takes.

use std::path::Path;
use std::sync::Arc;

pub use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Which certificates are good.
#[derive(Clone, Copy, Debug, Default)]
pub enum Trust<'a> {
    /// Those that the system trusts.
    #[default]
    System,
    /// Those and what this PEM file signed, or is.
    File(&'a Path),
    /// Any: the peer may be anybody.
    Anybody,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} holds no certificate that can be read: {reason}")]
    Unreadable { path: String, reason: String },
    #[error("TLS could not be set up")]
    Setup(#[from] Error),
}

/// A client's side of TLS 1.2 or 1.3.
pub fn client(trust: Trust<'_>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match trust {
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
        Trust::System | Trust::File(_) => builder.with_root_certificates(roots(trust)?),
    };
    Ok(Arc::new(config.with_no_client_auth()))
}

fn roots(trust: Trust<'_>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // A machine may have no store, or some in it that are not understood.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Trust::File(path) = trust {
        let unreadable = |reason: String| TlsError::Unreadable { path: path.display().to_string(), reason };
        let found = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
        let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(error.to_string()))?;
        if found.is_empty() {
            return Err(unreadable("it has no certificate".into()));
        }
        for certificate in found {
            roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
        }
    }
    Ok(roots)
}

/// Takes any certificate whose key the peer has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
