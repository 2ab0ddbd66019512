//! Python's methods and `strftime`, as far as templates use them and the engine lacks them.

use std::time::SystemTime;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter};

use super::json::python_float;

/// Writes a value as Python's `str` does; the engine already agrees for all but very small and very large floats.
pub(super) fn format(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.is_number() && !value.is_integer() {
        let number = f64::try_from(value.clone())?;
        if number.is_finite() {
            return output.write_str(&python_float(number)).map_err(Error::from);
        }
    }
    escape_formatter(output, state, value)
}

/// Whether Python could iterate over the value; templates ask this of absent tools, which are `None`.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Widest padding that a template may ask for; each is one allocation of that size.
const WIDTH: usize = 1000;

/// Refuses format strings such as `%4000000000d`.
fn check_widths(format: &str) -> Result<(), Error> {
    let too_wide = |digits: &str| digits.trim_start_matches('0').len() > 3;
    match format.split(|c: char| !c.is_ascii_digit()).find(|digits| too_wide(digits)) {
        Some(digits) => {
            let message = format!("a width in a format string: expected at most {WIDTH}, found {digits}");
            Err(Error::new(ErrorKind::InvalidOperation, message))
        }
        None => Ok(()),
    }
}

/// The filter `format`, with bounded widths.
pub(super) fn format_filter(state: &mut State, format: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    check_widths(format.as_str().unwrap_or_default())?;
    minijinja::filters::format(state, format, args)
}

/// The filter `indent(width=4, first=false, blank=false)` of Jinja, with a bounded width.
pub(super) fn indent_filter(
    text: &str,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let flag = |given: Option<bool>, name: &str| -> Result<bool, Error> {
        match given {
            Some(value) => Ok(value),
            None => Ok(kwargs.get::<Option<bool>>(name)?.unwrap_or(false)),
        }
    };
    let width = match width {
        Some(width) => width,
        None => kwargs.get::<Option<usize>>("width")?.unwrap_or(4),
    };
    let (first, blank) = (flag(first, "first")?, flag(blank, "blank")?);
    kwargs.assert_all_used()?;
    if width > WIDTH {
        let message = format!("indent: expected a width of at most {WIDTH}, found {width}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let pad = " ".repeat(width);
    let line = |(i, line): (usize, &str)| match (i == 0 && !first) || (line.is_empty() && !blank) {
        true => line.to_owned(),
        false => format!("{pad}{line}"),
    };
    Ok(text.split('\n').enumerate().map(line).collect::<Vec<_>>().join("\n"))
}

/// Methods of strings and lists beyond those of `minijinja_contrib::pycompat`.
pub(super) fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => string_method(text, method, args)?,
        (ValueKind::Seq, _) if method == "index" => Some(list_index(value, args)?),
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None if method == "format" => {
            check_widths(value.as_str().unwrap_or_default())?;
            minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
        }
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.split_once(separator).unwrap_or((text, ""));
            let found = if before.len() < text.len() { separator } else { "" };
            [before, found, after].into_iter().map(Value::from).collect()
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.rsplit_once(separator).unwrap_or(("", text));
            let found = if after.len() < text.len() { separator } else { "" };
            [before, found, after].into_iter().map(Value::from).collect()
        }
        "rsplit" => {
            let (separator, max): (&str, Option<i64>) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: empty separator"));
            }
            let limit = max.and_then(|m| usize::try_from(m).ok()).map_or(usize::MAX, |m| m.saturating_add(1));
            let mut parts: Vec<&str> = text.rsplitn(limit, separator).collect();
            parts.reverse();
            parts.into_iter().map(Value::from).collect()
        }
        _ => return layout_method(text, method, args),
    };
    Ok(Some(result))
}

fn layout_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            let zeros = width.min(1024).saturating_sub(text.chars().count());
            Value::from(format!("{sign}{}{digits}", "0".repeat(zeros)))
        }
        "ljust" | "rjust" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let missing = width.min(1024).saturating_sub(text.chars().count());
            let padding = fill.unwrap_or(" ").repeat(missing);
            Value::from(if method == "ljust" { format!("{text}{padding}") } else { format!("{padding}{text}") })
        }
        "index" => {
            let (what,): (&str,) = from_args(args)?;
            let at = text.find(what).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(char::is_numeric)),
        "swapcase" => {
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "casefold" => Value::from(text.to_lowercase()),
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn list_index(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (what,): (&Value,) = from_args(args)?;
    let at = list.try_iter()?.position(|item| item == *what);
    at.map(Value::from).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "value not in list"))
}

/// The time `now`, in UTC, by a `strftime` format.
pub(super) fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let fail = |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}"));
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_second(seconds).map_err(fail)?;
    let time = timestamp.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(format, &time).map_err(fail)
}
