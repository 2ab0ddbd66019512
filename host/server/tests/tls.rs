//! TLS, and what a server does that cannot have it.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::Server;
use rocmforge_loader::config::ServerSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn settings(certificate: Option<&str>, key: Option<&str>) -> ServerSettings {
    ServerSettings { tls_certificate: certificate.map(fixture), tls_key: key.map(fixture), ..Default::default() }
}

/// A client that trusts the fixture and nothing else.
fn connector() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(fixture("localhost.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[tokio::test]
async fn a_server_with_a_certificate_speaks_tls_only() {
    let server =
        Server::start(settings(Some("localhost.pem"), Some("localhost.key.pem")), Duration::from_secs(5)).await;
    let stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector().connect(name, stream).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    let mut plain = server.open(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let mut bytes = Vec::new();
    // The connection may also be reset, which is an answer too.
    let _ = plain.read_to_end(&mut bytes).await;
    assert!(!bytes.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&bytes));
    // A client that does not go on with the handshake holds up neither others nor the end.
    let idle = server.open(b"\x16\x03\x01").await;
    server.stopped().await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_leaves_nothing_open() {
    let check = async |certificate: Option<&str>, key: Option<&str>, parts: &[&str]| {
        let server = Server::start(settings(certificate, key), Duration::from_secs(5)).await;
        let error = server.stopped().await.expect_err("a setting that cannot be used").to_string();
        for part in parts {
            assert!(error.contains(part), "expected {part:?} in {error:?}");
        }
    };
    let (certificate, key) = (Some("localhost.pem"), Some("localhost.key.pem"));
    check(certificate, None, &["tls_key", "tls_certificate"]).await;
    check(None, key, &["tls_certificate", "tls_key"]).await;
    check(Some("none.pem"), key, &["tls_certificate", "none.pem"]).await;
    check(certificate, Some("none.pem"), &["tls_key", "none.pem"]).await;
    check(key, key, &["tls_certificate", "localhost.key.pem"]).await;
    check(certificate, certificate, &["tls_key", "localhost.pem"]).await;
}
