//! API keys: who may use a server that has some.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rocmforge_loader::config::ServerSettings;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::{ApiError, ServerError};
use crate::page;

const VARIABLE: &str = "ROCMFORGE_API_KEYS";
const HASHED: &str = "sha256:";
const PLAIN: &str = "plain:";
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// What an orchestrator asks, which has no key.
const OPEN: &[&str] = &["/health", "/ready"];

/// SHA-256 of the keys that are accepted. Keys themselves are not kept.
pub(crate) struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    /// The keys of the file in the settings and of the environment; `None` without either.
    ///
    /// # Errors
    /// A source that is named but holds no key, or something that is none: such a server must not be open to all.
    pub(crate) fn of(settings: &ServerSettings) -> Result<Option<ApiKeys>, ServerError> {
        let mut keys = Vec::new();
        if let Some(file) = &settings.api_keys_file {
            let origin = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|e| wrong(&origin, format!("cannot be read: {e}")))?;
            keys.extend(from_file(&text, &origin)?);
        }
        if let Some(value) = std::env::var_os(VARIABLE) {
            let text = value.into_string().map_err(|_| wrong(VARIABLE, "expected UTF-8, found other bytes"))?;
            keys.extend(from_environment(&text)?);
        }
        Ok((!keys.is_empty()).then_some(ApiKeys(keys)))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes the same time whichever key is given, and however much of it is right.
    fn contains(&self, key: &[u8]) -> bool {
        let digest = digest(key);
        let equal = |all: Choice, known: &[u8; 32]| all | known.ct_eq(&digest);
        self.0.iter().fold(Choice::from(0), equal).into()
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|v| bearer(v.as_bytes()));
        let own = headers.get_all(X_API_KEY).iter().map(|v| v.as_bytes().trim_ascii());
        let mut given = bearer.chain(own).peekable();
        if given.peek().is_none() {
            return Err(ApiError::NoKey);
        }
        if given.any(|key| self.contains(key)) { Ok(()) } else { Err(ApiError::WrongKey) }
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The key in `Bearer KEY`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let at = value.iter().position(|&b| b == b' ')?;
    let (scheme, key) = value.split_at(at);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| key.trim_ascii())
}

fn wrong(origin: impl Into<String>, message: impl Into<String>) -> ServerError {
    ServerError::Keys { origin: origin.into(), message: message.into() }
}

/// One key per line, in either form; empty lines and lines that begin with `#` are comments.
fn from_file(text: &str, origin: &str) -> Result<Vec<[u8; 32]>, ServerError> {
    let lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim()));
    let lines = lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    let key = |(number, line): (usize, &str)| {
        // The line may be a key, which the log must not show.
        let message = "expected `sha256:` and 64 hexadecimal digits, or `plain:` and a key; found something else";
        marked(line).ok_or_else(|| wrong(format!("{origin}:{number}"), message))
    };
    let keys = lines.map(key).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err(wrong(origin, "expected at least 1 key, found none; remove `api_keys_file` to serve without keys"));
    }
    Ok(keys)
}

/// Keys with commas in between. One without a mark is a plain key.
fn from_environment(text: &str) -> Result<Vec<[u8; 32]>, ServerError> {
    let key = |item: &str| match marked(item) {
        Some(digest) => Ok(digest),
        None if item.starts_with(HASHED) || item == PLAIN => {
            Err(wrong(VARIABLE, "expected 64 hexadecimal digits after `sha256:` or a key after `plain:`"))
        }
        None => Ok(digest(item.as_bytes())),
    };
    let items = text.split(',').map(str::trim).filter(|i| !i.is_empty());
    let keys = items.map(key).collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err(wrong(VARIABLE, "expected at least 1 key, found none; unset it to serve without keys"));
    }
    Ok(keys)
}

/// The digest of a key that says which form it has.
fn marked(text: &str) -> Option<[u8; 32]> {
    match text.strip_prefix(HASHED) {
        Some(hex) => from_hex(hex.trim()),
        None => text.strip_prefix(PLAIN).map(str::trim).filter(|k| !k.is_empty()).map(|k| digest(k.as_bytes())),
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

/// Refuses requests without a key, except those to the open routes.
pub(crate) async fn authenticate(State(keys): State<Arc<ApiKeys>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // A browser cannot send a key before the page that asks for it is there; the page itself tells nothing.
    let page = route == Some("/") && request.method() == Method::GET && page::is_wanted(request.headers());
    let open = page || route.is_some_and(|route| OPEN.contains(&route));
    if open {
        return next.run(request).await;
    }
    match keys.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `abc`, from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn keys_are_read_in_both_forms() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let expected = expected.map(|keys| keys.iter().map(|k| digest(k.as_bytes())).collect::<Vec<_>>());
            assert_eq!(from_file(text, "keys").ok(), expected, "{text:?}");
        };
        check("plain:abc\n", Some(&["abc"]));
        check(&format!("sha256:{ABC}"), Some(&["abc"]));
        check(&format!("# team a\n\n  sha256: {}  \r\nplain: x y \n", ABC.to_uppercase()), Some(&["abc", "x y"]));
        for wrong in ["", "# none\n", "abc", "plain:", "plain:  ", "sha256:", "sha256:abc", "md5:abc", "plain:a\nb"] {
            check(wrong, None);
        }
        check(&format!("sha256:{ABC}0"), None);
        check(&format!("sha256:{ABC}00"), None);
        check(&format!("sha256:g{}", &ABC[1..]), None);
        check(&format!("sha256:é{}", &ABC[2..]), None);
    }

    #[test]
    fn a_wrong_line_is_named_and_not_shown() {
        let error = from_file("plain:a\n\nsecret", "keys.txt").expect_err("no mark").to_string();
        assert!(error.contains("keys.txt:3") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn the_environment_holds_a_list() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let expected = expected.map(|keys| keys.iter().map(|k| digest(k.as_bytes())).collect::<Vec<_>>());
            assert_eq!(from_environment(text).ok(), expected, "{text:?}");
        };
        check("abc", Some(&["abc"]));
        check(" a, b ,,plain:c", Some(&["a", "b", "c"]));
        check(&format!("sha256:{ABC},d"), Some(&["abc", "d"]));
        for wrong in ["", " , ", "sha256:abc", "plain:"] {
            check(wrong, None);
        }
    }

    #[test]
    fn keys_are_found_in_both_headers() {
        let keys = ApiKeys(vec![digest(b"one"), digest(b"two")]);
        let check = |headers: &[(&'static str, &str)], expected: Result<(), ApiError>| {
            let header = |(name, value): &(&'static str, &str)| {
                (HeaderName::from_static(name), value.parse().expect("a header value"))
            };
            let map: HeaderMap = headers.iter().map(header).collect();
            assert_eq!(keys.check(&map), expected, "{headers:?}");
        };
        check(&[], Err(ApiError::NoKey));
        check(&[("authorization", "Bearer one")], Ok(()));
        check(&[("authorization", "bearer  two ")], Ok(()));
        check(&[("x-api-key", "two")], Ok(()));
        check(&[("authorization", "Bearer none"), ("x-api-key", "one")], Ok(()));
        check(&[("authorization", "Bearer on")], Err(ApiError::WrongKey));
        check(&[("authorization", "Bearer onee")], Err(ApiError::WrongKey));
        check(&[("authorization", "Bearer ")], Err(ApiError::WrongKey));
        check(&[("x-api-key", "")], Err(ApiError::WrongKey));
        check(&[("authorization", "Basic one")], Err(ApiError::NoKey));
        check(&[("authorization", "one")], Err(ApiError::NoKey));
    }
}
