use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// The members of a JSON object, taken out one by one. What is left at the end was not expected.
#[derive(Debug)]
pub(crate) struct Fields {
    members: Map<String, Value>,
    /// Path of the object, with a final dot; empty for the body itself.
    path: String,
    recorder: Option<Recorder>,
}

/// Notes which members of a body are asked for, and what they may be: so a description of a route says what its code
/// does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Map<String, Value>>>);

impl Recorder {
    /// The members by name, with their schemas; `{}` for those that take more than one simple form.
    pub(crate) fn members(&self) -> Map<String, Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, key: &str, schema: Value) {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is asked for without a type says nothing about it.
        let known = members.entry(key).or_insert_with(|| json!({}));
        if known.as_object().is_some_and(Map::is_empty) {
            *known = schema;
        }
    }
}

impl Fields {
    /// The members of a request body.
    pub(crate) fn parse(body: &[u8]) -> Result<Fields, ApiError> {
        let value = serde_json::from_slice(body).map_err(|e| ApiError::Json(e.to_string()))?;
        match value {
            Value::Object(members) => Ok(Fields { members, path: String::new(), recorder: None }),
            other => Err(ApiError::Json(format!("expected an object, found {}", describe(&other)))),
        }
    }

    /// Members of a body that is put together here.
    pub(crate) fn of_members(members: Map<String, Value>) -> Fields {
        Fields { members, path: String::new(), recorder: None }
    }

    /// Puts a member in.
    pub(crate) fn put(&mut self, key: &str, value: Value) {
        self.members.insert(key.into(), value);
    }

    /// The members of the value of a parameter.
    pub(crate) fn of(value: Value, path: &str) -> Result<Fields, ApiError> {
        match value {
            Value::Object(members) => Ok(Fields { members, path: format!("{path}."), recorder: None }),
            other => Err(ApiError::invalid(path, "an object", describe(&other))),
        }
    }

    /// The members of a body, with a note of which are asked for.
    pub(crate) fn recorded(body: Value) -> Result<(Fields, Recorder), ApiError> {
        let recorder = Recorder::default();
        let fields = Fields::of(body, "")?;
        Ok((Fields { path: String::new(), recorder: Some(recorder.clone()), ..fields }, recorder))
    }

    fn note(&self, key: &str, schema: Value) {
        if let Some(recorder) = &self.recorder {
            recorder.note(key, schema);
        }
    }

    /// The full name of a member.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// Whether a member is there, and not null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.note(key, json!({}));
        self.members.get(key).is_some_and(|v| !v.is_null())
    }

    /// Takes a member out.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.note(key, json!({}));
        self.members.remove(key).filter(|v| !v.is_null())
    }

    pub(crate) fn required(&mut self, key: &str) -> Result<Value, ApiError> {
        self.take(key).ok_or_else(|| ApiError::Missing(self.name(key)))
    }

    pub(crate) fn bool(&mut self, key: &str) -> Result<Option<bool>, ApiError> {
        self.note(key, json!({"type": ["boolean", "null"]}));
        let check =
            |v: Value| v.as_bool().ok_or_else(|| ApiError::invalid(self.path.clone() + key, "a boolean", describe(&v)));
        self.members.remove(key).filter(|v| !v.is_null()).map(check).transpose()
    }

    pub(crate) fn string(&mut self, key: &str) -> Result<Option<String>, ApiError> {
        self.note(key, json!({"type": ["string", "null"]}));
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(ApiError::invalid(self.name(key), "a string", describe(&other))),
        }
    }

    pub(crate) fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        self.note(key, json!({"type": ["number", "null"], "minimum": range.start(), "maximum": range.end()}));
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_f64().filter(|x| range.contains(x)) {
            Some(x) => Ok(Some(x as f32)),
            None => {
                let expected = format!("a number from {} to {}", range.start(), range.end());
                Err(ApiError::invalid(self.name(key), expected, describe(&value)))
            }
        }
    }

    pub(crate) fn integer(&mut self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let mut schema = json!({"type": ["integer", "null"], "minimum": range.start()});
        if *range.end() != i64::MAX {
            schema["maximum"] = (*range.end()).into();
        }
        self.note(key, schema);
        let Some(value) = self.take(key) else { return Ok(None) };
        match as_integer(&value).filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => {
                let expected = match *range.end() {
                    i64::MAX => format!("an integer of at least {}", range.start()),
                    end => format!("an integer from {} to {end}", range.start()),
                };
                Err(ApiError::invalid(self.name(key), expected, describe(&value)))
            }
        }
    }

    /// As [`integer`](Self::integer), for counts.
    pub(crate) fn count(&mut self, key: &str, range: RangeInclusive<u32>) -> Result<Option<usize>, ApiError> {
        let end = if *range.end() == u32::MAX { i64::MAX } else { i64::from(*range.end()) };
        let n = self.integer(key, i64::from(*range.start())..=end)?;
        Ok(n.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    /// What has not been taken out.
    pub(crate) fn rest(self) -> impl Iterator<Item = (String, String, Value)> {
        let Fields { members, path, .. } = self;
        members.into_iter().map(move |(key, value)| (format!("{path}{key}"), key, value))
    }
}

/// An integer, also in the form `5.0` that some clients write.
pub(crate) fn as_integer(value: &Value) -> Option<i64> {
    let whole = |x: &f64| x.fract() == 0.0 && x.abs() < 9e15;
    value.as_i64().or_else(|| value.as_f64().filter(whole).map(|x| x as i64))
}

/// A value for an error message: never the text of a prompt.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) if s.chars().count() <= 40 => format!("the string {s:?}"),
        Value::String(_) => "a string".into(),
        Value::Array(items) => format!("an array of {}", items.len()),
        Value::Object(_) => "an object".into(),
    }
}
