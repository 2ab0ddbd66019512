//! Reasoning that a model writes before its answer, between tags.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Whether a prompt ends where reasoning has begun.
pub(crate) fn is_open(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The answer may begin with reasoning.
    Start,
    Reasoning,
    /// The white space after the reasoning.
    Gap,
    Answer,
}

/// Takes reasoning off the beginning of an answer.
#[derive(Debug)]
pub(super) struct Reasoning {
    stage: Stage,
    held: String,
    /// Something of the reasoning has been given out.
    begun: bool,
}

impl Reasoning {
    pub(super) fn new(open: bool) -> Reasoning {
        let stage = if open { Stage::Reasoning } else { Stage::Start };
        Reasoning { stage, held: String::new(), begun: false }
    }

    /// For a text that has none.
    pub(super) fn none() -> Reasoning {
        Reasoning { stage: Stage::Answer, held: String::new(), begun: false }
    }

    /// Whether more text would be reasoning.
    pub(super) fn is_inside(&self) -> bool {
        self.stage == Stage::Reasoning
    }

    /// Reasoning and answer, as far as they are certain.
    pub(super) fn push(&mut self, text: &str) -> (String, String) {
        if self.stage == Stage::Answer {
            return (String::new(), text.into());
        }
        self.held.push_str(text);
        let mut reasoning = String::new();
        if self.stage == Stage::Start {
            let begin = self.held.trim_start();
            if let Some(rest) = begin.strip_prefix(OPEN) {
                self.held = rest.into();
                self.stage = Stage::Reasoning;
            } else if OPEN.starts_with(begin) {
                return Default::default();
            } else {
                self.stage = Stage::Answer;
                return (reasoning, std::mem::take(&mut self.held));
            }
        }
        if self.stage == Stage::Reasoning {
            reasoning = self.reasoning();
        }
        if self.stage == Stage::Gap {
            let answer = self.held.trim_start().to_string();
            self.held.clear();
            if !answer.is_empty() {
                self.stage = Stage::Answer;
            }
            return (reasoning, answer);
        }
        (reasoning, String::new())
    }

    fn reasoning(&mut self) -> String {
        let (certain, after) = match self.held.find(CLOSE) {
            Some(at) => {
                self.stage = Stage::Gap;
                (self.held[..at].trim_end().len(), at + CLOSE.len())
            }
            None => {
                let overlap = (1..CLOSE.len()).rev().find(|&n| self.held.ends_with(&CLOSE[..n])).unwrap_or(0);
                let certain = self.held[..self.held.len() - overlap].trim_end().len();
                (certain, certain)
            }
        };
        let text = if self.begun { &self.held[..certain] } else { self.held[..certain].trim_start() }.to_string();
        self.begun |= !text.is_empty();
        self.held.drain(..after);
        text
    }

    /// What is held back, when no more text comes.
    pub(super) fn finish(&mut self) -> (String, String) {
        let held = std::mem::take(&mut self.held);
        match self.stage {
            Stage::Reasoning => (held.trim_end().into(), String::new()),
            Stage::Start | Stage::Gap | Stage::Answer => (String::new(), held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_is_taken_off_however_the_text_is_cut() {
        let check = |open: bool, text: &str, expected: (&str, &str)| {
            for size in 1..=text.len().max(1) {
                let mut reasoning = Reasoning::new(open);
                let mut found = (String::new(), String::new());
                let mut add = |(r, a): (String, String)| {
                    found.0.push_str(&r);
                    found.1.push_str(&a);
                };
                let chars: Vec<char> = text.chars().collect();
                chars.chunks(size).for_each(|c| add(reasoning.push(&c.iter().collect::<String>())));
                add(reasoning.finish());
                assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{open} {size} {text:?}");
            }
        };
        check(false, "<think>\na < b\n</think>\n\nyes", ("a < b", "yes"));
        check(false, "\n<think></think>yes", ("", "yes"));
        check(false, "yes <think>no</think>", ("", "yes <think>no</think>"));
        check(false, "<thing>", ("", "<thing>"));
        check(false, "<think>cut of", ("cut of", ""));
        check(false, "", ("", ""));
        check(true, "a\n\nb</think>c</think>", ("a\n\nb", "c</think>"));
        check(true, "still </thin", ("still </thin", ""));
    }

    #[test]
    fn a_prompt_can_begin_the_reasoning() {
        assert!(is_open("<|im_start|>assistant\n<think>\n"));
        assert!(!is_open("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    }
}
