//! Grammars of answers that must be calls.

use rocmforge_engine::sampler::{Grammar, LINE_SPACE};
use rocmforge_tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::format::{Format, control};
use crate::params::tools::{Choice, Tool, Tools};

/// Most calls in one answer that must call something.
const MOST: usize = 8;

/// What an answer has to look like that calls a tool as the client asks; `None` if it need not call any.
pub(crate) fn grammar(tools: &Tools, format: Format, tokenizer: &Tokenizer) -> Option<Grammar> {
    let (chosen, several) = match tools.choice {
        Choice::Auto => return None,
        Choice::Required => (tools.callable().collect::<Vec<_>>(), tools.parallel),
        Choice::Named(at) => (vec![tools.all.get(at)?], false),
    };
    let lenient = !chosen.iter().all(|t| t.strict);
    let arguments = |t: &Tool| json_rule(&with_object(&t.parameters), lenient);
    let object = |key: &str| {
        let one = |t: &&Tool| {
            json!({"type": "object", "properties": {"name": {"const": t.name}, key: with_object(&t.parameters)},
                "required": ["name", key], "additionalProperties": false})
        };
        match chosen.as_slice() {
            [only] => one(only),
            all => json!({"anyOf": all.iter().map(one).collect::<Vec<_>>()}),
        }
    };
    let marker = |text: &str| match control(tokenizer, text) {
        Some(id) => format!("<[{id}]>"),
        None => Value::from(text).to_string(),
    };
    let more = if several { format!("{{0,{}}}", MOST - 1) } else { "{0}".into() };
    let repeated = |call: &str, between: &str| match several {
        true => format!("start: call ({between} call){more}\ncall: {call}\n"),
        false => format!("start: call\ncall: {call}\n"),
    };
    let text = match format {
        Format::Tagged | Format::TaggedArguments => {
            let (open, close) = (marker("<tool_call>"), marker("</tool_call>"));
            let body = json_rule(&object("arguments"), lenient);
            repeated(&format!("{open} \"\\n\" body \"\\n\" {close}"), "\"\\n\"") + &format!("body: {body}\n")
        }
        Format::MistralList => {
            let most = if several { MOST } else { 1 };
            let list = json!({"type": "array", "items": object("arguments"), "minItems": 1, "maxItems": most});
            format!("start: {} list\nlist: {}\n", marker("[TOOL_CALLS]"), json_rule(&list, lenient))
        }
        Format::MistralNamed => {
            let (open, args) = (marker("[TOOL_CALLS]"), marker("[ARGS]"));
            let calls: Vec<String> = (0..chosen.len())
                .map(|i| format!("{open} {} {args} arguments{i}", Value::from(chosen[i].name.as_str())))
                .collect();
            named_rules(&repeated(&format!("({})", calls.join(" | ")), ""), &chosen, arguments)
        }
        Format::NameLine => {
            let name = |t: &Tool| Value::from(format!("{}\n", t.name)).to_string();
            let calls: Vec<String> =
                chosen.iter().enumerate().map(|(i, t)| format!("{} arguments{i}", name(t))).collect();
            named_rules(&repeated(&format!("({})", calls.join(" | ")), "\"\\n\""), &chosen, arguments)
        }
        Format::Llama | Format::Gemma => {
            format!("start: call\ncall: {}\n", json_rule(&object("parameters"), lenient))
        }
    };
    Some(Grammar::Text(text))
}

fn named_rules(start: &str, chosen: &[&Tool], arguments: impl Fn(&Tool) -> String) -> String {
    let rules = chosen.iter().enumerate().map(|(i, t)| format!("arguments{i}: {}\n", arguments(t)));
    start.to_string() + &rules.collect::<String>()
}

/// A JSON value within a grammar in Lark.
fn json_rule(schema: &Value, lenient: bool) -> String {
    let mut schema = schema.clone();
    if let Some(members) = schema.as_object_mut() {
        let options = json!({"whitespace_pattern": LINE_SPACE, "lenient": lenient});
        members.insert("x-guidance".into(), options);
    }
    format!("%json {schema}")
}

/// Arguments are an object, also where the schema does not say so, and have no other members than those that it names.
fn with_object(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(members) = schema.as_object_mut() {
        members.entry("type").or_insert_with(|| "object".into());
    }
    close(&mut schema);
    schema
}

