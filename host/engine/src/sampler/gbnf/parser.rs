use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Atom, Choice, Item, is_name_char};

/// Nested deeper, a grammar is refused.
const MAX_DEPTH: usize = 64;

/// Reads a grammar from its beginning to its end.
pub(super) struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Parser<'t> {
        Parser { text, at: 0, depth: 0 }
    }

    pub(super) fn rules(mut self) -> Result<BTreeMap<String, Choice>, String> {
        let mut rules = BTreeMap::new();
        self.space(true);
        while self.at < self.text.len() {
            let name = self.name().ok_or_else(|| self.error("the name of a rule"))?;
            self.space(true);
            self.expect("::=")?;
            self.space(true);
            let choice = self.choice(false)?;
            if rules.insert(name.clone(), choice).is_some() {
                return Err(format!("the rule `{name}` is defined twice"));
            }
            self.space(true);
        }
        Ok(rules)
    }

    /// `nested`: within parentheses, where lines do not end it.
    fn choice(&mut self, nested: bool) -> Result<Choice, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("the grammar is nested deeper than {MAX_DEPTH}"));
        }
        let mut alternatives = vec![self.sequence(nested)?];
        while self.takes_bar() {
            self.space(true);
            alternatives.push(self.sequence(nested)?);
        }
        self.depth -= 1;
        Ok(Choice(alternatives))
    }

    /// A bar may also begin the next line.
    fn takes_bar(&mut self) -> bool {
        let before = self.at;
        self.space(true);
        if self.takes("|") {
            return true;
        }
        self.at = before;
        false
    }

    fn sequence(&mut self, nested: bool) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        loop {
            self.space(nested);
            let Some(atom) = self.atom()? else { return Ok(items) };
            let repeat = self.repeat()?;
            items.push(Item { atom, repeat });
        }
    }

    fn atom(&mut self) -> Result<Option<Atom>, String> {
        let before = self.at;
        let Some(first) = self.peek() else { return Ok(None) };
        Ok(Some(match first {
            '"' => Atom::Literal(self.literal()?),
            '[' => Atom::Class(self.class()?),
            '.' => {
                self.at += 1;
                Atom::Class(r"(?s:.)".into())
            }
            '(' => {
                self.at += 1;
                let choice = self.choice(true)?;
                self.space(true);
                self.expect(")")?;
                Atom::Group(choice)
            }
            c if is_name_char(c) => {
                let name = self.name().unwrap_or_default();
                self.space(true);
                if self.text[self.at..].starts_with("::=") {
                    // The next rule.
                    self.at = before;
                    return Ok(None);
                }
                self.at = before + name.len();
                Atom::Rule(name)
            }
            '|' | ')' | '\n' | '\r' => return Ok(None),
            _ => return Err(self.error("a literal, a class of characters, a rule or `(`")),
        }))
    }

    fn repeat(&mut self) -> Result<(u32, Option<u32>), String> {
        let repeat = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counts(),
            _ => return Ok((1, Some(1))),
        };
        self.at += 1;
        Ok(repeat)
    }

    fn counts(&mut self) -> Result<(u32, Option<u32>), String> {
        let end = self.text[self.at..].find('}').ok_or_else(|| self.error("`}`"))?;
        let inner = self.text[self.at + 1..self.at + end].trim();
        let number = |t: &str| t.trim().parse::<u32>().map_err(|_| self.error("a count such as {2}, {2,} or {2,4}"));
        let (least, most) = match inner.split_once(',') {
            None => (number(inner)?, Some(number(inner)?)),
            Some((least, "")) => (number(least)?, None),
            Some(("", most)) => (0, Some(number(most)?)),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        if most.is_some_and(|m| m < least) {
            return Err(self.error("counts in ascending order"));
        }
        self.at += end + 1;
        Ok((least, most))
    }

    fn literal(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\n') => return Err(self.error("the end of a literal")),
                Some('"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(_) => text.push(self.character()?),
            }
        }
    }

    /// A class of characters as a regular expression.
    fn class(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut class = String::from("[");
        if self.takes("^") {
            class.push('^');
        }
        let mut empty = true;
        loop {
            match self.peek() {
                None | Some('\n') => return Err(self.error("the end of a class of characters")),
                Some(']') if !empty => {
                    self.at += 1;
                    class.push(']');
                    return Ok(class);
                }
                Some(_) => {
                    let first = self.character()?;
                    push_char(&mut class, first);
                    let range = self.text[self.at..].starts_with('-') && !self.text[self.at..].starts_with("-]");
                    if range {
                        self.at += 1;
                        let last = self.character()?;
                        if last < first {
                            return Err(self.error("a range in ascending order"));
                        }
                        class.push('-');
                        push_char(&mut class, last);
                    }
                    empty = false;
                }
            }
        }
    }

    /// One character of a literal or a class, which may be escaped.
    fn character(&mut self) -> Result<char, String> {
        let c = self.peek().ok_or_else(|| self.error("a character"))?;
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(c);
        }
        let escaped = self.peek().ok_or_else(|| self.error("a character after `\\`"))?;
        self.at += escaped.len_utf8();
        let digits = match escaped {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '"' | '\\' | '[' | ']' | '-' | '^' | '/' => return Ok(escaped),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.error("one of the escapes \\n \\r \\t \\\" \\\\ \\[ \\] \\- \\^ \\x \\u \\U")),
        };
        let hex = self.text.get(self.at..self.at + digits);
        let code = hex.and_then(|h| u32::from_str_radix(h, 16).ok()).and_then(char::from_u32);
        let c = code.ok_or_else(|| self.error(&format!("{digits} hexadecimal digits of a character")))?;
        self.at += digits;
        Ok(c)
    }

    fn name(&mut self) -> Option<String> {
        let rest = &self.text[self.at..];
        let len = rest.find(|c| !is_name_char(c)).unwrap_or(rest.len());
        self.at += len;
        (len > 0).then(|| rest[..len].to_string())
    }

    /// Skips white space and comments.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\n' | '\r' if lines => self.at += 1,
                '#' => self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at),
                _ => return,
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn takes(&mut self, text: &str) -> bool {
        let found = self.text[self.at..].starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        if self.takes(text) { Ok(()) } else { Err(self.error(&format!("`{text}`"))) }
    }

    fn error(&self, expected: &str) -> String {
        let line = self.text[..self.at].matches('\n').count() + 1;
        match self.peek() {
            Some(c) => format!("line {line} of the grammar: expected {expected}, found {c:?}"),
            None => format!("line {line} of the grammar: expected {expected}, found its end"),
        }
    }
}

/// A character within a class of a regular expression.
fn push_char(class: &mut String, c: char) {
    // A String takes whatever is written.
    let _ = match c {
        _ if c.is_ascii_alphanumeric() => write!(class, "{c}"),
        _ => write!(class, "\\u{{{:X}}}", u32::from(c)),
    };
}
