//! Every parameter of every route, as `/openapi.json` describes it, with values that it does not allow.

mod common;

use common::*;
use serde_json::{Map, Value, json};

/// Whether a schema, as far as those of the document go, allows a value.
fn allows(schema: &Value, value: &Value) -> bool {
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    let count = |key: &str| schema.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let of_type = |name: &Value| match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        other => panic!("a type that is not known here: {other}"),
    };
    let type_ok = match schema.get("type") {
        Some(Value::Array(names)) => names.iter().any(of_type),
        Some(name) => of_type(name),
        None => true,
    };
    let forms_ok = schema.get("anyOf").is_none_or(|forms| forms.as_array().unwrap().iter().any(|f| allows(f, value)));
    let listed = schema.get("enum").is_none_or(|values| values.as_array().unwrap().contains(value))
        && schema.get("const").is_none_or(|only| only == value);
    let range_ok = value.as_f64().is_none_or(|x| {
        number("minimum").is_none_or(|least| x >= least) && number("maximum").is_none_or(|most| x <= most)
    });
    let items_ok = value.as_array().is_none_or(|items| {
        count("minItems").is_none_or(|n| items.len() >= n)
            && count("maxItems").is_none_or(|n| items.len() <= n)
            && schema.get("items").is_none_or(|schema| items.iter().all(|item| allows(schema, item)))
    });
    let text_ok = value.as_str().is_none_or(|text| {
        count("minLength").is_none_or(|n| text.len() >= n) && count("maxLength").is_none_or(|n| text.len() <= n)
    });
    type_ok
        && forms_ok
        && listed
        && range_ok
        && items_ok
        && text_ok
        && value.as_object().is_none_or(|m| members_ok(schema, m))
}

fn members_ok(schema: &Value, members: &Map<String, Value>) -> bool {
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let named = |key: &str| schema.get("properties").and_then(|p| p.get(key));
    let member_ok = |(key, value): (&String, &Value)| match (named(key), schema.get("additionalProperties")) {
        (Some(schema), _) => allows(schema, value),
        (None, Some(Value::Bool(open))) => *open,
        (None, Some(schema)) => allows(schema, value),
        (None, None) => true,
    };
    required.iter().all(|key| members.contains_key(key.as_str().unwrap())) && members.iter().all(member_ok)
}

/// Values of every type, and some beyond any range.
fn values() -> Vec<Value> {
    let mut values = vec![
        json!(null),
        json!(true),
        json!(-7),
        json!(2.5),
        json!(1e300),
        json!(""),
        json!("wrong"),
        json!([]),
        json!([true]),
        json!([-7]),
        json!([2.5]),
        json!(["x"]),
        json!([null]),
        json!([{}]),
        json!([[true]]),
        json!(vec!["x"; 3000]),
        json!({}),
        json!({"x": true}),
        json!({"x": [{}]}),
        json!({"type": "wrong"}),
        json!({"type": 1}),
    ];
    values.push(json!({"type": "function", "function": true}));
    values
}

/// The values of a parameter that are to be refused: those above, and, where it has members of its own, each of them with
/// those above. Null is the same as nothing, which is wrong only for what is required.
fn refused(schema: &Value, required: bool) -> Vec<Value> {
    let mut found = values();
    found.retain(|value| required || !value.is_null());
    let forms = schema.get("anyOf").and_then(Value::as_array).cloned().unwrap_or_default();
    for properties in forms.iter().filter_map(|form| form.get("properties")?.as_object()) {
        for key in properties.keys() {
            let values = values().into_iter().filter(|value| !value.is_null());
            found.extend(values.map(|value| json!({key: value})));
        }
    }
    found.retain(|value| !allows(schema, value));
    found
}

fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().unwrap().iter().any(|n| n == name)
}

