//! Names of traces and spans, and what callers say of the trace that their request belongs to (W3C Trace Context).

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::HeaderMap;

/// Longest `tracestate` that is passed on, as of the specification.
const MAX_STATE: usize = 512;

/// Names a trace; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(pub(crate) u128);

/// Names a span; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanId(pub(crate) u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TraceId {
    pub(crate) fn new() -> TraceId {
        TraceId((u128::from(number()) << 64) | u128::from(number()))
    }

    /// Whether a trace that nobody has decided about belongs to the part of `ratio`. Everyone who sees the trace and
    /// decides in this way decides alike.
    pub(crate) fn is_within(self, ratio: f64) -> bool {
        // The lower 56 bits are the random ones.
        let random = (self.0 & ((1 << 56) - 1)) as f64 / (1u64 << 56) as f64;
        random < ratio
    }
}

impl SpanId {
    pub(crate) fn new() -> SpanId {
        SpanId(number())
    }
}

/// Random, and not 0.
fn number() -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    KEYS.hash_one(NEXT.fetch_add(1, Ordering::Relaxed)).max(1)
}

/// The caller's span, which the request's spans belong under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    pub(crate) sampled: bool,
    /// What others on the way have said, passed on as it is.
    pub(crate) state: String,
}

impl Parent {
    /// From the headers `traceparent` and `tracestate`; `None` where there is none, or none that can be used.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Parent> {
        let mut values = headers.get_all("traceparent").iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (trace, span, sampled) = parse(value.to_str().ok()?.trim())?;
        let states: Vec<&str> = headers.get_all("tracestate").iter().filter_map(|v| v.to_str().ok()).collect();
        let state = Some(states.join(",")).filter(|s| s.len() <= MAX_STATE).unwrap_or_default();
        Some(Parent { trace, span, sampled, state })
    }
}

/// `version-trace-span-flags`, in lower case; later versions may have more behind it.
fn parse(value: &str) -> Option<(TraceId, SpanId, bool)> {
    let lower = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut fields = value.split('-');
    let mut field = |length: usize| fields.next().filter(|f| f.len() == length && lower(f));
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    if version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|&t| t != 0)?;
    let span = u64::from_str_radix(span, 16).ok().filter(|&s| s != 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((TraceId(trace), SpanId(span), flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_say_which_trace_a_request_belongs_to() {
        let trace = TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        let span = SpanId(0x00f0_67aa_0ba9_02b7);
        let check = |value: &str, expected: Option<bool>| {
            let found = parse(value);
            assert_eq!(found, expected.map(|sampled| (trace, span, sampled)), "{value}");
        };
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(true));
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some(false));
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", Some(true));
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes", Some(true));
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", None);
        check("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        check("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", None);
        check("00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        check("", None);
    }

    #[test]
    fn a_part_of_the_traces_is_taken() {
        let taken = (0..4000).filter(|_| TraceId::new().is_within(0.25)).count();
        assert!((800..1200).contains(&taken), "{taken}");
        assert!(TraceId::new().is_within(1.0) && !TraceId::new().is_within(0.0));
    }
}
