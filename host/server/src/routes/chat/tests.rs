use rocmforge_engine::SamplingParams;
use rocmforge_engine::sampler::{Mirostat, MirostatVersion, Xtc};
use serde_json::{Value, json};

use super::*;
use crate::params::common::StreamOptions;

/// A request with these members besides a message.
fn parse(members: Value) -> Result<ChatRequest, ApiError> {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    for (key, value) in members.as_object().expect("an object") {
        body[key] = value.clone();
    }
    ChatRequest::parse(body.to_string().as_bytes())
}

#[test]
fn parameters_reach_the_engine() {
    let check = |members: Value, expected: fn(&ChatRequest) -> bool| {
        let request = parse(members.clone()).unwrap_or_else(|e| panic!("{members}: {e}"));
        assert!(expected(&request), "{members} gave {request:?}");
    };
    check(json!({}), |r| r.common.sampling == SamplingParams::default() && r.common.n == 1);
    check(json!({"max_tokens": 5}), |r| r.common.stop.max_tokens == Some(5));
    check(json!({"max_tokens": 5, "max_completion_tokens": 7}), |r| r.common.stop.max_tokens == Some(7));
    check(json!({"max_tokens": 5, "max_completion_tokens": null}), |r| r.common.stop.max_tokens == Some(5));
    check(json!({"max_tokens": 5.0}), |r| r.common.stop.max_tokens == Some(5));
    check(json!({"temperature": 0}), |r| r.common.sampling.temperature == 0.0);
    check(json!({"top_p": 0}), |r| r.common.sampling.top_p > 0.0 && r.common.sampling.top_p < 1e-30);
    check(json!({"top_k": -1}), |r| r.common.sampling.top_k.is_none());
    check(json!({"top_k": 3, "min_p": 0.5}), |r| r.common.sampling.top_k == Some(3) && r.common.sampling.min_p == 0.5);
    check(json!({"repetition_penalty": 1.5}), |r| r.common.sampling.repetition_penalty == 1.5);
    check(json!({"repeat_penalty": 1.5, "repeat_last_n": 64}), |r| {
        r.common.sampling.repetition_penalty == 1.5 && r.common.sampling.repetition_window == Some(64)
    });
    check(json!({"repeat_last_n": -1}), |r| r.common.sampling.repetition_window.is_none());
    check(json!({"typical_p": 0.5, "top_n_sigma": 1.5}), |r| {
        r.common.sampling.typical_p == 0.5 && r.common.sampling.top_n_sigma == 1.5
    });
    check(json!({"top_n_sigma": -1}), |r| r.common.sampling.top_n_sigma == 0.0);
    check(json!({"mirostat": 2, "mirostat_tau": 3}), |r| {
        r.common.sampling.mirostat == Some(Mirostat { version: MirostatVersion::Two, tau: 3.0, eta: 0.1 })
    });
    check(json!({"mirostat": 0, "mirostat_tau": 3}), |r| r.common.sampling.mirostat.is_none());
    check(json!({"xtc_probability": 0.5}), |r| r.common.sampling.xtc == Some(Xtc { probability: 0.5, threshold: 0.1 }));
    check(json!({"dry_multiplier": 0.8, "dry_penalty_last_n": 100}), |r| {
        r.common
            .sampling
            .dry
            .as_ref()
            .is_some_and(|d| (d.multiplier, d.base, d.allowed_length, d.window) == (0.8, 1.75, 2, Some(100)))
    });
    check(json!({"dry_multiplier": 0.8, "dry_penalty_last_n": 0}), |r| r.common.sampling.dry.is_none());
    check(json!({"allowed_token_ids": [1, 2]}), |r| {
        r.common.sampling.allowed_tokens.as_deref() == Some([1, 2].as_slice())
    });
    check(json!({"allowed_token_ids": []}), |r| r.common.sampling.allowed_tokens.is_none());
    check(json!({"min_tokens": 3, "include_stop_str_in_output": true}), |r| {
        r.common.stop.min_tokens == 3 && r.common.stop.keep_stop
    });
    check(json!({"frequency_penalty": -2}), |r| r.common.sampling.frequency_penalty == -2.0);
    check(json!({"presence_penalty": 2}), |r| r.common.sampling.presence_penalty == 2.0);
    check(json!({"seed": 3, "n": 2}), |r| r.common.sampling_of(1).seed == Some(4));
    check(json!({"seed": -1}), |r| r.common.sampling.seed == Some(u64::MAX));
    check(json!({"seed": u64::MAX, "n": 2}), |r| r.common.sampling_of(1).seed == Some(0));
    check(json!({"stop": "a"}), |r| r.common.stop.strings == ["a"]);
    check(json!({"stop": ["a", "", "b"]}), |r| r.common.stop.strings == ["a", "b"]);
    check(json!({"stop_token_ids": [1, 2]}), |r| r.common.stop.tokens == [1, 2]);
    check(json!({"ignore_eos": true}), |r| r.common.stop.ignore_eos);
    check(json!({"logit_bias": {"7": -100, "8": 1.5}}), |r| r.common.sampling.logit_bias == [(7, -100.0), (8, 1.5)]);
    check(json!({"logprobs": true}), |r| r.common.sampling.logprobs == Some(0));
    check(json!({"logprobs": true, "top_logprobs": 20}), |r| r.common.sampling.logprobs == Some(20));
    check(json!({"logprobs": false, "top_logprobs": 0}), |r| r.common.sampling.logprobs.is_none());
    check(json!({"stream": false}), |r| r.common.stream.is_none());
    check(json!({"stream": true}), |r| r.common.stream == Some(StreamOptions::default()));
    let options = json!({"include_usage": true, "continuous_usage_stats": true, "include_obfuscation": false});
    check(json!({"stream": true, "stream_options": options}), |r| {
        r.common.stream == Some(StreamOptions { include_usage: true, continuous: true })
    });
    check(json!({"priority": -5}), |r| r.common.priority == -5);
    check(json!({"max_time": 1.5}), |r| r.common.max_time == Some(std::time::Duration::from_millis(1500)));
    check(json!({"prompt_logprobs": 2}), |r| r.common.prompt_logprobs == Some(2));
    check(json!({"functions": [{"name": "f"}]}), |r| r.tools.as_ref().is_some_and(|t| t.legacy));
    check(json!({"cache_salt": "s", "model": "m"}), |r| {
        r.common.cache_salt == "s" && r.common.model.as_deref() == Some("m")
    });
}

