use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{Atom, Choice, Item};
use crate::sampler::grammar::lark_string;

/// The rules that alternatives lead to.
pub(super) fn names(choice: &Choice) -> Vec<&str> {
    let mut found = Vec::new();
    for item in choice.0.iter().flatten() {
        match &item.atom {
            Atom::Rule(name) => found.push(name.as_str()),
            Atom::Group(choice) => found.extend(names(choice)),
            Atom::Literal(_) | Atom::Class(_) => {}
        }
    }
    found
}

/// The rules that lead to themselves, and those that lead to such a rule: what is left when all rules are taken away
/// again and again that lead to none that is there.
fn recursive(rules: &BTreeMap<String, Choice>) -> BTreeSet<&str> {
    let mut leads: BTreeMap<&str, BTreeSet<&str>> =
        rules.iter().map(|(name, choice)| (name.as_str(), names(choice).into_iter().collect())).collect();
    let mut from: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, to) in &leads {
        to.iter().for_each(|t| from.entry(t).or_default().push(name));
    }
    let mut done: Vec<&str> = leads.iter().filter(|(_, to)| to.is_empty()).map(|(name, _)| *name).collect();
    while let Some(name) = done.pop() {
        leads.remove(name);
        for user in from.get(name).into_iter().flatten() {
            if let Some(to) = leads.get_mut(user)
                && to.remove(name)
                && to.is_empty()
            {
                done.push(user);
            }
        }
    }
    leads.into_keys().collect()
}

/// Writes rules whose names are numbers, as GBNF's names are not Lark's.
pub(super) struct Writer<'r> {
    rules: &'r BTreeMap<String, Choice>,
    numbers: BTreeMap<&'r str, usize>,
    recursive: BTreeSet<&'r str>,
    /// Terminals made of neighbours.
    merged: Vec<String>,
}

impl<'r> Writer<'r> {
    pub(super) fn new(rules: &'r BTreeMap<String, Choice>) -> Writer<'r> {
        let numbers = rules.keys().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
        Writer { rules, numbers, recursive: recursive(rules), merged: Vec::new() }
    }

    pub(super) fn write(mut self) -> String {
        let mut out = format!("start: {}\n", self.name("root"));
        for (name, choice) in self.rules {
            let body = match self.recursive.contains(name.as_str()) {
                true => self.rule(choice),
                false => self.terminal(choice),
            };
            let _ = writeln!(out, "{}: {body}", self.name(name));
        }
        for (i, body) in self.merged.iter().enumerate() {
            let _ = writeln!(out, "M{i}: {body}");
        }
        out
    }

    fn name(&self, rule: &str) -> String {
        let kind = if self.recursive.contains(rule) { 'r' } else { 'T' };
        format!("{kind}{}", self.numbers[rule])
    }

    fn is_terminal(&self, item: &Item) -> bool {
        match &item.atom {
            Atom::Literal(_) | Atom::Class(_) => true,
            Atom::Rule(name) => !self.recursive.contains(name.as_str()),
            Atom::Group(choice) => choice.0.iter().flatten().all(|i| self.is_terminal(i)),
        }
    }

    fn rule(&mut self, choice: &Choice) -> String {
        let alternatives: Vec<String> = choice.0.iter().map(|items| self.rule_sequence(items)).collect();
        alternatives.join(" | ")
    }

    fn rule_sequence(&mut self, items: &[Item]) -> String {
        let mut parts = Vec::new();
        let runs: Vec<&[Item]> = items.chunk_by(|a, b| self.is_terminal(a) && self.is_terminal(b)).collect();
        for run in runs {
            if self.is_terminal(&run[0]) {
                let body: Vec<String> = run.iter().map(|i| self.terminal_item(i)).collect();
                parts.push(format!("M{}", self.merged.len()));
                self.merged.push(body.join(" "));
                continue;
            }
            for item in run {
                let atom = match &item.atom {
                    Atom::Rule(name) => self.name(name),
                    Atom::Group(choice) => format!("({})", self.rule(choice)),
                    Atom::Literal(_) | Atom::Class(_) => String::new(),
                };
                parts.push(repeated(&atom, item.repeat));
            }
        }
        if parts.is_empty() { "\"\"".into() } else { parts.join(" ") }
    }

    fn terminal(&self, choice: &Choice) -> String {
        let sequence = |items: &Vec<Item>| {
            let parts: Vec<String> = items.iter().map(|i| self.terminal_item(i)).collect();
            if parts.is_empty() { "\"\"".to_string() } else { parts.join(" ") }
        };
        choice.0.iter().map(sequence).collect::<Vec<_>>().join(" | ")
    }

    fn terminal_item(&self, item: &Item) -> String {
        let atom = match &item.atom {
            Atom::Literal(text) => lark_string(text),
            Atom::Class(class) => format!("/{class}/"),
            Atom::Rule(name) => self.name(name),
            Atom::Group(choice) => format!("({})", self.terminal(choice)),
        };
        repeated(&atom, item.repeat)
    }
}

fn repeated(atom: &str, repeat: (u32, Option<u32>)) -> String {
    match repeat {
        (1, Some(1)) => atom.into(),
        (0, None) => format!("({atom})*"),
        (1, None) => format!("({atom})+"),
        (0, Some(1)) => format!("({atom})?"),
        (least, None) => format!("({atom}){{{least},}}"),
        (least, Some(most)) => format!("({atom}){{{least},{most}}}"),
    }
}
