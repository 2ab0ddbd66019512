//! `/openapi.json`: every route, its parameters as the code asks for them, and the shapes of its answers.

mod operations;
mod others;
mod parameters;

use std::sync::OnceLock;

use axum::Json;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use operations::{Body, OPERATIONS, Operation};

pub(crate) async fn document() -> Json<&'static Value> {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    Json(DOCUMENT.get_or_init(build))
}

fn build() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let settings = settings.with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(path_of(operation.path)).or_insert_with(|| json!({}));
        path[operation.method] = describe(operation, &mut generator);
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Error".into(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ROCmForge",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    })
}

/// The router's `{*id}` is OpenAPI's `{id}`.
fn path_of(route: &str) -> String {
    route.replace("{*", "{")
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let error = json!({"$ref": "#/components/schemas/Error"});
    let mut content = Map::new();
    for (kind, schema) in operation.answers {
        content.insert((*kind).into(), json!({"schema": schema(generator)}));
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": {
            "200": {"description": "the answer", "content": content},
            "default": {"description": "an error", "content": {"application/json": {"schema": error}}},
        },
    });
    let in_path = operation
        .path
        .contains('{')
        .then(|| json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = operation
        .query
        .iter()
        .map(|name| json!({"name": name, "in": "query", "required": false, "schema": {"type": "string"}}));
    let parameters: Vec<Value> = in_path.into_iter().chain(in_query).collect();
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(body) = &operation.body {
        let content = json!({"application/json": {"schema": body_schema(body)}});
        described["requestBody"] = json!({"required": true, "content": content});
    }
    described
}

/// An object with the members that the code asks for, and no others unless it takes the form of another API.
fn body_schema(body: &Body) -> Value {
    let mut members = (body.members)();
    for (name, schema) in &mut members {
        // What takes several forms is described by hand.
        if schema.as_object().is_some_and(Map::is_empty)
            && let Some(form) = parameters::form(name)
        {
            *schema = form;
        }
    }
    json!({"type": "object", "properties": members, "required": body.required, "additionalProperties": body.open})
}

fn error_schema() -> Value {
    let text = json!({"type": ["string", "null"]});
    let inner = json!({
        "type": "object",
        "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text},
        "required": ["message", "type", "param", "code"],
    });
    json!({"type": "object", "properties": {"error": inner}, "required": ["error"]})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Method and path of every route in the sources of the routes.
    fn routes(folder: &Path, found: &mut BTreeSet<(String, String)>) {
        for entry in std::fs::read_dir(folder).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                routes(&path, found);
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("a source file");
            for call in source.split(".route(").skip(1) {
                let (path, rest) = call.trim_start().trim_start_matches('"').split_once('"').expect("a path");
                let end = rest.find("\n        .").unwrap_or(rest.len());
                for method in ["get", "post", "put", "delete", "head", "options", "patch"] {
                    let called = |before: &str| rest[..end].contains(&format!("{before}{method}("));
                    if called(" ") || called(".") || called("\n") {
                        found.insert((method.to_string(), path.to_string()));
                    }
                }
            }
        }
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let mut expected = BTreeSet::new();
        routes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/routes"), &mut expected);
        assert!(expected.len() > 15, "the routes were not found: {expected:?}");
        let described: BTreeSet<(String, String)> =
            OPERATIONS.iter().map(|o| (o.method.to_string(), o.path.to_string())).collect();
        let missing: Vec<_> = expected.difference(&described).collect();
        assert!(missing.is_empty(), "describe these routes in openapi/operations.rs: {missing:?}");
        let gone: Vec<_> = described.difference(&expected).collect();
        assert!(gone.is_empty(), "openapi/operations.rs describes routes that do not exist: {gone:?}");
    }

    #[test]
    fn every_parameter_has_a_schema_and_every_reference_a_definition() {
        let document = build();
        let mut ids = BTreeSet::new();
        for operation in OPERATIONS {
            assert!(ids.insert(operation.id), "{} is there twice", operation.id);
            assert!(!operation.summary.is_empty() && !operation.answers.is_empty(), "{}", operation.id);
            let Some(body) = &operation.body else { continue };
            let schema = body_schema(body);
            let properties = schema["properties"].as_object().expect("properties");
            assert!(!properties.is_empty(), "{} has no parameters", operation.id);
            for (name, schema) in properties {
                let known = schema.as_object().is_some_and(|s| !s.is_empty());
                assert!(known, "describe the forms of `{name}` of {} in openapi/parameters.rs", operation.id);
            }
            for name in body.required {
                assert!(properties.contains_key(*name), "{} does not ask for `{name}`", operation.id);
            }
        }
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let (target, _) = reference.split_once('"').expect("a reference");
            let pointer = target.strip_prefix('#').expect("a reference within the document");
            assert!(document.pointer(pointer).is_some(), "{target} is not defined");
        }
    }

    #[test]
    fn ranges_are_those_of_the_code() {
        let document = build();
        let properties = "/paths/~1v1~1chat~1completions/post/requestBody/content/application~1json/schema/properties";
        let properties = document.pointer(properties).expect("the parameters");
        let check = |name: &str, schema: Value| assert_eq!(properties[name], schema, "{name}");
        check("temperature", json!({"type": ["number", "null"], "minimum": 0.0, "maximum": 2.0}));
        check("n", json!({"type": ["integer", "null"], "minimum": 1, "maximum": 128}));
        check("ignore_eos", json!({"type": ["boolean", "null"]}));
        check("user", json!({"description": "without effect"}));
        assert!(properties.get("no_such_parameter").is_none() && properties.get("audio").is_none());
    }
}
