//! Compiles what an answer has to look like.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use rocmforge_tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::constraint::{Compiled, Constraint, MaskWorkers};
use super::gbnf;

/// Most bytes of a grammar, a regular expression or a schema as JSON.
pub const MAX_GRAMMAR_BYTES: usize = 64 << 10;
/// How long a grammar may take to compile.
pub const COMPILE_LIMIT: Duration = Duration::from_secs(1);
/// Most lines of a grammar, and so rules that lead to each other.
const MAX_LINES: usize = 2000;
const MAX_NESTING: usize = 100;
/// For rules that lead to each other: the compiler descends recursively.
const STACK: usize = 256 << 20;
/// Compilations at a time, those included that nobody waits for any more.
const MAX_COMPILING: usize = 8;
/// Most characters of an error, which else may show the whole grammar.
const MAX_MESSAGE: usize = 400;
/// White space that one place of a JSON text may have: a space, or a new line with its indentation. A model that likes
/// white space could else go on with it until its tokens are used up.
pub const JSON_SPACE: &str = r"\x20|\x0A[\x20\x09]{0,20}";
/// The same where a program reads the text, on one line.
pub const LINE_SPACE: &str = r"\x20";
const AFTER_REASONING: &str =
    "start: reasoning SPACE? @answer\nreasoning[suffix=\"</think>\"]: /(?s:.*)/\nSPACE: /[ \\n\\t]+/\n";
/// Grammars that are kept compiled.
const KEPT: usize = 32;
/// The trie of a vocabulary has a byte of a token in each node, and numbers them with 22 bits.
const MAX_TRIE_NODES: usize = 1 << 22;
/// Longer tokens take more levels than the trie has.
const MAX_TOKEN_BYTES: usize = 1000;

/// What an answer has to look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// A JSON value that a schema accepts.
    JsonSchema {
        /// The schema.
        schema: Value,
        /// Do without what cannot be enforced, instead of refusing the schema.
        lenient: bool,
    },
    /// A text that the whole of a regular expression matches.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in llguidance's variant of Lark, or in GBNF.
    Text(String),
    /// Anything up to `</think>`, and then this.
    AfterReasoning(Box<Grammar>),
}

/// Why a grammar cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is wrong, asks for what cannot be enforced, or is too complex.
    #[error("{0}")]
    Invalid(String),
    /// It is too long.
    #[error("it has {found} bytes, the limit is {MAX_GRAMMAR_BYTES}")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// It took too long to compile.
    #[error("it takes more than {} s to compile", COMPILE_LIMIT.as_secs())]
    TooSlow,
    /// Too many are being compiled.
    #[error("{MAX_COMPILING} grammars are being compiled; try again later")]
    Busy,
    /// The vocabulary does not allow for it.
    #[error("answers of this model cannot be constrained: {0}")]
    Vocabulary(String),
}

impl Grammar {
    fn check_length(&self) -> Result<(), GrammarError> {
        let found = match self {
            Grammar::JsonSchema { schema, .. } => schema.to_string().len(),
            Grammar::Regex(text) | Grammar::Text(text) => text.len(),
            Grammar::Choice(texts) => texts.iter().map(String::len).sum(),
            Grammar::AfterReasoning(inner) => return inner.check_length(),
        };
        if found > MAX_GRAMMAR_BYTES { Err(GrammarError::TooLong { found }) } else { Ok(()) }
    }

    fn translate(&self) -> Result<TopLevelGrammar, GrammarError> {
        Ok(match self {
            Grammar::JsonSchema { schema, lenient } => {
                TopLevelGrammar::from_json_schema(with_options(schema, *lenient)?)
            }
            Grammar::Regex(text) => TopLevelGrammar::from_regex(text),
            Grammar::Choice(texts) => TopLevelGrammar::from_lark(choice(texts)?),
            Grammar::Text(text) if gbnf::is_gbnf(text) => {
                TopLevelGrammar::from_lark(gbnf::to_lark(text).map_err(GrammarError::Invalid)?)
            }
            Grammar::Text(text) => TopLevelGrammar::from_lark(checked_lark(text)?),
            Grammar::AfterReasoning(inner) => {
                let mut grammars = inner.translate()?.grammars;
                if let Some(first) = grammars.first_mut() {
                    first.name = Some("answer".into());
                }
                let outer = TopLevelGrammar::from_lark(AFTER_REASONING.into());
                TopLevelGrammar { grammars: outer.grammars.into_iter().chain(grammars).collect(), max_tokens: None }
            }
        })
    }
}

/// Refuses what would take the compiler, which descends recursively, more stack than it has.
fn checked_lark(text: &str) -> Result<String, GrammarError> {
    let lines = text.lines().count();
    if lines > MAX_LINES {
        return Err(GrammarError::Invalid(format!("it has {lines} lines, the limit is {MAX_LINES}")));
    }
    let (mut depth, mut quote, mut escaped) = (0usize, None, false);
    for c in text.chars() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(end), c) if c == end || c == '\n' => quote = None,
            (Some(_), _) => {}
            (None, '"' | '/') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        if depth > MAX_NESTING {
            return Err(GrammarError::Invalid(format!("it is nested deeper than {MAX_NESTING}")));
        }
    }
    Ok(text.into())
}

/// The schema with the compiler's options, which are a member of it.
fn with_options(schema: &Value, lenient: bool) -> Result<Value, GrammarError> {
    let mut members = match schema {
        Value::Object(members) => members.clone(),
        // `true` accepts everything.
        Value::Bool(true) => serde_json::Map::new(),
        _ => return Err(GrammarError::Invalid("a schema is an object".into())),
    };
    members.insert("x-guidance".into(), json!({"whitespace_pattern": JSON_SPACE, "lenient": lenient}));
    Ok(Value::Object(members))
}