/// What a request of a route needs, so that only the parameter is wrong.
fn base(path: &str, parameter: &str) -> Value {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    match (path, parameter) {
        ("/v1/embeddings", _) => json!({"input": "Hi"}),
        ("/v1/completions" | "/generate" | "/generate/stream", _) => json!({"prompt": "Hi"}),
        ("/tokenize", "content" | "add_special" | "parse_special" | "with_pieces") => json!({"content": "Hi"}),
        ("/tokenize", "prompt" | "add_special_tokens" | "return_token_strs") => json!({"prompt": "Hi"}),
        ("/detokenize", _) => json!({"tokens": [1]}),
        ("/models/load" | "/models/unload", _) => json!({"model": "org/parrot"}),
        _ => json!({"messages": messages}),
    }
}

/// The routes with a body, and its schema, of the OpenAI API and beside it. The APIs of others have errors of their own.
async fn bodies(server: &Server, of_others: bool) -> Vec<(String, Value)> {
    let document = server.get("/openapi.json").await.json();
    let other = |path: &str| path.starts_with("/api/") || path == "/v1/responses" || path.starts_with("/v1/messages");
    let body = |(path, methods): (&String, &Value)| {
        let schema = methods.pointer("/post/requestBody/content/application~1json/schema")?;
        (other(path) == of_others).then(|| (path.clone(), schema.clone()))
    };
    document["paths"].as_object().unwrap().iter().filter_map(body).collect()
}

#[tokio::test]
async fn what_the_document_does_not_allow_is_refused_by_name() {
    let server = Server::with_model(model(" the sequence, that is")).await;
    let bodies = bodies(&server, false).await;
    assert!(bodies.len() >= 10, "{bodies:?}");
    let mut checked = 0;
    for (path, schema) in bodies {
        for (name, parameter) in schema["properties"].as_object().unwrap() {
            for value in refused(parameter, is_required(&schema, name)) {
                let mut body = base(&path, name);
                body[name] = value.clone();
                let answer = server.post(&path, body).await;
                let error = answer.json()["error"].clone();
                let param = error["param"].as_str().unwrap_or_default();
                let rest = param.strip_prefix(name.as_str());
                let named = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
                assert!(answer.status == 400 && named, "{path} with `{name}` as {value}: {answer:?}");
                assert!(error["message"].is_string() && error["type"] == "invalid_request_error", "{answer:?}");
                assert!(error["code"].is_string() && error.as_object().unwrap().len() == 4, "{answer:?}");
                checked += 1;
            }
        }
        let mut body = base(&path, "");
        body["no_such_parameter"] = 1.into();
        server.post(&path, body.clone()).await.check_error(400, "unknown_parameter", json!("no_such_parameter"));
        // Nothing is said with it.
        body["no_such_parameter"] = Value::Null;
        if !path.starts_with("/models/") {
            let answer = server.post(&path, body).await;
            assert!(answer.status == 200 || path == "/v1/embeddings", "{path}: {answer:?}");
        }
    }
    assert!(checked > 3000, "only {checked} values were refused");
}

#[tokio::test]
async fn the_apis_of_others_name_what_is_wrong_in_their_own_form() {
    let server = Server::with_model(model(" the sequence, that is")).await;
    let bodies = bodies(&server, true).await;
    assert!(bodies.len() >= 7, "{bodies:?}");
    for (path, schema) in bodies {
        for (name, parameter) in schema["properties"].as_object().unwrap() {
            for value in refused(parameter, is_required(&schema, name)) {
                let messages = json!([{"role": "user", "content": "Hi"}]);
                let mut body = json!({"model": "org/parrot", "max_tokens": 5, "messages": messages, "input": "Hi",
                    "prompt": "Hi"});
                body.as_object_mut().unwrap().retain(|key, _| schema["properties"].get(key).is_some());
                body[name] = value.clone();
                let answer = server.post(&path, body).await;
                let error = answer.json()["error"].clone();
                let message = match path.starts_with("/api/") {
                    true => error.as_str(),
                    false => error["message"].as_str(),
                };
                let named = message.is_some_and(|m| m.contains(name.as_str()));
                assert!(answer.status == 400 && named, "{path} with `{name}` as {value}: {answer:?}");
            }
        }
    }
}
