//! Calls written in Python, with literals as arguments.

use serde_json::{Map, Number, Value};

use super::format::Call;
use super::parse::Found;
use crate::params::tools::Tools;

/// Nested deeper, a text is no call.
const MAX_DEPTH: usize = 64;

enum Wrong {
    /// The text ends too early.
    Open,
    Other,
}

type Parsed<T> = Result<T, Wrong>;

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

/// `[name(key=value, …), …]`
pub(super) fn list(text: &str, tools: &Tools) -> Found<Vec<Call>> {
    found(text, tools, |reader| {
        reader.expect('[')?;
        let mut calls = Vec::new();
        loop {
            calls.push(reader.call()?);
            match reader.next()? {
                ',' => reader.at += 1,
                ']' => {
                    reader.at += 1;
                    return Ok(calls);
                }
                _ => return Err(Wrong::Other),
            }
        }
    })
}

/// `name(key=value, …)`
pub(super) fn single_call(text: &str, tools: &Tools) -> Found<Vec<Call>> {
    found(text, tools, |reader| Ok(vec![reader.call()?]))
}

/// `name.call(key=value, …)`
pub(super) fn method_call(text: &str, tools: &Tools) -> Found<Vec<Call>> {
    found(text, tools, |reader| {
        let (name, arguments) = reader.call()?;
        Ok(vec![(name.strip_suffix(".call").unwrap_or(&name).to_string(), arguments)])
    })
}

fn found(
    text: &str,
    tools: &Tools,
    read: impl Fn(&mut Reader<'_>) -> Parsed<Vec<(String, Map<String, Value>)>>,
) -> Found<Vec<Call>> {
    let mut reader = Reader { text, at: 0 };
    match read(&mut reader) {
        Ok(calls) if calls.iter().all(|(name, _)| tools.has(name)) => {
            let calls = calls.into_iter().map(|(name, a)| Call::new(&name, &Value::Object(a))).collect();
            Found::Whole(calls, reader.at)
        }
        Err(Wrong::Open) => Found::Open,
        _ => Found::Other,
    }
}

impl Reader<'_> {
    /// The next character that is no white space.
    fn next(&mut self) -> Parsed<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next().ok_or(Wrong::Open)
    }

    fn expect(&mut self, c: char) -> Parsed<()> {
        if self.next()? != c {
            return Err(Wrong::Other);
        }
        self.at += c.len_utf8();
        Ok(())
    }

    /// A name, possibly with dots in it.
    fn name(&mut self) -> Parsed<String> {
        self.next()?;
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c))).ok_or(Wrong::Open)?;
        if len == 0 {
            return Err(Wrong::Other);
        }
        self.at += len;
        Ok(rest[..len].to_string())
    }

    fn call(&mut self) -> Parsed<(String, Map<String, Value>)> {
        let name = self.name()?;
        self.expect('(')?;
        let mut arguments = Map::new();
        while self.next()? != ')' {
            let key = self.name()?;
            self.expect('=')?;
            let value = self.value(0)?;
            arguments.insert(key, value);
            match self.next()? {
                ',' => self.at += 1,
                ')' => {}
                _ => return Err(Wrong::Other),
            }
        }
        self.at += 1;
        Ok((name, arguments))
    }

    fn value(&mut self, depth: usize) -> Parsed<Value> {
        if depth > MAX_DEPTH {
            return Err(Wrong::Other);
        }
        match self.next()? {
            quote @ ('"' | '\'') => self.string(quote).map(Value::String),
            '[' => {
                self.at += 1;
                let mut items = Vec::new();
                while self.next()? != ']' {
                    items.push(self.value(depth + 1)?);
                    self.separator(']')?;
                }
                self.at += 1;
                Ok(Value::Array(items))
            }
            '{' => {
                self.at += 1;
                let mut members = Map::new();
                while self.next()? != '}' {
                    let Value::String(key) = self.value(depth + 1)? else { return Err(Wrong::Other) };
                    self.expect(':')?;
                    members.insert(key, self.value(depth + 1)?);
                    self.separator('}')?;
                }
                self.at += 1;
                Ok(Value::Object(members))
            }
            _ => self.word(),
        }
    }

    fn separator(&mut self, end: char) -> Parsed<()> {
        match self.next()? {
            ',' => self.at += 1,
            c if c == end => {}
            _ => return Err(Wrong::Other),
        }
        Ok(())
    }

    fn string(&mut self, quote: char) -> Parsed<String> {
        let mut text = String::new();
        let mut chars = self.text[self.at + 1..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => {
                    let (_, escaped) = chars.next().ok_or(Wrong::Open)?;
                    match escaped {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        '\\' | '\'' | '"' => text.push(escaped),
                        // As Python does with what is no escape.
                        other => text.extend(['\\', other]),
                    }
                }
                c if c == quote => {
                    self.at += 1 + i + c.len_utf8();
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(Wrong::Open)
    }

    /// A number or one of the names of values.
    fn word(&mut self) -> Parsed<Value> {
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !(c.is_alphanumeric() || "_.+-".contains(c))).ok_or(Wrong::Open)?;
        let word = &rest[..len];
        let value = match word {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" => Value::Null,
            _ => {
                let whole = word.parse::<i64>().ok().map(Number::from);
                let number = whole.or_else(|| word.parse::<f64>().ok().and_then(Number::from_f64));
                Value::Number(number.ok_or(Wrong::Other)?)
            }
        };
        self.at += len;
        Ok(value)
    }
}