fn choice(texts: &[String]) -> Result<String, GrammarError> {
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err(GrammarError::Invalid("the choices must be texts that are not empty, at least 1".into()));
    }
    let literals: Vec<String> = texts.iter().map(|t| lark_string(t)).collect();
    Ok(format!("start: CHOICE\nCHOICE: {}\n", literals.join(" | ")))
}

/// A literal of Lark.
pub(super) fn lark_string(text: &str) -> String {
    // JSON's form is Lark's, but for DEL, which has to be escaped.
    Value::from(text).to_string().replace('\x7f', "\\u007f")
}

/// Compiles grammars for one tokenizer.
pub struct Grammars {
    factory: ParserFactory,
    workers: Arc<MaskWorkers>,
    compiling: AtomicUsize,
    /// The latest ones, newest last.
    kept: Mutex<VecDeque<(Grammar, Constraint)>>,
}

/// One that is under way.
struct Compilation(Arc<Grammars>);

impl Drop for Compilation {
    fn drop(&mut self) {
        self.0.compiling.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// Builds the trie of the vocabulary, which takes a moment for a large one.
    ///
    /// # Errors
    /// A vocabulary that is too large, or without a token that ends answers.
    pub fn new(tokenizer: &Tokenizer) -> Result<Grammars, GrammarError> {
        let env = token_env(tokenizer)?;
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|e| GrammarError::Vocabulary(e.to_string()))?;
        factory.quiet();
        // Errors go to clients, who need no dump of the parser.
        factory.limits_mut().verbose_errors = false;
        Ok(Grammars {
            factory,
            workers: Arc::new(MaskWorkers::start()),
            compiling: AtomicUsize::new(0),
            kept: Mutex::default(),
        })
    }

    /// Compiles a grammar, or takes it from among the latest ones. Blocks for up to [`COMPILE_LIMIT`].
    ///
    /// # Errors
    /// A grammar that is wrong, too long or too complex.
    pub fn compile(self: &Arc<Self>, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        grammar.check_length()?;
        if let Some(constraint) = self.find(grammar) {
            return Ok(constraint);
        }
        let (sender, receiver) = sync_channel(1);
        if self.compiling.fetch_add(1, Ordering::SeqCst) >= MAX_COMPILING {
            self.compiling.fetch_sub(1, Ordering::SeqCst);
            return Err(GrammarError::Busy);
        }
        let (own, text) = (Compilation(self.clone()), grammar.clone());
        // A thread of its own, because a compilation cannot be interrupted. The parser's own limits end it soon.
        let job = move || {
            // Nobody waits for what comes too late.
            let _ = sender.send(text.translate().and_then(|g| own.0.build(g)));
        };
        let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK).spawn(job);
        thread.map_err(|e| GrammarError::Invalid(format!("no thread to compile it: {e}")))?;
        let compiled = match receiver.recv_timeout(COMPILE_LIMIT) {
            Ok(compiled) => compiled?,
            Err(RecvTimeoutError::Timeout) => return Err(GrammarError::TooSlow),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(GrammarError::Invalid("the compiler has failed on it".into()));
            }
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((grammar.clone(), compiled.clone()));
        Ok(compiled)
    }

    fn find(&self, grammar: &Grammar) -> Option<Constraint> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(g, _)| g == grammar)?;
        let entry = kept.remove(at)?;
        let constraint = entry.1.clone();
        kept.push_back(entry);
        Some(constraint)
    }

    fn build(&self, grammar: TopLevelGrammar) -> Result<Constraint, GrammarError> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(GrammarError::Invalid(brief(&error)));
        }
        // What no text can match is found out by asking for the first token.
        let mask = matcher.compute_mask().map_err(|e| GrammarError::Invalid(brief(&e.to_string())))?;
        if mask.is_zero() {
            return Err(GrammarError::Invalid("no text of this model's tokens can match it".into()));
        }
        Ok(Constraint::new(Compiled::new(matcher), self.workers.clone()))
    }
}

fn brief(error: &str) -> String {
    // How the compiler says that it has no more to say.
    let mut lines = error.trim_end().trim_end_matches("<non-verbose/>").trim_end().chars();
    let start: String = lines.by_ref().take(MAX_MESSAGE).collect();
    if lines.next().is_some() { start + "…" } else { start }
}

/// The vocabulary as the parser needs it: control tokens are marked, so that no text is taken for one.
fn token_env(tokenizer: &Tokenizer) -> Result<TokEnv, GrammarError> {
    let count = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let word = |id: u32| {
        let bytes = tokenizer.token_bytes(id);
        match tokenizer.is_special(id) {
            _ if bytes.len() > MAX_TOKEN_BYTES => vec![],
            true => [[TokTrie::SPECIAL_TOKEN_MARKER].as_slice(), bytes].concat(),
            // No UTF-8 has this byte, so no answer needs such a token.
            false if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) => vec![],
            false => bytes.to_vec(),
        }
    };
    let words: Vec<Vec<u8>> = (0..count).map(word).collect();
    let nodes: usize = words.iter().map(Vec::len).sum();
    if nodes >= MAX_TRIE_NODES {
        return Err(GrammarError::Vocabulary(format!("its tokens have {nodes} bytes, {MAX_TRIE_NODES} are too many")));
    }
    let ends: Vec<u32> = tokenizer.eog_tokens().filter(|&id| id < count).collect();
    let Some(&end) = ends.first() else {
        return Err(GrammarError::Vocabulary("it has no token that ends an answer".into()));
    };
    let trie = TokTrie::from(&TokRxInfo::new(count, end), &words).with_eos_tokens(&ends);
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}
