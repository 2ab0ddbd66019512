//! Answers that have to look like something, and calls of tools.

mod common;

use common::*;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = " the sequence, that ñ is";

fn chat(members: Value) -> Value {
    let mut body = json!({"temperature": 0, "max_tokens": 120, "messages": [{"role": "user", "content": "Hi"}]});
    members.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
    body
}

fn strict(schema: Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}})
}

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
        "additionalProperties": false});
    json!({"type": "function", "function": {"name": "weather", "parameters": parameters, "strict": true}})
}

#[tokio::test]
async fn answers_look_as_asked() {
    let server = Server::with_model(model(TEXT)).await;
    let check = async |members: Value, holds: &dyn Fn(&str) -> bool| {
        let body = server.post(CHAT, chat(members.clone())).await.json();
        let choice = &body["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap_or_else(|| panic!("{body}"));
        assert!(holds(text) && choice["finish_reason"] == "stop", "{members}: {body}");
        let events = server.post(
            CHAT,
            chat({
                let mut members = members.clone();
                members["stream"] = true.into();
                members
            }),
        );
        let events = events.await.events();
        let streamed: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(streamed, text, "{members}");
    };
    let is = |value: Value| move |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|v| v == value);
    let schema = json!({"type": "object", "properties": {"a": {"const": 5}, "b": {"enum": ["x"]}},
        "required": ["a", "b"], "additionalProperties": false});
    check(json!({"response_format": strict(schema.clone())}), &is(json!({"a": 5, "b": "x"}))).await;
    check(json!({"guided_json": schema}), &is(json!({"a": 5, "b": "x"}))).await;
    check(json!({"structured_outputs": {"choice": ["yes", "no"]}}), &|t| ["yes", "no"].contains(&t)).await;
    check(json!({"guided_regex": "[0-3]{3}"}), &|t| t.len() == 3).await;
    check(json!({"grammar": "root ::= \"a\" [b-d]{2}"}), &|t| t.len() == 3 && t.starts_with('a')).await;
    check(json!({"grammar": "start: \"x\" | \"y\"", "ignore_eos": true}), &|t| t == "x" || t == "y").await;
}

#[tokio::test]
async fn what_cannot_be_enforced_is_refused_and_named() {
    let server = Server::with_model(script_model(TEXT)).await;
    let check = async |members: Value, param: &str| {
        server.post(CHAT, chat(members)).await.check_error(400, "invalid_value", json!(param));
    };
    check(json!({"response_format": strict(json!({"type": "thing"}))}), "response_format.json_schema.schema").await;
    check(json!({"grammar": "start: missing"}), "grammar").await;
    check(json!({"guided_regex": "("}), "guided_regex").await;
    let long = json!({"type": "string", "description": "x".repeat(70_000)});
    check(json!({"response_format": strict(long)}), "response_format.json_schema.schema").await;
    let broken =
        json!({"type": "function", "function": {"name": "f", "parameters": {"type": "thing"}, "strict": true}});
    check(json!({"tools": [broken], "tool_choice": "required"}), "tools").await;
}

#[tokio::test]
async fn calls_that_are_asked_for_are_made() {
    let server = Server::with_model(script_model(TEXT)).await;
    let named = json!({"type": "function", "function": {"name": "weather"}});
    for choice in [json!("required"), named] {
        let members = json!({"tools": [weather()], "tool_choice": choice, "parallel_tool_calls": false});
        let body = server.post(CHAT, chat(members.clone())).await.json();
        let message = &body["choices"][0]["message"];
        let call = &message["tool_calls"][0];
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")), "{body}");
        assert_eq!((&message["content"], &body["choices"][0]["finish_reason"]), (&Value::Null, &json!("tool_calls")));
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments == json!({"city": "Rome"}) || arguments == json!({"city": "Oslo"}), "{body}");
        assert!(call["id"].as_str().unwrap().starts_with("call_"));

        let mut members = members;
        members["stream"] = true.into();
        let events = server.post(CHAT, chat(members)).await.events();
        let deltas: Vec<&Value> = events.iter().filter_map(|e| e["choices"][0]["delta"].get("tool_calls")).collect();
        assert!(deltas.iter().all(|d| d[0]["index"] == 0), "{deltas:?}");
        assert_eq!((&deltas[0][0]["type"], &deltas[0][0]["function"]["name"]), (&json!("function"), &json!("weather")));
        let text: String = deltas.iter().filter_map(|d| d[0]["function"]["arguments"].as_str()).collect();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), arguments);
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    }
}

#[tokio::test]
async fn calls_are_found_in_what_the_model_writes() {
    // The template knows no tools, so the model is told to write calls in tags.
    let text = "<tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>";
    let server = Server::with_model(script_model(text)).await;
    let body = server.post(CHAT, chat(json!({"tools": [weather()]}))).await.json();
    let message = &body["choices"][0]["message"];
    assert_eq!(message["tool_calls"][0]["function"], json!({"name": "weather", "arguments": "{}"}), "{body}");
    // Nobody has asked for calls, or the client does not want any: it is text.
    for members in [json!({}), json!({"tools": [weather()], "tool_choice": "none"})] {
        let body = server.post(CHAT, chat(members)).await.json();
        let message = &body["choices"][0]["message"];
        assert_eq!((&message["content"], message.get("tool_calls")), (&json!(text), None), "{body}");
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
    }
    let prompt = server.post("/apply-template", json!({"messages": chat(json!({}))["messages"], "tools": [weather()]}));
    let prompt = prompt.await.json()["prompt"].as_str().unwrap().to_string();
    assert!(prompt.starts_with("system: ") && prompt.contains("\"name\":\"weather\""), "{prompt}");
}

#[tokio::test]
async fn reasoning_is_kept_apart_from_the_answer() {
    let server = Server::with_model(script_model("<think>\nIt is ñ.</think>\n\nYes")).await;
    let message = server.post(CHAT, chat(json!({}))).await.json()["choices"][0]["message"].clone();
    assert_eq!((&message["content"], &message["reasoning"]), (&json!("Yes"), &json!("It is ñ.")), "{message}");
    assert_eq!(message["reasoning_content"], message["reasoning"]);
    let events = server.post(CHAT, chat(json!({"stream": true}))).await.events();
    let all = |key: &str| -> String { events.iter().filter_map(|e| e["choices"][0]["delta"][key].as_str()).collect() };
    assert_eq!((all("content").as_str(), all("reasoning").as_str()), ("Yes", "It is ñ."));
    assert_eq!(all("reasoning_content"), all("reasoning"));
    let hidden = server.post(CHAT, chat(json!({"include_reasoning": false}))).await.json();
    let message = &hidden["choices"][0]["message"];
    assert_eq!((&message["content"], message.get("reasoning")), (&json!("Yes"), None), "{message}");
}
