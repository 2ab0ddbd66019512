//! Answers that have to look like something, with every kind of tokenizer and logits that know nothing of it.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rocmforge_engine::SamplingParams;
use rocmforge_engine::sampler::{Constraint, Grammar, GrammarError, Grammars, MAX_GRAMMAR_BYTES, Rng, Sampler};
use rocmforge_tokenizer::Tokenizer;
use serde_json::{Value, json};

const TOKENIZERS: &[&str] = &["llama-bpe", "qwen2", "tekken", "glm4", "llama-spm", "gemma-spm"];

fn tokenizer(name: &str) -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tokenizer/tests/fixtures/{name}.gguf"));
    Tokenizer::from_metadata(rocmforge_gguf::GgufFile::open(&path).unwrap().metadata()).unwrap()
}

fn grammars(name: &str) -> (Tokenizer, Arc<Grammars>) {
    let tokenizer = tokenizer(name);
    let grammars = Arc::new(Grammars::new(&tokenizer).unwrap());
    (tokenizer, grammars)
}

/// The text of an answer whose logits are noise that prefers the ends of things; `None`: it did not end in time.
fn answer(tokenizer: &Tokenizer, constraint: &Constraint, seed: u64, most: usize) -> Option<String> {
    let noise = Rng::new(seed);
    let vocab = tokenizer.vocab_size();
    let closes = |id: usize| tokenizer.token_bytes(id as u32).iter().any(|b| b"\"}])".contains(b));
    let ends: Vec<f32> = (0..vocab).map(|id| if closes(id) { 3.0 } else { 0.0 }).collect();
    let mut sampler = Sampler::new(SamplingParams { seed: Some(seed), ..Default::default() }, &[])
        .constrained(Some(constraint.clone()));
    let (mut tokens, mut bytes) = (Vec::new(), Vec::new());
    for step in 0..most {
        let logit = |id: usize| ends[id] + 4.0 * noise.uniform((step * vocab + id) as u64) as f32;
        // Columns beyond the vocabulary, as padded models have them, must never be drawn.
        let mut logits: Vec<f32> = (0..vocab).map(logit).chain([100.0; 5]).collect();
        let token = sampler.sample(&mut logits, step, &[]).unwrap().token;
        if tokenizer.is_eog(token) {
            return Some(String::from_utf8(bytes).unwrap());
        }
        assert!(!tokenizer.is_special(token), "a control token in an answer");
        bytes.extend_from_slice(tokenizer.token_bytes(token));
        tokens.push(token);
        sampler.accept(&tokens);
    }
    None
}

/// Whether a value is as a schema says. Knows the keywords that [`schemas`] uses, and nothing of the compiler.
fn valid(schema: &Value, value: &Value) -> bool {
    let number = |key: &str| schema.get(key).and_then(Value::as_i64);
    let within = |n: i64, least: &str, most: &str| {
        number(least).is_none_or(|least| n >= least) && number(most).is_none_or(|most| n <= most)
    };
    let any_of = schema.get("anyOf").and_then(Value::as_array);
    let typed = match schema.get("type").and_then(Value::as_str) {
        None => true,
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        // "-0" is one, though this parser makes a float of it.
        Some("integer") => {
            let zero = || value.as_f64().filter(|x| *x == 0.0).map(|_| 0);
            value.as_i64().or_else(zero).is_some_and(|n| within(n, "minimum", "maximum"))
        }
        Some("string") => value.as_str().is_some_and(|s| {
            let letters = |s: &str| (1..=4).contains(&s.len()) && s.bytes().all(|b| b"abc".contains(&b));
            within(s.chars().count() as i64, "minLength", "maxLength")
                && (schema.get("pattern").is_none() || letters(s))
        }),
        Some("array") => value.as_array().is_some_and(|items| {
            within(items.len() as i64, "minItems", "maxItems") && items.iter().all(|v| valid(&schema["items"], v))
        }),
        Some("object") => value.as_object().is_some_and(|members| {
            let properties = schema["properties"].as_object().unwrap();
            let required = schema["required"].as_array().unwrap();
            members.iter().all(|(k, v)| properties.get(k).is_some_and(|s| valid(s, v)))
                && required.iter().all(|k| members.contains_key(k.as_str().unwrap()))
        }),
        Some(other) => panic!("{other} is not known here"),
    };
    typed
        && schema.get("enum").and_then(Value::as_array).is_none_or(|all| all.contains(value))
        && any_of.is_none_or(|all| all.iter().any(|s| valid(s, value)))
}

fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "null"})),
        Just(json!({"type": "boolean"})),
        (-2000i64..2000, 0i64..5000).prop_map(|(a, n)| json!({"type": "integer", "minimum": a, "maximum": a + n})),
        (0u32..3, 0u32..9).prop_map(|(a, n)| json!({"type": "string", "minLength": a, "maxLength": a + n})),
        Just(json!({"type": "string", "pattern": "^[abc]{1,4}$"})),
        prop::collection::vec(
            prop_oneof!["[a-zé\" ]{0,5}".prop_map(Value::from), (0i64..99).prop_map(Value::from)],
            1..4
        )
        .prop_map(|all| json!({"enum": all})),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (inner.clone(), 0u32..3, 0u32..3)
                .prop_map(|(s, a, n)| json!({"type": "array", "items": s, "minItems": a, "maxItems": a + n})),
            prop::collection::vec((inner.clone(), any::<bool>()), 1..4).prop_map(|members| {
                let name = |i: usize| ["a", "b c", "ö\"x", "dd"][i];
                let properties: serde_json::Map<String, Value> =
                    members.iter().enumerate().map(|(i, (s, _))| (name(i).to_string(), s.clone())).collect();
                let required: Vec<&str> =
                    members.iter().enumerate().filter(|(_, (_, r))| *r).map(|(i, _)| name(i)).collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }),
            prop::collection::vec(inner, 1..4).prop_map(|all| json!({"anyOf": all})),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_answer_to_a_strict_schema_validates(
        schema in schemas(),
        seed in any::<u64>(),
        name in prop::sample::select(TOKENIZERS),
    ) {
        thread_local! {
            static ALL: Vec<(Tokenizer, Arc<Grammars>)> = TOKENIZERS.iter().map(|name| grammars(name)).collect();
        }
        let at = TOKENIZERS.iter().position(|n| *n == name).unwrap();
        ALL.with(|all| {
            let (tokenizer, grammars) = &all[at];
            let constraint = grammars.compile(&Grammar::JsonSchema { schema: schema.clone(), lenient: false });
            let constraint = constraint.unwrap_or_else(|e| panic!("{schema}: {e}"));
            let text = answer(tokenizer, &constraint, seed, 3000).unwrap_or_else(|| panic!("{schema}: no end"));
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{schema}: {text}: {e}"));
            assert!(valid(&schema, &value), "{schema} does not accept {text}");
        });
    }
}

#[test]
fn an_answer_is_as_its_grammar_says_with_every_tokenizer() {
    let lark = "start: \"(\" item (\", \" item)* \")\"\nitem: WORD | start\nWORD: /[a-z]{1,6}/\n";
    let gbnf = "root ::= \"(\" item (\", \" item)* \")\"\nitem ::= [a-z]{1,6} | root # recurs\n";
    let nested = |text: &str| {
        let mut depth = 0i32;
        let ok = text.chars().all(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth >= 0 && (c.is_ascii_lowercase() || "(), ".contains(c))
        });
        ok && depth == 0 && text.starts_with('(') && text.ends_with(')') && !text.contains("()") && !text.contains(",,")
    };
    let texts: Vec<String> = ["yes", "no", "per\"haps\" ", "naïve\n\x7f"].map(String::from).to_vec();
    for name in TOKENIZERS {
        let (tokenizer, grammars) = grammars(name);
        let check = |grammar: Grammar, holds: &dyn Fn(&str) -> bool| {
            let constraint = grammars.compile(&grammar).unwrap_or_else(|e| panic!("{name} {grammar:?}: {e}"));
            let found: Vec<String> = (0..12).filter_map(|seed| answer(&tokenizer, &constraint, seed, 2000)).collect();
            assert!(!found.is_empty(), "{name} {grammar:?}: no answer ends");
            found.iter().for_each(|text| assert!(holds(text), "{name} {grammar:?}: {text:?}"));
        };
        check(Grammar::Choice(texts.clone()), &|text| texts.iter().any(|t| t == text));
        let date = |text: &str| {
            text.len() == 10
                && text.bytes().enumerate().all(|(i, b)| match i {
                    4 | 7 => b == b'-',
                    _ => b.is_ascii_digit(),
                })
        };
        check(Grammar::Regex("[0-9]{4}-[0-9]{2}-[0-9]{2}".into()), &date);
        check(Grammar::Text(lark.into()), &nested);
        check(Grammar::Text(gbnf.into()), &nested);
        check(Grammar::Text("root ::= \"a\" | \"b\" .{2}".into()), &|text| text == "a" || text.chars().count() == 3);
        let after = Grammar::AfterReasoning(Box::new(Grammar::Choice(vec!["yes".into()])));
        let constraint = grammars.compile(&after).unwrap();
        let bytes = answer_to(&tokenizer, &constraint, "I think so.</think>\n\nyes");
        assert_eq!(bytes, Some(true), "{name}");
    }
}

