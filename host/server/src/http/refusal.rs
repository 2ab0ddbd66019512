//! What the HTTP library answers by itself, to requests that never get to a route, in the form of all other errors.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::access::{MAX_HEADER_LINES, MAX_HEADERS};
use super::observe::unique_id;
use crate::error::ApiError;

/// A connection on which every refusal has an error object.
pub(crate) struct Worded<S> {
    stream: S,
    /// What is written in place of bytes that were given, how much of it was, and the number of those bytes.
    own: Option<(Vec<u8>, usize, usize)>,
}

impl<S> Worded<S> {
    pub(crate) fn new(stream: S) -> Worded<S> {
        Worded { stream, own: None }
    }
}

/// What is to be written in place of an answer without a body. No route gives one with such a status.
fn in_words(answer: &[u8]) -> Option<Vec<u8>> {
    let (version, rest) = answer.split_at_checked(b"HTTP/1.1 ".len())?;
    let bare = version.starts_with(b"HTTP/1.") && answer.ends_with(b"\r\n\r\n");
    let error = match rest.get(..3)? {
        b"400" => ApiError::Http,
        b"414" => ApiError::UriTooLong,
        b"431" => ApiError::HeadersTooLarge { limit: MAX_HEADERS, lines: MAX_HEADER_LINES },
        _ => return None,
    };
    let empty = b"\r\ncontent-length: 0\r\n";
    if !bare || !answer.windows(empty.len()).any(|part| part.eq_ignore_ascii_case(empty)) {
        return None;
    }
    let (status, body, id): (StatusCode, _, _) = (error.status(), error.body().to_string(), unique_id("req_"));
    tracing::info!(id, status = status.as_u16(), error = error.code(), "request refused");
    let lines = [
        format!("HTTP/1.1 {status}"),
        "content-type: application/json".into(),
        format!("content-length: {}", body.len()),
        "connection: close".into(),
        "x-content-type-options: nosniff".into(),
        format!("x-request-id: {id}"),
    ];
    Some(format!("{}\r\n\r\n{body}", lines.join("\r\n")).into_bytes())
}

impl<S: AsyncRead + Unpin> AsyncRead for Worded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Worded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.own.is_none() {
            this.own = in_words(bytes).map(|own| (own, 0, bytes.len()));
        }
        let Some((own, written, instead_of)) = &mut this.own else {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        };
        while *written < own.len() {
            match ready!(Pin::new(&mut this.stream).poll_write(cx, &own[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => *written += n,
            }
        }
        let instead_of = *instead_of;
        this.own = None;
        Poll::Ready(Ok(instead_of))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn only_bare_refusals_are_put_into_words() {
        let check = |answer: &str, code: Option<&str>| {
            let worded = in_words(answer.as_bytes()).map(|bytes| String::from_utf8(bytes).expect("a text"));
            assert_eq!(worded.is_some(), code.is_some(), "{answer:?} {worded:?}");
            if let (Some(text), Some(code)) = (worded, code) {
                assert!(text.contains(&format!("\"code\":\"{code}\"")), "{text}");
            }
        };
        let bare =
            |status: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n");
        check(&bare("431 Request Header Fields Too Large"), Some("headers_too_large"));
        check(&bare("400 Bad Request"), Some("invalid_http"));
        check(&bare("414 URI Too Long"), Some("uri_too_long"));
        check(&bare("200 OK"), None);
        check(&bare("404 Not Found"), None);
        check("HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}", None);
        check("HTTP/1.1 400 Bad Request\r\ncontent-length: 20\r\n\r\n", None);
        check("data: HTTP/1.1 400\r\n\r\n", None);
        check("", None);
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_gets_every_byte() {
        let (mut client, server) = duplex(16);
        let bare = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let write = tokio::spawn(async move {
            let mut server = Worded::new(server);
            server.write_all(bare).await.expect("the client reads");
            server.write_all(b"more").await.expect("the client reads");
        });
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("a text");
        write.await.expect("no panic");
        assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n") && text.ends_with("}}more"), "{text}");
    }
}
