//! TLS, where the settings have a certificate.

use std::path::Path;
use std::sync::Arc;

use rocmforge_loader::config::ServerSettings;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::error::ServerError;

/// What turns connections into TLS connections; `None` without a certificate.
///
/// # Errors
/// A file that cannot be read or holds something else, a key that is not the certificate's, or one file without the
/// other: such a server must not speak plain HTTP.
pub(crate) fn acceptor(settings: &ServerSettings) -> Result<Option<TlsAcceptor>, ServerError> {
    let (certificate, key) = match (&settings.tls_certificate, &settings.tls_key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return Err(missing("tls_key", "a file, because there is a tls_certificate")),
        (None, Some(_)) => return Err(missing("tls_certificate", "a file, because there is a tls_key")),
    };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| setting("tls_key", "a file with a private key in PEM", key, &e.to_string()))?;
    let refused = |e: rustls::Error| setting("tls_key", "the key of the tls_certificate", key, &e.to_string());
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(refused)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, private).map_err(refused)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let wrong = |reason: &str| setting("tls_certificate", "a file with certificates in PEM", file, reason);
    let chain = CertificateDer::pem_file_iter(file).map_err(|e| wrong(&e.to_string()))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(&e.to_string()))?;
    if chain.is_empty() { Err(wrong("it holds none")) } else { Ok(chain) }
}

fn missing(key: &'static str, expected: &'static str) -> ServerError {
    ServerError::Setting { key, expected, found: String::new() }
}

fn setting(key: &'static str, expected: &'static str, file: &Path, reason: &str) -> ServerError {
    ServerError::Setting { key, expected, found: format!("{}: {reason}", file.display()) }
}
