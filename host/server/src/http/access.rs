//! Who may call: hosts, origins, sizes of headers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rocmforge_loader::config::ServerSettings;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::error::{ApiError, ServerError};

/// Most bytes of headers. A line that is longer than the connection's buffer never gets here.
pub(crate) const MAX_HEADERS: usize = 32 << 10;
/// Most lines of headers.
pub(crate) const MAX_HEADER_LINES: usize = 100;

/// The rules, as the settings and the address give them.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// `None`: any host.
    hosts: Option<Vec<String>>,
    origins: Vec<String>,
}

impl Access {
    pub(crate) fn new(settings: &ServerSettings, address: SocketAddr) -> Access {
        let beyond = settings.allowed_hosts.is_empty() && !address.ip().to_canonical().is_loopback();
        let any = beyond || settings.allowed_hosts.iter().any(|h| h == "*");
        let hosts = settings.allowed_hosts.iter().map(|h| h.trim_end_matches('.').to_ascii_lowercase()).collect();
        let origins = settings.cors_origins.iter().map(|o| o.trim_end_matches('/').to_ascii_lowercase()).collect();
        Access { hosts: (!any).then_some(hosts), origins }
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if size > MAX_HEADERS {
            return Err(ApiError::HeadersTooLarge { limit: MAX_HEADERS, lines: MAX_HEADER_LINES });
        }
        let text = |h: &HeaderValue| String::from_utf8_lossy(h.as_bytes()).into_owned();
        let named = uri.authority().map(|authority| authority.as_str().to_string());
        // Of several, a proxy in front may have looked at any one.
        let hosts: Vec<String> = named.into_iter().chain(headers.get_all(header::HOST).iter().map(text)).collect();
        // A browser always names a host; what does not cannot have been led here by a name of its own.
        if let Some(host) = hosts.iter().find(|host| !self.host_allowed(host)) {
            return Err(ApiError::Host(host.clone()));
        }
        let host = hosts.first();
        match headers.get(header::ORIGIN).map(|o| String::from_utf8_lossy(o.as_bytes())) {
            Some(origin) if !self.origin_allowed(&origin, host.map(String::as_str)) => {
                Err(ApiError::Origin(origin.into()))
            }
            _ => Ok(()),
        }
    }

    fn host_allowed(&self, host: &str) -> bool {
        let Some(allowed) = &self.hosts else { return true };
        let host = host.to_ascii_lowercase();
        let name = without_port(&host);
        is_loopback(name) || allowed.iter().any(|a| *a == host || a == name)
    }

    /// A page may call the server that it came from, and others as configured.
    fn origin_allowed(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin.to_ascii_lowercase();
        let own = || origin.split_once("://").is_some_and(|(_, at)| host.is_some_and(|h| h.eq_ignore_ascii_case(at)));
        self.origins.iter().any(|o| o == "*" || *o == origin) || own()
    }
}

/// `[::1]:80` → `::1`, `localhost.:80` → `localhost`.
fn without_port(host: &str) -> &str {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.trim_end_matches('.')
}

fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Refuses what the rules do not allow.
pub(crate) async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match access.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Headers by which pages of the configured origins may read answers; `None` without such origins.
pub(crate) fn cors(settings: &ServerSettings) -> Result<Option<CorsLayer>, ServerError> {
    let origins = &settings.cors_origins;
    if origins.is_empty() {
        return Ok(None);
    }
    let parse = |origin: &String| {
        let value = HeaderValue::from_str(origin.trim_end_matches('/')).ok().filter(|_| origin.contains("://"));
        value.ok_or_else(|| ServerError::Setting {
            key: "cors_origins",
            expected: "an origin such as https://example.org, or *",
            found: origin.clone(),
        })
    };
    let allow = match origins.iter().any(|o| o == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().map(parse).collect::<Result<Vec<_>, _>>()?),
    };
    let exposed = [HeaderName::from_static("x-request-id"), header::RETRY_AFTER];
    let layer = CorsLayer::new().allow_origin(allow).allow_methods([Method::GET, Method::POST]);
    Ok(Some(layer.allow_headers(AllowHeaders::mirror_request()).expose_headers(exposed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(hosts: &[&str], origins: &[&str], address: &str) -> Access {
        let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        let settings =
            ServerSettings { allowed_hosts: own(hosts), cors_origins: own(origins), ..ServerSettings::default() };
        Access::new(&settings, address.parse().expect("an address"))
    }

    #[test]
    fn names_that_were_rebound_to_the_loopback_address_are_refused() {
        let check = |hosts: &[&str], address: &str, host: &str, ok: bool| {
            assert_eq!(access(hosts, &[], address).host_allowed(host), ok, "{hosts:?} {address} {host}");
        };
        for host in ["localhost", "LocalHost:8080", "localhost.", "127.0.0.1:1", "127.1.2.3", "[::1]", "[::1]:8080"] {
            check(&[], "127.0.0.1:8080", host, true);
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::2]:80", "10.0.0.1"] {
            check(&[], "127.0.0.1:8080", host, false);
            check(&[], "[::1]:8080", host, false);
            check(&[], "0.0.0.0:8080", host, true);
            check(&["api.example"], "0.0.0.0:8080", host, false);
        }
        check(&["*"], "127.0.0.1:8080", "evil.example", true);
        check(&["API.example"], "127.0.0.1:8080", "api.example:443", true);
        check(&["api.example:8080"], "127.0.0.1:8080", "api.example:8080", true);
        check(&["api.example:8080"], "127.0.0.1:8080", "api.example:9090", false);
    }

    #[test]
    fn pages_of_other_origins_are_refused_unless_configured() {
        let check = |origins: &[&str], origin: &str, host: &str, ok: bool| {
            let access = access(&[], origins, "127.0.0.1:8080");
            assert_eq!(access.origin_allowed(origin, Some(host)), ok, "{origins:?} {origin} {host}");
        };
        check(&[], "http://localhost:8080", "localhost:8080", true);
        check(&[], "https://Api.Example", "api.example", true);
        check(&[], "http://localhost:3000", "localhost:8080", false);
        check(&[], "https://evil.example", "localhost:8080", false);
        check(&[], "null", "localhost:8080", false);
        check(&["https://app.example/"], "https://app.example", "localhost:8080", true);
        check(&["https://app.example"], "http://app.example", "localhost:8080", false);
        check(&["*"], "null", "localhost:8080", true);
    }
}
