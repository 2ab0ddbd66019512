use super::*;

#[test]
fn engine_errors_have_the_status_that_clients_act_on() {
    let check = |error: EngineError, status: u16, code: &str, retry: Option<&str>| {
        let error = ApiError::from(error);
        assert_eq!((error.status().as_u16(), error.code()), (status, code), "{error}");
        let response = error.clone().into_response();
        let found = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        assert_eq!(found, retry, "{error}");
    };
    let overloaded =
        |seconds| EngineError::Overloaded { outstanding: 2, limit: 2, retry_after: Duration::from_secs_f64(seconds) };
    check(overloaded(0.0), 429, "queue_full", Some("2"));
    check(overloaded(0.2), 429, "queue_full", Some("1"));
    check(overloaded(6.2), 429, "queue_full", Some("7"));
    check(overloaded(1e9), 429, "queue_full", Some("120"));
    let (limit, retry_after) = (Duration::from_secs(9), Duration::from_secs(3));
    check(EngineError::WaitsTooLong { limit, retry_after }, 429, "queue_full", Some("3"));
    check(EngineError::OutOfTime { limit }, 504, "deadline_exceeded", None);
    check(EngineError::ContextExceeded { prompt: 9, context: 8 }, 400, "context_length_exceeded", None);
    check(EngineError::CacheTooSmall { prompt: 9, capacity: 8 }, 400, "context_length_exceeded", None);
    let request = EngineError::Request { field: "top_k", expected: "1".into(), found: "0".into() };
    check(request, 400, "invalid_value", None);
    check(EngineError::ShuttingDown, 503, "server_draining", Some("2"));
    check(EngineError::Stopped, 500, "internal_error", None);
    check(EngineError::Step { message: "device lost".into() }, 500, "internal_error", None);
}

#[test]
fn context_overflow_reads_as_clients_expect() {
    let check = |param, completion, expected: &str| {
        let error = ApiError::ContextLength { param, limit: 100, prompt: 90, completion };
        assert_eq!(error.to_string(), expected);
    };
    check(
        "messages",
        20,
        "This model's maximum context length is 100 tokens. However, you requested 110 tokens (90 in the messages, 20 in the completion). Please reduce the length of the messages or completion.",
    );
    check(
        "prompt",
        0,
        "This model's maximum context length is 100 tokens. However, you requested 90 tokens (90 in the prompt, 0 in the completion). Please reduce the length of the prompt.",
    );
}

#[test]
fn parameters_have_the_names_of_the_api_that_was_asked() {
    let names = &[("stop", "stop_sequences"), ("response_format.json_schema", "format"), ("response_format", "format")];
    let check = |param: &str, expected: &str| {
        let errors =
            [ApiError::invalid(param, "a", "b"), ApiError::Missing(param.into()), ApiError::Unknown(param.into())];
        for error in errors {
            assert_eq!(error.renamed(names).body()["error"]["param"], expected);
        }
    };
    check("stop", "stop_sequences");
    check("stop[1]", "stop_sequences[1]");
    check("stop_token_ids", "stop_token_ids");
    check("response_format.json_schema.schema", "format.schema");
    check("response_format.type", "format.type");
    assert_eq!(ApiError::Draining.renamed(names), ApiError::Draining);
}