#[test]
fn null_counts_as_absent_everywhere() {
    let names = "model max_tokens max_completion_tokens temperature top_p top_k min_p frequency_penalty \
        presence_penalty repetition_penalty seed stop logit_bias logprobs top_logprobs n stream stream_options user \
        ignore_eos tools tool_choice response_format audio functions metadata stop_token_ids cache_salt priority max_time \
        reasoning_effort no_such_parameter";
    for name in names.split_whitespace() {
        assert_eq!(parse(json!({name: null})), parse(json!({})), "{name}");
    }
}

#[test]
fn wrong_parameters_are_named() {
    let check = |members: Value, code: &str, param: &str| {
        let error = parse(members.clone()).expect_err(&members.to_string());
        let body = error.body();
        assert_eq!((error.status().as_u16(), &body["error"]["code"]), (400, &json!(code)), "{members}: {error}");
        assert_eq!(body["error"]["param"], param, "{members}: {error}");
        assert!(error.to_string().contains(param), "{members}: {error}");
    };
    let invalid = |members: Value, param: &str| check(members, "invalid_value", param);
    invalid(json!({"temperature": 2.1}), "temperature");
    invalid(json!({"temperature": "1"}), "temperature");
    invalid(json!({"top_p": -0.1}), "top_p");
    invalid(json!({"top_k": -2}), "top_k");
    invalid(json!({"min_p": 1.5}), "min_p");
    invalid(json!({"frequency_penalty": 3}), "frequency_penalty");
    invalid(json!({"presence_penalty": -3}), "presence_penalty");
    invalid(json!({"repetition_penalty": 0}), "repetition_penalty");
    invalid(json!({"typical_p": 1.5}), "typical_p");
    invalid(json!({"top_n_sigma": "x"}), "top_n_sigma");
    invalid(json!({"mirostat": 3}), "mirostat");
    invalid(json!({"mirostat": 1, "mirostat_eta": 2}), "mirostat_eta");
    invalid(json!({"xtc_probability": -1}), "xtc_probability");
    invalid(json!({"xtc_threshold": 2}), "xtc_threshold");
    invalid(json!({"dry_multiplier": -1}), "dry_multiplier");
    invalid(json!({"dry_base": 0}), "dry_base");
    invalid(json!({"dry_allowed_length": -1}), "dry_allowed_length");
    invalid(json!({"dry_sequence_breakers": "x"}), "dry_sequence_breakers");
    invalid(json!({"dry_sequence_breakers": ["x", ""]}), "dry_sequence_breakers[1]");
    invalid(json!({"allowed_token_ids": 5}), "allowed_token_ids");
    invalid(json!({"allowed_token_ids": [5, -1]}), "allowed_token_ids[1]");
    invalid(json!({"min_tokens": -1}), "min_tokens");
    invalid(json!({"min_tokens": 9, "max_tokens": 8}), "min_tokens");
    invalid(json!({"repeat_last_n": -2}), "repeat_last_n");
    invalid(json!({"max_tokens": 0}), "max_tokens");
    invalid(json!({"max_tokens": -1}), "max_tokens");
    invalid(json!({"max_tokens": 1.5}), "max_tokens");
    invalid(json!({"max_completion_tokens": "many"}), "max_completion_tokens");
    invalid(json!({"n": 0}), "n");
    invalid(json!({"n": 129}), "n");
    invalid(json!({"seed": "x"}), "seed");
    invalid(json!({"seed": 1.5}), "seed");
    invalid(json!({"stop": 1}), "stop");
    invalid(json!({"stop": vec!["x"; 17]}), "stop");
    invalid(json!({"stop": ["a", 1]}), "stop[1]");
    invalid(json!({"logit_bias": []}), "logit_bias");
    invalid(json!({"logit_bias": {"x": 1}}), "logit_bias");
    invalid(json!({"logit_bias": {"5": 101}}), "logit_bias.5");
    invalid(json!({"logprobs": 1}), "logprobs");
    invalid(json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs");
    invalid(json!({"top_logprobs": 1}), "top_logprobs");
    invalid(json!({"stream": "yes"}), "stream");
    invalid(json!({"stream_options": {}}), "stream_options");
    invalid(json!({"stream": true, "stream_options": []}), "stream_options");
    invalid(json!({"stream": true, "stream_options": {"include_usage": 1}}), "stream_options.include_usage");
    invalid(json!({"priority": 1i64 << 31}), "priority");
    invalid(json!({"priority": "high"}), "priority");
    invalid(json!({"max_time": -1}), "max_time");
    invalid(json!({"max_time": 100_000}), "max_time");
    invalid(json!({"messages": []}), "messages");
    invalid(json!({"prompt_logprobs": 21}), "prompt_logprobs");
    invalid(json!({"prompt_logprobs": 1, "stream": true}), "prompt_logprobs");
    invalid(json!({"bad_words": "x"}), "bad_words");
    invalid(json!({"bad_words": ["x", " "]}), "bad_words[1]");
    invalid(json!({"continue_final_message": true}), "continue_final_message");
    invalid(json!({"continue_final_message": true, "add_generation_prompt": true}), "add_generation_prompt");
    invalid(json!({"messages": "Hi"}), "messages");
    invalid(json!({"model": 1}), "model");
    check(json!({"messages": null}), "missing_required_parameter", "messages");
    check(json!({"temperatur": 1}), "unknown_parameter", "temperatur");
    check(json!({"prompt": "x"}), "unknown_parameter", "prompt");
    check(json!({"stream": true, "stream_options": {"x": 1}}), "unknown_parameter", "stream_options.x");
}

#[test]
fn what_is_not_implemented_is_refused_unless_it_changes_nothing() {
    let check = |members: Value, ok: bool| {
        let param = members.as_object().and_then(|m| m.keys().next().cloned()).expect("a member");
        let body = parse(members.clone()).err().map(|e| e.body());
        let found = body.as_ref().map(|b| (&b["error"]["code"], &b["error"]["param"]));
        let (code, param) = (json!("unsupported_parameter"), json!(param));
        assert_eq!(found, (!ok).then_some((&code, &param)), "{members}");
    };
    check(json!({"audio": {"voice": "x"}}), false);
    check(json!({"modalities": ["text"]}), true);
    check(json!({"modalities": ["text", "audio"]}), false);
    check(json!({"web_search_options": {}}), false);
    check(json!({"best_of": 1}), true);
    check(json!({"best_of": 2}), false);
    check(json!({"chat_template": "x"}), false);
    check(json!({"user": "u"}), true);
    check(json!({"metadata": {"a": "b"}}), true);
    check(json!({"store": true}), true);
    check(json!({"service_tier": "auto"}), true);
}

#[test]
fn bodies_that_are_no_objects_are_malformed() {
    let check = |body: &[u8]| {
        let error = ChatRequest::parse(body).expect_err("malformed");
        assert_eq!((error.status().as_u16(), error.code()), (400, "invalid_json"), "{error}");
    };
    check(b"");
    check(b"{");
    check(b"[]");
    check(b"\"x\"");
    check(b"{\"messages\": [}");
    check(b"{} {}");
    check(b"\xff\xfe");
    check(["[".repeat(100_000), "]".repeat(100_000)].concat().as_bytes());
}

#[test]
fn a_prompt_ends_with_the_message_that_goes_on() {
    let check = |prompt: &str, last: &str, expected: &str| {
        assert_eq!(continued(prompt.into(), last).as_deref(), Ok(expected), "{prompt:?} {last:?}");
    };
    check("<a>x</a><a>The sky</a>\n", "The sky", "<a>x</a><a>The sky");
    check("<a>The sky</a><a>The sky </a>", "The sky ", "<a>The sky</a><a>The sky ");
    // A template that trims.
    check("<a>The sky</a>", "  The sky ", "<a>The sky");
    assert_eq!(continued("<a></a>".into(), "The sky").map_err(|e| e.code()), Err("chat_template_error"));
    let messages = |last: Value| json!([{"role": "user", "content": "Hi"}, last]);
    let text = |last: Value| final_text(&messages(last)).map(str::to_string);
    assert_eq!(text(json!({"role": "assistant", "content": "The"})), Some("The".into()));
    assert_eq!(text(json!({"role": "assistant", "content": " "})), None);
    assert_eq!(text(json!({"role": "user", "content": "The"})), None);
    assert_eq!(text(json!({"role": "assistant", "content": "The", "tool_calls": [{}]})), None);
}