/// Whether a text is possible to its end; `None`: not even its tokens.
fn answer_to(tokenizer: &Tokenizer, constraint: &Constraint, text: &str) -> Option<bool> {
    let options = rocmforge_tokenizer::EncodeOptions { add_special: false, parse_special: false };
    let mut sampler = Sampler::new(SamplingParams::greedy(), &[]).constrained(Some(constraint.clone()));
    let mut tokens = Vec::new();
    let wanted = tokenizer.encode(text, options).into_iter().chain(tokenizer.eog_tokens().next());
    for (step, want) in wanted.enumerate() {
        let mut logits = vec![0.0; tokenizer.vocab_size()];
        logits[want as usize] = 10.0;
        if sampler.sample(&mut logits, step, &[]).unwrap().token != want {
            return if tokenizer.is_eog(want) { Some(false) } else { None };
        }
        tokens.push(want);
        sampler.accept(&tokens);
    }
    Some(true)
}

#[test]
fn a_grammar_ends_the_answer_only_where_it_may_end() {
    let (tokenizer, grammars) = grammars("llama-bpe");
    let check = |grammar: Grammar, text: &str, expected: Option<bool>| {
        let constraint = grammars.compile(&grammar).unwrap();
        assert_eq!(answer_to(&tokenizer, &constraint, text), expected, "{grammar:?} {text}");
    };
    let regex = |r: &str| Grammar::Regex(r.into());
    check(regex("a+b"), "aaab", Some(true));
    check(regex("a+b"), "aaa", Some(false));
    check(regex("a+b"), "aba", None);
    let schema = |schema: Value| Grammar::JsonSchema { schema, lenient: false };
    let closed = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": false});
    check(schema(closed.clone()), "{\"a\": 12}", Some(true));
    check(schema(closed.clone()), "{\"a\": 12", Some(false));
    check(schema(closed.clone()), "{\"b\": 12}", None);
    check(schema(closed.clone()), "{\n    \"a\": 12\n}", Some(true));
    for space in [" ".repeat(2), "\n".repeat(2), "\t".into(), format!("\n{}", " ".repeat(21))] {
        check(schema(closed.clone()), &format!("{{\"a\":{space}12}}"), None);
    }
}

