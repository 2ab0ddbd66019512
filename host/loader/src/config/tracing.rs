use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::Deserialize;

/// Traces of requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingSettings {
    /// How many traces of the latest requests the server remembers, for `GET /traces`.
    pub keep: usize,
    /// URL of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`; without a path, `/v1/traces` is
    /// meant. Absent: traces are not sent anywhere, unless OpenTelemetry's environment variables say so.
    pub otlp_endpoint: Option<String>,
    /// Headers that the collector wants.
    pub otlp_headers: BTreeMap<String, String>,
    /// File of certificates in PEM that a collector with TLS is checked against, relative to `plugins.toml`; absent:
    /// those of the system.
    pub otlp_certificate: Option<PathBuf>,
    /// What the server is called there; absent: `rocmforge`.
    pub service_name: Option<String>,
    /// What else is said of the server there.
    pub resource_attributes: BTreeMap<String, String>,
    /// Which part of the traces is sent, 0 to 1, of those that no caller has decided about; absent: all.
    pub sample_ratio: Option<f64>,
    /// Milliseconds between two sendings; absent: 5000.
    pub export_interval_ms: Option<NonZeroU64>,
}

impl Default for TracingSettings {
    fn default() -> Self {
        TracingSettings {
            keep: 128,
            otlp_endpoint: None,
            otlp_headers: BTreeMap::new(),
            otlp_certificate: None,
            service_name: None,
            resource_attributes: BTreeMap::new(),
            sample_ratio: None,
            export_interval_ms: None,
        }
    }
}

impl TracingSettings {
    /// The same, with what OpenTelemetry's environment variables say where the settings say nothing. `variable` gives
    /// the value of one; values that cannot be used are logged and ignored, as the specification has it.
    #[must_use]
    pub fn with_environment(mut self, variable: impl Fn(&str) -> Option<String>) -> TracingSettings {
        let variable = |name: &str| variable(name).filter(|v| !v.trim().is_empty());
        let base =
            variable("OTEL_EXPORTER_OTLP_ENDPOINT").map(|url| format!("{}/v1/traces", url.trim_end_matches('/')));
        let endpoint = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or(base);
        self.otlp_endpoint = self.otlp_endpoint.or(endpoint);
        let certificate = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
        self.otlp_certificate =
            self.otlp_certificate.or(certificate.iter().find_map(|n| variable(n)).map(PathBuf::from));
        for name in ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"] {
            add(&mut self.otlp_headers, name, &variable);
        }
        add(&mut self.resource_attributes, "OTEL_RESOURCE_ATTRIBUTES", &variable);
        let named = self.resource_attributes.remove("service.name");
        self.service_name = self.service_name.or(variable("OTEL_SERVICE_NAME")).or(named);
        self.sample_ratio = self.sample_ratio.or_else(|| sampler(&variable));
        let delay = variable("OTEL_BSP_SCHEDULE_DELAY").and_then(|v| parsed("OTEL_BSP_SCHEDULE_DELAY", &v));
        self.export_interval_ms = self.export_interval_ms.or(delay);
        let off = variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|v| v == "none");
        if off {
            self.otlp_endpoint = None;
        }
        self
    }
}

/// Adds the `key=value` pairs of a variable, as far as there is nothing under their keys.
fn add(to: &mut BTreeMap<String, String>, name: &str, variable: &impl Fn(&str) -> Option<String>) {
    for pair in variable(name).unwrap_or_default().split(',').filter(|p| !p.trim().is_empty()) {
        match pair.split_once('=') {
            Some((key, value)) => {
                to.entry(key.trim().to_owned()).or_insert_with(|| percent_decoded(value.trim()));
            }
            None => tracing::warn!("{name}: expected key=value, found an entry without `=`; it is left out"),
        }
    }
}

/// The part of traces that the sampler of the environment takes.
fn sampler(variable: &impl Fn(&str) -> Option<String>) -> Option<f64> {
    let name = variable("OTEL_TRACES_SAMPLER")?;
    match name.strip_prefix("parentbased_").unwrap_or(&name) {
        "always_on" => Some(1.0),
        "always_off" => Some(0.0),
        "traceidratio" => parsed("OTEL_TRACES_SAMPLER_ARG", &variable("OTEL_TRACES_SAMPLER_ARG")?),
        _ => {
            tracing::warn!("OTEL_TRACES_SAMPLER: `{name}` is not known here; all traces are sent");
            None
        }
    }
}

fn parsed<T: std::str::FromStr>(name: &str, value: &str) -> Option<T> {
    let parsed = value.trim().parse().ok();
    if parsed.is_none() {
        tracing::warn!("{name}: `{value}` cannot be used; it is left out");
    }
    parsed
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok()).filter(|_| first == b'%');
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: TracingSettings, variables: &[(&str, &str)]) -> TracingSettings {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        settings.with_environment(find)
    }

    #[test]
    fn the_environment_says_where_traces_go() {
        let check = |variables: &[(&str, &str)], expected: Option<&str>| {
            let found = with(TracingSettings::default(), variables).otlp_endpoint;
            assert_eq!(found.as_deref(), expected, "{variables:?}");
        };
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        check(&[], None);
        check(&[base], Some("http://collector:4318/v1/traces"));
        check(&[base, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other/x")], Some("http://other/x"));
        check(&[base, ("OTEL_SDK_DISABLED", "TRUE")], None);
        check(&[base, ("OTEL_TRACES_EXPORTER", "none")], None);
        check(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], None);
    }

    #[test]
    fn settings_win_over_the_environment() {
        let settings = TracingSettings {
            otlp_endpoint: Some("http://mine:4318".into()),
            otlp_headers: BTreeMap::from([("a".into(), "mine".into())]),
            service_name: Some("mine".into()),
            ..TracingSettings::default()
        };
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://theirs"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=theirs,b=two%20words,%,c"),
            ("OTEL_SERVICE_NAME", "theirs"),
        ];
        let found = with(settings, &variables);
        assert_eq!(found.otlp_endpoint.as_deref(), Some("http://mine:4318"));
        assert_eq!(found.service_name.as_deref(), Some("mine"));
        let headers: Vec<_> = found.otlp_headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(headers, [("a", "mine"), ("b", "two words")]);
    }

    #[test]
    fn the_service_has_a_name_and_a_sampler() {
        let resource = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=from-resource,deployment.environment.name=test");
        let named = with(TracingSettings::default(), &[resource]);
        assert_eq!(named.service_name.as_deref(), Some("from-resource"));
        assert_eq!(named.resource_attributes.len(), 1);
        let named = with(TracingSettings::default(), &[resource, ("OTEL_SERVICE_NAME", "from-name")]);
        assert_eq!(named.service_name.as_deref(), Some("from-name"));
        let check = |sampler, argument, expected| {
            let variables = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            assert_eq!(with(TracingSettings::default(), &variables).sample_ratio, expected, "{sampler}");
        };
        check("parentbased_always_off", "", Some(0.0));
        check("traceidratio", "0.25", Some(0.25));
        check("traceidratio", "a quarter", None);
        check("jaeger_remote", "", None);
    }
}
