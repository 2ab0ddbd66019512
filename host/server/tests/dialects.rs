//! Streams in the shapes of other APIs, event by event.

mod common;

use common::*;
use serde_json::{Value, json};

const CALLS: &str = "Hm.<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome}\\\"\", \"days\": [1, 2]}}\
    </tool_call>\n<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}</tool_call>";
const FIRST: &str = "{\"city\": \"Rome}\\\"\", \"days\": [1, 2]}";
const SECOND: &str = "{\"city\": \"Oslo\"}";

/// The named events of an answer.
async fn events(text: &str, path: &str, body: Value) -> Vec<Value> {
    let answer = Server::with_model(script_model(text)).await.post(path, body).await;
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "text/event-stream"), "{answer:?}");
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    };
    answer.body.split_terminator("\n\n").map(event).collect()
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "array"}}})
}

async fn message(text: &str, max_tokens: usize) -> Vec<Value> {
    let body = json!({"model": "org/parrot", "max_tokens": max_tokens, "stream": true, "temperature": 0,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": "weather", "input_schema": schema()}]});
    events(text, "/v1/messages", body).await
}

async fn response(text: &str, max_tokens: usize) -> Vec<Value> {
    let body = json!({"model": "org/parrot", "max_output_tokens": max_tokens, "stream": true, "temperature": 0,
        "input": "Hi", "tools": [{"type": "function", "name": "weather", "parameters": schema()}]});
    events(text, "/v1/responses", body).await
}

/// Texts of the deltas of a kind, in the block or item with this index.
fn deltas<'e>(events: &'e [Value], kind: &str, place: &str, index: usize, key: &str) -> Vec<&'e str> {
    let of = |e: &&Value| e["type"] == kind && e[place] == index;
    let text = |e: &'e Value| e.pointer(key).and_then(Value::as_str);
    events.iter().filter(of).filter_map(text).collect()
}

#[tokio::test]
async fn messages_have_arguments_while_they_are_written() {
    let events = message(CALLS, 500).await;
    let starts: Vec<&Value> = events.iter().filter(|e| e["type"] == "content_block_start").collect();
    let stops: Vec<&Value> = events.iter().filter(|e| e["type"] == "content_block_stop").collect();
    assert_eq!((starts.len(), stops.len()), (3, 3), "{events:?}");
    assert_eq!(deltas(&events, "content_block_delta", "index", 0, "/delta/text").concat(), "Hm.");
    for (index, arguments) in [(1, FIRST), (2, SECOND)] {
        let block = &starts[index]["content_block"];
        assert_eq!(
            (&block["type"], &block["name"], &block["input"]),
            (&json!("tool_use"), &json!("weather"), &json!({}))
        );
        assert!(block["id"].is_string());
        let parts = deltas(&events, "content_block_delta", "index", index, "/delta/partial_json");
        assert_eq!(parts.concat(), arguments);
        assert!(parts.len() > 3 && parts.iter().all(|p| !p.is_empty()), "{parts:?}");
    }
    // A block ends before the next one begins.
    let order: Vec<(&str, u64)> =
        events.iter().filter_map(|e| Some((e["type"].as_str()?, e["index"].as_u64()?))).collect();
    assert!(order.windows(2).all(|w| w[0].1 == w[1].1 || w[0].0.ends_with("stop") && w[1].0.ends_with("start")));
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
}

#[tokio::test]
async fn responses_have_arguments_while_they_are_written() {
    let events = response(CALLS, 500).await;
    let numbers: Vec<u64> = events.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    assert_eq!(deltas(&events, "response.output_text.delta", "output_index", 0, "/delta").concat(), "Hm.");
    let find = |kind: &str, index: usize| {
        let mut found = events.iter().filter(|e| e["type"] == kind && e["output_index"] == index);
        let first = found.next().unwrap_or_else(|| panic!("no {kind} {index}"));
        assert!(found.next().is_none(), "{kind} {index}");
        first
    };
    for (index, arguments) in [(1, FIRST), (2, SECOND)] {
        let kind = "response.function_call_arguments.delta";
        let parts = deltas(&events, kind, "output_index", index, "/delta");
        assert_eq!(parts.concat(), arguments);
        assert!(parts.len() > 3 && parts.iter().all(|p| !p.is_empty()), "{parts:?}");
        let added = &find("response.output_item.added", index)["item"];
        let mut item = json!({"id": added["id"], "type": "function_call", "call_id": added["call_id"],
            "name": "weather", "arguments": "", "status": "in_progress"});
        assert_eq!(*added, item);
        let done = find("response.function_call_arguments.done", index);
        assert_eq!(
            (&done["arguments"], &done["name"], &done["item_id"]),
            (&json!(arguments), &json!("weather"), &added["id"])
        );
        assert_eq!((done.get("content_index"), done.get("logprobs")), (None, None));
        item["arguments"] = arguments.into();
        item["status"] = "completed".into();
        assert_eq!(find("response.output_item.done", index)["item"], item);
        assert_eq!(events.last().unwrap()["response"]["output"][index], item);
    }
    assert_eq!(events.last().unwrap()["type"], "response.completed");
}

#[tokio::test]
async fn arguments_that_were_cut_off_stay_incomplete() {
    let text = format!("<tool_call>{{\"name\": \"weather\", \"arguments\": {{\"city\": \"{}", "Rome ".repeat(100));
    let events = message(&text, 60).await;
    let written = deltas(&events, "content_block_delta", "index", 0, "/delta/partial_json").concat();
    assert!(written.starts_with("{\"city\": \"Rome Rome") && !written.contains('}'), "{written}");
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "max_tokens");
    assert_eq!(events[events.len() - 3]["type"], "content_block_stop");

    let events = response(&text, 60).await;
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["output"][0]["status"]),
        (&json!("response.incomplete"), &json!("incomplete"))
    );
    let parts = deltas(&events, "response.function_call_arguments.delta", "output_index", 0, "/delta");
    assert_eq!(last["response"]["output"][0]["arguments"], parts.concat());
}

#[tokio::test]
async fn reasoning_and_text_are_blocks_and_items_of_their_own() {
    let events = response("<think>\nIt is ñ.</think>\n\nYes", 100).await;
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap().trim_start_matches("response.")).collect();
    let without_deltas: Vec<&str> = kinds.into_iter().filter(|k| !k.ends_with(".delta")).collect();
    let item =
        |text: &'static str| ["output_item.added", "content_part.added", text, "content_part.done", "output_item.done"];
    let expected =
        [&["created", "in_progress"][..], &item("reasoning_text.done"), &item("output_text.done"), &["completed"]];
    assert_eq!(without_deltas, expected.concat());
    let output = &events.last().unwrap()["response"]["output"];
    assert_eq!(
        (&output[0]["content"][0]["text"], &output[1]["content"][0]["text"]),
        (&json!("It is ñ."), &json!("Yes"))
    );
}