#[test]
fn a_model_that_likes_white_space_comes_to_an_end() {
    for name in TOKENIZERS {
        let (tokenizer, grammars) = grammars(name);
        let schema = json!({"type": "object", "required": ["a", "b"], "additionalProperties": false, "properties": {
            "a": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}, "b": {"type": "null"}}});
        let constraint = grammars.compile(&Grammar::JsonSchema { schema, lenient: false }).unwrap();
        let blank = |id: usize| {
            let bytes = tokenizer.token_bytes(id as u32);
            !bytes.is_empty() && bytes.iter().all(u8::is_ascii_whitespace)
        };
        // Of white space that with the fewest bytes.
        let like = |id: usize| if blank(id) { 90.0 - tokenizer.token_bytes(id as u32).len() as f32 } else { 0.0 };
        let liked: Vec<f32> = (0..tokenizer.vocab_size()).map(like).collect();
        let mut sampler = Sampler::new(SamplingParams::greedy(), &[]).constrained(Some(constraint));
        let (mut tokens, mut bytes) = (vec![], vec![]);
        let end = (0..400).find(|&step| {
            let token = sampler.sample(&mut liked.clone(), step, &[]).unwrap().token;
            bytes.extend_from_slice(tokenizer.token_bytes(token));
            tokens.push(token);
            sampler.accept(&tokens);
            tokenizer.is_eog(token)
        });
        assert!(end.is_some(), "{name}: no end in {:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn grammars_that_cannot_be_used_are_refused_in_time() {
    let (_, grammars) = grammars("llama-bpe");
    let check = |grammar: Grammar, part: &str| {
        let error = grammars.compile(&grammar).expect_err(&format!("{grammar:?}"));
        assert!(error.to_string().contains(part), "'{error}' instead of '{part}'");
    };
    let schema = |schema: Value| Grammar::JsonSchema { schema, lenient: false };
    check(Grammar::Text("start: missing".into()), "missing");
    check(Grammar::Text("root ::= missing".into()), "`missing` is not defined");
    check(Grammar::Text("start: \"(".into()), "");
    check(Grammar::Regex("a(".into()), "");
    check(Grammar::Regex(r"(a)\1".into()), "");
    check(Grammar::Choice(vec![]), "at least 1");
    check(schema(json!([])), "object");
    check(schema(json!({"type": "thing"})), "thing");
    check(schema(json!({"type": "string", "contentEncoding": "base64", "not": {}})), "not");
    check(schema(json!({"$ref": "#/nowhere"})), "");
    check(schema(json!({"type": "object", "properties": {"a": false}, "required": ["a"]})), "");
    let unknown = json!({"type": "array", "uniqueItems": true});
    check(schema(unknown.clone()), "uniqueItems");
    assert!(grammars.compile(&Grammar::JsonSchema { schema: unknown, lenient: true }).is_ok());
    let long = "a".repeat(MAX_GRAMMAR_BYTES + 1);
    check(Grammar::Regex(long.clone()), "65537 bytes");
    check(schema(json!({"title": long})), "the limit is 65536");
    // What is nested or refers on and on must not exhaust the stack.
    let deep = |open: &str, close: &str| format!("start: {}\"a\"{}", open.repeat(9000), close.repeat(9000));
    check(Grammar::Text(deep("(", ")")), "nested");
    check(Grammar::Text(deep("(\"a\" ", ")?")), "nested");
    let chain = |n: usize, name: &str| {
        let rules: String = (0..n).map(|i| format!("{name}{i}: {name}{} \"x\"\n", i + 1)).collect();
        format!("start: {name}0\n{rules}{name}{n}: \"y\"\n")
    };
    check(Grammar::Text(chain(2500, "r")), "2502 lines");
    for name in ["r", "T"] {
        // Whatever comes of it, it is an answer.
        let _ = grammars.compile(&Grammar::Text(chain(1900, name)));
    }
    let gbnf: String = (0..1900).map(|i| format!("r{i} ::= r{} \"x\"\n", i + 1)).collect();
    let _ = grammars.compile(&Grammar::Text(format!("root ::= r0\n{gbnf}r1900 ::= \"y\"\n")));
    let doubling: String = (0..60).map(|i| format!("T{i}: T{} T{}\n", i + 1, i + 1)).collect();
    let _ = grammars.compile(&Grammar::Text(format!("start: T0\n{doubling}T60: \"y\"\n")));
    let counted = Grammar::Regex("((a{1,900}){1,900}){1,900}".into());
    let _ = grammars.compile(&counted);
}

#[test]
fn the_same_grammar_is_compiled_once() {
    let (_, grammars) = grammars("llama-bpe");
    let grammar = Grammar::Regex("[a-z]+".into());
    let first = grammars.compile(&grammar).unwrap();
    assert_eq!(grammars.compile(&grammar).unwrap(), first);
    assert_ne!(grammars.compile(&Grammar::Regex("[0-9]+".into())).unwrap(), first);
    assert!(matches!(grammars.compile(&Grammar::Regex("[".into())), Err(GrammarError::Invalid(_))));
}