/// Forbids what a schema does not name where it neither says what else there may be nor is combined with another one.
/// Functions take no other arguments, and a model that is free to invent members may never come to an end.
fn close(schema: &mut Value) {
    const OPEN: &[&str] = &[
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
        "$ref",
        "$dynamicRef",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "dependentSchemas",
    ];
    let Some(members) = schema.as_object_mut() else { return };
    let named = members.get("properties").is_some_and(Value::is_object);
    if named && !OPEN.iter().any(|key| members.contains_key(*key)) {
        // A member that must be there has to be allowed.
        let all = members.get("required").and_then(Value::as_array).is_none_or(|required| {
            required.iter().filter_map(Value::as_str).all(|name| members["properties"].get(name).is_some())
        });
        if all {
            members.insert("additionalProperties".into(), false.into());
        }
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(close);
    }
    if let Some(items) = members.get_mut("items") {
        close(items);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rocmforge_engine::SamplingParams;
    use rocmforge_engine::sampler::{Grammars, Rng, Sampler};

    use super::*;
    use crate::output::{Piece, Splitter};
    use crate::params::Fields;
    use crate::params::tools::tools;

    const FORMATS: [Format; 7] = [
        Format::Tagged,
        Format::TaggedArguments,
        Format::MistralList,
        Format::MistralNamed,
        Format::Llama,
        Format::NameLine,
        Format::Gemma,
    ];

    fn request(choice: Value, parallel: bool) -> Tools {
        let tool = |name: &str, properties: Value| {
            let parameters =
                json!({"type": "object", "properties": properties, "required": ["a"], "additionalProperties": false});
            json!({"type": "function", "function": {"name": name, "parameters": parameters, "strict": true}})
        };
        let first =
            tool("first", json!({"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x\"y", "z"]}}));
        let second = tool("second.one", json!({"a": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}}));
        let body = json!({"tools": [first, second], "tool_choice": choice, "parallel_tool_calls": parallel});
        tools(&mut Fields::parse(body.to_string().as_bytes()).expect("a body")).expect("tools").expect("some")
    }

    /// An answer whose logits are noise; `None`: it did not end in time.
    fn answer(tokenizer: &Tokenizer, grammars: &Arc<Grammars>, grammar: &Grammar, seed: u64) -> Option<String> {
        let constraint = grammars.compile(grammar).unwrap_or_else(|e| panic!("{grammar:?}: {e}"));
        let mut sampler =
            Sampler::new(SamplingParams { seed: Some(seed), ..Default::default() }, &[]).constrained(Some(constraint));
        let (noise, vocab) = (Rng::new(seed), tokenizer.vocab_size());
        let (mut tokens, mut bytes) = (vec![], vec![]);
        for step in 0..1500 {
            let logit = |id| 6.0 * noise.uniform((step * vocab + id) as u64) as f32;
            let token =
                sampler.sample(&mut (0..vocab).map(logit).collect::<Vec<f32>>(), step, &[]).expect("a token").token;
            if tokenizer.is_eog(token) {
                return Some(String::from_utf8(bytes).expect("a text"));
            }
            bytes.extend_from_slice(tokenizer.token_bytes(token));
            tokens.push(token);
            sampler.accept(&tokens);
        }
        None
    }

    #[test]
    fn calls_that_must_be_made_are_found_again_in_every_format() {
        for fixture in ["qwen2", "tekken", "llama-spm"] {
            let path = format!("{}/../tokenizer/tests/fixtures/{fixture}.gguf", env!("CARGO_MANIFEST_DIR"));
            let file = rocmforge_gguf::GgufFile::open(path.as_ref()).expect("the fixture");
            let tokenizer = Tokenizer::from_metadata(file.metadata()).expect("a tokenizer");
            let grammars = Arc::new(Grammars::new(&tokenizer).expect("grammars"));
            let named = json!({"type": "function", "function": {"name": "second.one"}});
            for (choice, parallel) in [(json!("required"), true), (json!("required"), false), (named.clone(), true)] {
                let tools = Arc::new(request(choice.clone(), parallel));
                for format in FORMATS {
                    let grammar = grammar(&tools, format, &tokenizer).expect("a grammar");
                    let texts: Vec<String> =
                        (0..4).filter_map(|seed| answer(&tokenizer, &grammars, &grammar, seed)).collect();
                    assert!(!texts.is_empty(), "{fixture} {format:?}: no answer ends");
                    for text in texts {
                        let mut splitter = Splitter::new(false, Some((format, tools.clone())));
                        let mut pieces = splitter.push(&text);
                        pieces.extend(splitter.finish());
                        let found: Vec<&Piece> = pieces.iter().filter(|p| !matches!(p, Piece::Call(_))).collect();
                        assert!(found.is_empty(), "{fixture} {format:?} {text:?}: {found:?}");
                        let most = if parallel && choice != named { MOST } else { 1 };
                        assert!((1..=most).contains(&pieces.len()), "{format:?} {text:?}: {} calls", pieces.len());
                        for piece in &pieces {
                            let Piece::Call(call) = piece else { continue };
                            let arguments: Value = serde_json::from_str(&call.arguments).expect("JSON");
                            assert!(arguments.get("a").is_some(), "{call:?}");
                            assert!(choice != named || call.name == "second.one", "{call:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn arguments_are_on_one_line() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tokenizer/tests/fixtures/qwen2.gguf");
        let file = rocmforge_gguf::GgufFile::open(path.as_ref()).expect("the fixture");
        let tokenizer = Tokenizer::from_metadata(file.metadata()).expect("a tokenizer");
        let grammars = Arc::new(Grammars::new(&tokenizer).expect("grammars"));
        let tools = request(json!("required"), false);
        for format in FORMATS {
            let grammar = grammar(&tools, format, &tokenizer).expect("a grammar");
            let constraint = grammars.compile(&grammar).unwrap_or_else(|e| panic!("{grammar:?}: {e}"));
            // It likes nothing as much as white space.
            let like = |id: usize| match tokenizer.token_bytes(id as u32) {
                [] => 0.0,
                bytes if bytes.iter().all(u8::is_ascii_whitespace) => 9.0,
                // And brackets, after which it could end, more than other texts.
                bytes => f32::from(u8::from(bytes.iter().all(|b| b"\"}]".contains(b)))),
            };
            let liked: Vec<f32> = (0..tokenizer.vocab_size()).map(like).collect();
            let mut sampler = Sampler::new(SamplingParams::greedy(), &[]).constrained(Some(constraint));
            let (mut tokens, mut bytes, mut ended) = (vec![], vec![], false);
            while tokens.len() < 200 && !ended {
                let token = sampler.sample(&mut liked.clone(), tokens.len(), &[]).expect("a token").token;
                bytes.extend_from_slice(tokenizer.token_bytes(token));
                tokens.push(token);
                sampler.accept(&tokens);
                ended = tokenizer.is_eog(token);
            }
            let text = String::from_utf8_lossy(&bytes);
            assert!(
                ended && !text.contains("  ") && text.trim_matches('\n').lines().count() <= 3,
                "{format:?} {text:?}"
            );
        }
    }

    #[test]
    fn calls_that_need_not_be_made_have_no_grammar() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tokenizer/tests/fixtures/qwen2.gguf");
        let file = rocmforge_gguf::GgufFile::open(path.as_ref()).expect("the fixture");
        let tokenizer = Tokenizer::from_metadata(file.metadata()).expect("a tokenizer");
        assert_eq!(grammar(&request(json!("auto"), true), Format::Tagged, &tokenizer), None);
    }

    #[test]
    fn arguments_are_those_that_the_schema_names() {
        let check = |schema: Value, expected: Value| assert_eq!(with_object(&schema), expected, "{schema}");
        let closed =
            |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
        check(json!({}), json!({"type": "object"}));
        check(json!({"type": "object", "properties": {}}), closed(json!({})));
        check(json!({"properties": {"a": {"type": "string"}}}), closed(json!({"a": {"type": "string"}})));
        let inner = json!({"type": "array", "items": {"type": "object", "properties": {"b": {}}}});
        let inner_closed = json!({"type": "array", "items": closed(json!({"b": {}}))});
        check(json!({"type": "object", "properties": {"a": inner}}), closed(json!({"a": inner_closed})));
        let same = |schema: Value| check(schema.clone(), schema);
        same(json!({"type": "object", "properties": {"a": {}}, "additionalProperties": true}));
        same(json!({"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}}));
        same(json!({"type": "object", "properties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]}));
        same(json!({"type": "object", "properties": {"a": {}}, "patternProperties": {"^x": {}}}));
        same(json!({"type": "object", "properties": {"a": {}}, "required": ["a", "b"]}));
    }
}
