//! OTLP over HTTP, in JSON: one connection for each sending.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rocmforge_loader::config::TracingSettings;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::ServerError;

/// For the whole of one sending.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_REPLY: usize = 64 << 10;
const DEFAULT_PATH: &str = "/v1/traces";
/// Where systems keep the certificates that they trust.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where traces are sent.
pub(super) struct Collector {
    endpoint: String,
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why a sending was not taken.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer.
    Transport(String),
    /// An answer, but not the one hoped for.
    Refused { status: StatusCode, retry_after: Option<Duration> },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Transport(reason) => f.write_str(reason),
            Failure::Refused { status, .. } => write!(f, "the collector answered {status}"),
        }
    }
}

impl Failure {
    fn transport(error: impl fmt::Display) -> Failure {
        Failure::Transport(error.to_string())
    }

    /// Whether another attempt may go well, as the protocol has it.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Failure::Transport(_) => true,
            Failure::Refused { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Transport(_) => None,
            Failure::Refused { retry_after, .. } => *retry_after,
        }
    }
}

impl Collector {
    /// The one that the settings name.
    ///
    /// # Errors
    /// What cannot be used.
    pub(super) fn of(settings: &TracingSettings) -> Result<Option<Collector>, ServerError> {
        if let Some(ratio) = settings.sample_ratio.filter(|r| !(0.0..=1.0).contains(r)) {
            return Err(wrong("tracing.sample_ratio", "0 to 1", &ratio));
        }
        let Some(endpoint) = settings.otlp_endpoint.as_deref().map(str::trim).filter(|e| !e.is_empty()) else {
            return Ok(None);
        };
        let unusable = || wrong("tracing.otlp_endpoint", "a URL such as http://127.0.0.1:4318", &endpoint);
        let uri: Uri = endpoint.parse().map_err(|_| unusable())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(unusable()),
        };
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(unusable)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let path = if path == "/" { DEFAULT_PATH } else { path }.to_owned();
        let tls = match secure {
            true => {
                let name = ServerName::try_from(host.clone()).map_err(|_| unusable())?;
                Some((connector(settings.otlp_certificate.as_deref())?, name))
            }
            false => None,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.otlp_headers {
            // Values may be secrets.
            let unusable = || wrong("tracing.otlp_headers", "names and values of HTTP headers", name);
            let name: HeaderName = name.parse().map_err(|_| unusable())?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| unusable())?);
        }
        let authority = uri.authority().map_or("", |a| a.as_str());
        headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(|_| unusable())?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let agent = concat!("rocmforge/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        Ok(Some(Collector { endpoint: endpoint.to_owned(), host, port, path, headers, tls }))
    }

    /// For the log.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends a body once. The number of spans that were refused although the sending was taken.
    pub(super) async fn post(&self, body: Bytes) -> Result<u64, Failure> {
        let exchange = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(Failure::transport)?;
            match &self.tls {
                None => self.exchange(stream, body).await,
                Some((tls, name)) => {
                    let stream = tls.connect(name.clone(), stream).await.map_err(Failure::transport)?;
                    self.exchange(stream, body).await
                }
            }
        };
        let late = |_| Failure::Transport(format!("no answer within {} s", TIMEOUT.as_secs()));
        timeout(TIMEOUT, exchange).await.map_err(late)?
    }

    async fn exchange<S>(&self, stream: S, body: Bytes) -> Result<u64, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Failure::transport)?;
        // Ends with the set.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let request = Request::builder().method(Method::POST).uri(&self.path).body(Body::from(body));
        let mut request = request.map_err(Failure::transport)?;
        *request.headers_mut() = self.headers.clone();
        let response = sender.send_request(request).await.map_err(Failure::transport)?;
        let status = response.status();
        if !status.is_success() {
            let seconds = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
            return Err(Failure::Refused { status, retry_after: seconds.map(Duration::from_secs) });
        }
        // What was taken was taken, whatever is said of it.
        let reply = to_bytes(Body::new(response.into_body()), MAX_REPLY).await.unwrap_or_default();
        Ok(rejected(&reply))
    }
}

/// `partialSuccess.rejectedSpans` of a reply: a number, or the text of one.
fn rejected(reply: &[u8]) -> u64 {
    let reply: Value = serde_json::from_slice(reply).unwrap_or_default();
    let spans = &reply["partialSuccess"]["rejectedSpans"];
    spans.as_u64().or_else(|| spans.as_str()?.parse().ok()).unwrap_or(0)
}

/// Trusts the certificates of a file, else those of the system.
fn connector(file: Option<&Path>) -> Result<TlsConnector, ServerError> {
    let unusable =
        |found: &dyn fmt::Display| wrong("tracing.otlp_certificate", "a file with certificates in PEM", found);
    let system = || SYSTEM_CERTIFICATES.iter().map(PathBuf::from).find(|f| f.is_file());
    let file = file.map(Path::to_owned).or_else(system).ok_or_else(|| unusable(&"none, and none of the system"))?;
    let shown = file.display();
    let certificates = CertificateDer::pem_file_iter(&file).map_err(|e| unusable(&format!("{shown}: {e}")))?;
    let mut roots = RootCertStore::empty();
    // Systems have old certificates that are not understood; the others count.
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(unusable(&format!("{shown}: it holds none")));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| unusable(&e))?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn wrong(key: &'static str, expected: &'static str, found: &dyn fmt::Display) -> ServerError {
    ServerError::Setting { key, expected, found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(endpoint: &str) -> Result<Option<Collector>, ServerError> {
        let settings = TracingSettings { otlp_endpoint: Some(endpoint.into()), ..TracingSettings::default() };
        Collector::of(&settings)
    }

    #[test]
    fn an_endpoint_is_a_url_of_http() {
        let check = |endpoint: &str, host: &str, port: u16, path: &str| {
            let found = collector(endpoint).expect(endpoint).expect("a collector");
            assert_eq!((found.host.as_str(), found.port, found.path.as_str()), (host, port, path), "{endpoint}");
        };
        check("http://127.0.0.1:4318", "127.0.0.1", 4318, "/v1/traces");
        check("http://collector:4318/", "collector", 4318, "/v1/traces");
        check("http://collector/otlp/v1/traces?a=b", "collector", 80, "/otlp/v1/traces?a=b");
        check("http://[::1]:4318", "::1", 4318, "/v1/traces");
        for endpoint in ["collector:4318", "grpc://collector:4317", "http://", "4318", "/v1/traces"] {
            let error = collector(endpoint).err().map(|e| e.to_string()).expect(endpoint);
            assert!(error.contains("tracing.otlp_endpoint") && error.contains(endpoint), "{error}");
        }
        assert!(collector("").is_ok_and(|c| c.is_none()));
    }

    #[test]
    fn a_collector_may_refuse_a_part() {
        let check = |reply: &str, expected: u64| assert_eq!(rejected(reply.as_bytes()), expected, "{reply}");
        check("{}", 0);
        check("", 0);
        check(r#"{"partialSuccess":{}}"#, 0);
        check(r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#, 3);
        check(r#"{"partialSuccess":{"rejectedSpans":4}}"#, 4);
    }
}
