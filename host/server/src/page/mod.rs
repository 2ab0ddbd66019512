//! The page at `/`: a chat and a view of the server's status, in one file that needs nothing from elsewhere.

use std::sync::LazyLock;

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::base64;

const PAGE: &str = include_str!("index.html");

/// Nothing runs and nothing is loaded but what this file has; it talks to this server only.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = |tag: &str| base64::encode(&Sha256::digest(element(tag)));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        digest("script"),
        digest("style")
    )
});

/// What the page has between `<tag>` and `</tag>`.
fn element(tag: &str) -> &'static str {
    let inner = PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
    inner.map_or("", |(inner, _)| inner)
}

/// Whether a browser asks for a page, and no program for data.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    accepted
        .flat_map(|list| list.split(','))
        .any(|kind| kind.split(';').next().is_some_and(|k| k.trim() == "text/html"))
}

pub(crate) fn response() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_loads_nothing() {
        for tag in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1, "{tag}");
            assert!(element(tag).len() > 1000, "{tag}");
        }
        for outside in ["http://", "https://", "src=", "@import", "url(", "innerHTML", "eval(", " style=", " onclick="]
        {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        // Small enough to be read.
        assert!(PAGE.len() < 48 << 10, "{} bytes", PAGE.len());
    }

    #[test]
    fn browsers_get_the_page_and_programs_do_not() {
        let check = |accept: &[&str], expected: bool| {
            let headers = accept.iter().map(|v| (header::ACCEPT, v.parse().expect("a header value"))).collect();
            assert_eq!(is_wanted(&headers), expected, "{accept:?}");
        };
        check(&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], true);
        check(&["application/json", "text/html;q=0.5"], true);
        check(&["*/*"], false);
        check(&["application/json"], false);
        check(&[], false);
    }
}
