use serde_json::json;

use super::*;

fn take(body: Value) -> Result<Option<Tools>, ApiError> {
    tools(&mut Fields::parse(body.to_string().as_bytes())?)
}

fn function(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "description": null, "strict": true}})
}

#[test]
fn tools_may_be_called_as_the_client_chooses() {
    let check = |choice: Value, expected: Option<Choice>| {
        let body = json!({"tools": [function("f"), function("g")], "tool_choice": choice});
        assert_eq!(take(body.clone()).map(|t| t.map(|t| t.choice)), Ok(expected), "{body}");
    };
    let allowed = |mode: &str| {
        let tools = json!([{"type": "function", "function": {"name": "g"}}]);
        json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
    };
    check(allowed("auto"), Some(Choice::Auto));
    check(allowed("required"), Some(Choice::Required));
    for choice in [
        allowed("auto"),
        json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}),
    ] {
        let only = take(json!({"tools": [function("f"), function("g")], "tool_choice": choice}));
        let only = only.expect("tools").expect("some");
        assert!(only.all.len() == 2 && !only.has("f") && only.has("g") && only.names().eq(["g"]));
    }
    check(Value::Null, Some(Choice::Auto));
    check(json!("auto"), Some(Choice::Auto));
    check(json!("none"), None);
    check(json!("required"), Some(Choice::Required));
    check(json!({"type": "function", "function": {"name": "g"}}), Some(Choice::Named(1)));
    assert_eq!(take(json!({"tools": [], "tool_choice": "auto"})), Ok(None));
    let one = take(json!({"tools": [function("f")], "parallel_tool_calls": false})).expect("a tool").expect("one");
    assert!(!one.parallel && one.all[0].strict && one.has("f") && !one.has("g"));
}

#[test]
fn wrong_tools_are_named() {
    let check = |body: Value, code: &str, param: &str| {
        let error = take(body.clone()).expect_err(&body.to_string());
        assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{body}: {error}");
    };
    let one = |tool: Value| json!({"tools": [function("first"), tool]});
    check(json!({"tools": {}}), "invalid_value", "tools");
    check(json!({"tools": vec![function("f"); 129]}), "invalid_value", "tools");
    check(one(json!("f")), "invalid_value", "tools[1]");
    check(one(json!({})), "missing_required_parameter", "tools[1].type");
    check(one(json!({"type": "web_search"})), "unsupported_parameter", "tools[1].type");
    check(one(json!({"type": "function"})), "missing_required_parameter", "tools[1].function");
    check(one(json!({"type": "function", "function": {}})), "missing_required_parameter", "tools[1].function.name");
    check(one(function("")), "invalid_value", "tools[1].function.name");
    check(one(function("a b")), "invalid_value", "tools[1].function.name");
    check(one(function("first")), "invalid_value", "tools[1].function.name");
    let parameters = json!({"type": "function", "function": {"name": "f", "parameters": []}});
    check(one(parameters), "invalid_value", "tools[1].function.parameters");
    let unknown = json!({"type": "function", "function": {"name": "f", "x": 1}});
    check(one(unknown), "unknown_parameter", "tools[1].function.x");
    let choice = |choice: Value| json!({"tools": [function("f")], "tool_choice": choice});
    check(choice(json!("maybe")), "invalid_value", "tool_choice");
    check(choice(json!(1)), "invalid_value", "tool_choice");
    check(choice(json!({"type": "function"})), "missing_required_parameter", "tool_choice.function");
    let unknown = json!({"type": "function", "function": {"name": "g"}});
    check(choice(unknown), "invalid_value", "tool_choice.function.name");
    check(choice(json!({"type": "custom"})), "unsupported_parameter", "tool_choice.type");
    let allowed = |inner: Value| choice(json!({"type": "allowed_tools", "allowed_tools": inner}));
    check(allowed(json!({})), "missing_required_parameter", "tool_choice.allowed_tools.mode");
    check(allowed(json!({"mode": "none"})), "invalid_value", "tool_choice.allowed_tools.mode");
    check(allowed(json!({"mode": "auto"})), "missing_required_parameter", "tool_choice.allowed_tools.tools");
    check(allowed(json!({"mode": "auto", "tools": []})), "invalid_value", "tool_choice.allowed_tools.tools");
    let unknown = json!({"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]});
    check(allowed(unknown), "invalid_value", "tool_choice.allowed_tools.tools[0].function.name");
    check(json!({"tool_choice": "required"}), "invalid_value", "tool_choice");
    check(json!({"parallel_tool_calls": 1}), "invalid_value", "parallel_tool_calls");
}

#[test]
fn functions_are_tools_by_their_older_name() {
    let functions = json!([{"name": "f", "parameters": {"type": "object"}}, {"name": "g"}]);
    let of = |call: Value| take(json!({"functions": functions, "function_call": call}));
    for (call, expected) in
        [(Value::Null, Choice::Auto), (json!("auto"), Choice::Auto), (json!({"name": "g"}), Choice::Named(1))]
    {
        let tools = of(call).expect("functions").expect("some");
        assert!(tools.choice == expected && tools.legacy && !tools.parallel && tools.has("f"));
    }
    assert_eq!(of(json!("none")), Ok(None));
    assert_eq!(take(json!({"functions": []})), Ok(None));
    let check = |body: Value, code: &str, param: &str| {
        let error = take(body.clone()).expect_err(&body.to_string());
        assert_eq!((error.code(), error.body()["error"]["param"].clone()), (code, json!(param)), "{body}: {error}");
    };
    check(json!({"functions": 1}), "invalid_value", "functions");
    check(json!({"functions": [{}]}), "missing_required_parameter", "functions[0].name");
    check(json!({"functions": [{"name": "f"}, {"name": "f"}]}), "invalid_value", "functions[1].name");
    check(json!({"functions": [{"name": "f", "x": 1}]}), "unknown_parameter", "functions[0].x");
    check(json!({"functions": functions, "function_call": "maybe"}), "invalid_value", "function_call");
    check(json!({"functions": functions, "function_call": {"name": "h"}}), "invalid_value", "function_call.name");
    check(json!({"functions": functions, "tools": [function("f")]}), "invalid_value", "functions");
}

#[test]
fn values_written_as_text_have_the_type_of_their_parameter() {
    let parameters = json!({"properties": {"text": {"type": "string"}, "count": {"type": "integer"}}});
    let tool = Tool { name: "f".into(), description: None, parameters, strict: false };
    assert_eq!(tool.value("text", "5"), json!("5"));
    assert_eq!(tool.value("count", " 5 "), json!(5));
    assert_eq!(tool.value("other", "[1]"), json!([1]));
    assert_eq!(tool.value("other", "word"), json!("word"));
}
