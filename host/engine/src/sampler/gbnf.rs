//! Translates llama.cpp's GBNF into Lark.
//!
//! GBNF is made of characters, Lark of lexemes, which are matched greedily. So everything that does not recurse becomes a
//! terminal, a regular expression in which nothing is greedy, and neighbours of this kind become one.

mod parser;
mod writer;

use parser::Parser;
use writer::{Writer, names};

/// Rules may lead to each other, and the compiler descends recursively.
const MAX_RULES: usize = 2000;

/// Whether a grammar is GBNF and not Lark: a rule is defined with `::=`.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        let name = line.trim_start().trim_start_matches(is_name_char);
        name.len() < line.trim_start().len() && name.trim_start().starts_with("::=")
    })
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// Alternatives of sequences of items.
#[derive(Debug)]
struct Choice(Vec<Vec<Item>>);

#[derive(Debug)]
struct Item {
    atom: Atom,
    /// Fewest and most times; no most: without end.
    repeat: (u32, Option<u32>),
}

#[derive(Debug)]
enum Atom {
    Literal(String),
    /// A regular expression for one character.
    Class(String),
    Rule(String),
    Group(Choice),
}

/// The grammar in Lark.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let rules = Parser::new(text).rules()?;
    if rules.len() > MAX_RULES {
        return Err(format!("the grammar has {} rules, the limit is {MAX_RULES}", rules.len()));
    }
    if !rules.contains_key("root") {
        return Err("the grammar has no rule `root`".into());
    }
    for choice in rules.values() {
        for name in names(choice) {
            if !rules.contains_key(name) {
                return Err(format!("the rule `{name}` is not defined"));
            }
        }
    }
    Ok(Writer::new(&rules).write())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gbnf_is_told_from_lark() {
        let check = |text: &str, expected: bool| assert_eq!(is_gbnf(text), expected, "{text}");
        check("root ::= \"a\"", true);
        check("# c\n  my-rule::=x", true);
        check("start: \"::=\"", false);
        check("start: /x/ ::= y", false);
        check("", false);
    }

    #[test]
    fn rules_that_do_not_recur_become_terminals() {
        let check = |text: &str, expected: &str| assert_eq!(to_lark(text).as_deref(), Ok(expected), "{text}");
        check("root ::= \"yes\" | \"no\"", "start: T0\nT0: \"yes\" | \"no\"\n");
        check(
            "root ::= [a-z]+ \" \" x{2,3}\nx ::= [^\"\\n]",
            "start: T0\nT0: (/[a-z]/)+ \" \" (T1){2,3}\nT1: /[^\\u{22}\\u{A}]/\n",
        );
        check(
            "root ::= \"(\" ws root? \")\" # c\n\nws ::=\n  [ \\t]*",
            "start: r0\nr0: M0 (r0)? M1\nT1: (/[\\u{20}\\u{9}]/)*\nM0: \"(\" T1\nM1: \")\"\n",
        );
        check("root ::= (\"a\"\n | b)\nb ::= \"c\"\n  | \"d\"", "start: T1\nT0: \"c\" | \"d\"\nT1: (\"a\" | T0)\n");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, part: &str| {
            let error = to_lark(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        };
        check("a ::= \"x\"", "no rule `root`");
        check("root ::= x", "`x` is not defined");
        check("root ::= \"x", "end of a literal");
        check("root ::= [a", "end of a class");
        check("root ::= [z-a]", "ascending");
        check("root ::= \"a\"{3,2}", "ascending");
        check("root ::= \"a\"{x}", "a count");
        check("root ::= \"\\q\"", "escapes");
        check("root ::= \"\\uD800\"", "hexadecimal");
        check("root ::= \"a\"\nroot ::= \"b\"", "twice");
        check("root ::= (\"a\"", "`)`");
        check("root ::= \"a\"\n\n!", "line 3");
        check(&format!("root ::= {}", "(".repeat(100_000)), "nested deeper");
    }
}
