"""What clients, routers and attackers rely on, byte by byte, against a running server. usage: wire.py URL MODEL

Prints one line per case and `N passed, N failed`; exits with 1 if a case fails.
"""
import http.client
import json
import socket
import sys
import time
import urllib.parse

from cases import case, run

URL, MODEL = sys.argv[1], sys.argv[2]
ADDRESS = urllib.parse.urlparse(URL)
HOST, PORT = ADDRESS.hostname, ADDRESS.port
QUESTION = [{"role": "user", "content": "What is 14 + 74?"}]


def send(method, path, body=None, headers=None, raw=None):
    """Status, headers and bytes of an answer."""
    connection = http.client.HTTPConnection(HOST, PORT, timeout=120)
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    all_headers = {} if data is None else {"Content-Type": "application/json"}
    all_headers.update(headers or {})
    connection.request(method, path, data, {k: v for k, v in all_headers.items() if v is not None})
    answer = connection.getresponse()
    result = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return result


def post(path, **body):
    status, headers, data = send("POST", path, {"model": MODEL, **body})
    assert status == 200, (path, status, data)
    return json.loads(data)


def error(status, code, param, method, path, body=None, headers=None, raw=None):
    """An error in OpenAI's form; its headers and itself."""
    found, answered, data = send(method, path, body, headers, raw)
    e = json.loads(data)["error"]
    assert (found, e["code"], e["param"]) == (status, code, param), (path, found, e)
    assert set(e) == {"message", "type", "param", "code"} and e["message"] and e["type"], e
    assert answered["x-request-id"], answered
    return answered, e


def chat(**more):
    return {"model": MODEL, "messages": QUESTION, "temperature": 0, **more}


def frames(path, body):
    """Events of a stream, checked to be as clients split them."""
    status, headers, data = send("POST", path, body)
    assert status == 200 and headers["content-type"].startswith("text/event-stream"), (status, headers)
    text = data.decode()
    assert text.endswith("data: [DONE]\n\n"), text[-80:]
    pieces = text.split("\n\n")[:-2]
    assert all(p.startswith("data: {") or p.startswith(": ") for p in pieces), pieces
    return [json.loads(p[len("data: "):]) for p in pieces if p.startswith("data: ")]


@case
def answers_have_what_clients_index():
    r = post("/v1/chat/completions", messages=QUESTION, temperature=0)
    (choice,) = r["choices"]
    assert choice["index"] == 0 and choice["message"]["role"] == "assistant" and r["object"] == "chat.completion"
    assert r["usage"]["total_tokens"] == r["usage"]["prompt_tokens"] + r["usage"]["completion_tokens"]
    assert r["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}, r["usage"]
    assert "cached_tokens" in r["usage"]["prompt_tokens_details"] and r["timings"]["predicted_n"] > 0


@case
def streams_have_the_form_that_clients_split():
    events = frames("/v1/chat/completions", chat(stream=True, stream_options={"include_usage": True}))
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1]["choices"] == [] and events[-1]["usage"]["total_tokens"] > 0
    assert all(e["usage"] is None for e in events[:-1]) and events[-2]["choices"][0]["finish_reason"] == "stop"
    running = frames("/v1/chat/completions", chat(stream=True, stream_options={"continuous_usage_stats": True}))
    assert all(e["usage"]["prompt_tokens"] > 0 for e in running), running
    events = frames("/v1/completions", {"model": MODEL, "prompt": "The", "max_tokens": 4, "stream": True})
    assert [e["choices"][0]["index"] for e in events] == [0] * len(events) and "timings" in events[-1]


TOOL = {"type": "function", "function": {"name": "add", "parameters": {
    "type": "object", "properties": {"a": {"enum": [14, 15]}, "b": {"enum": [74]}}, "required": ["a", "b"],
    "additionalProperties": False}}}


@case
def arguments_of_calls_come_in_pieces():
    body = chat(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, stream=True, max_tokens=400)
    calls = [c for e in frames("/v1/chat/completions", body) for c in e["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0]["index"] == 0 and calls[0]["type"] == "function" and calls[0]["id"], calls[0]
    assert calls[0]["function"] == {"name": "add", "arguments": ""}, calls[0]
    rest = [c["function"]["arguments"] for c in calls[1:]]
    assert len(rest) > 2 and set(json.loads("".join(rest))) == {"a", "b"}, rest
    whole = post("/v1/chat/completions", messages=QUESTION, tools=[TOOL], tool_choice="required", temperature=0,
                 parallel_tool_calls=False, max_tokens=400)["choices"][0]
    (call,) = whole["message"]["tool_calls"]
    assert whole["finish_reason"] == "tool_calls" and isinstance(call["function"]["arguments"], str)
    assert json.loads(call["function"]["arguments"]) == json.loads("".join(rest)), (call, rest)


@case
def functions_by_their_older_name():
    function = TOOL["function"]
    body = {"messages": QUESTION, "functions": [function], "function_call": {"name": "add"}, "temperature": 0}
    choice = post("/v1/chat/completions", **body, max_tokens=400)["choices"][0]
    call = choice["message"]["function_call"]
    assert choice["finish_reason"] == "function_call" and call["name"] == "add" and "tool_calls" not in choice["message"]
    assert set(json.loads(call["arguments"])) == {"a", "b"}
    events = frames("/v1/chat/completions", {"model": MODEL, **body, "max_tokens": 400, "stream": True})
    pieces = [e["choices"][0]["delta"]["function_call"] for e in events if "function_call" in e["choices"][0]["delta"]]
    assert pieces[0]["name"] == "add" and "".join(p["arguments"] for p in pieces) and \
        events[-1]["choices"][0]["finish_reason"] == "function_call", events
    history = [*QUESTION, {"role": "assistant", "content": None, "function_call": call},
               {"role": "function", "name": "add", "content": "88"}]
    assert post("/v1/chat/completions", messages=history, max_tokens=8)["choices"][0]["message"]["role"] == "assistant"


@case
def only_allowed_tools_are_called():
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    allowed = {"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}}
    for seed in range(3):
        r = post("/v1/chat/completions", messages=QUESTION, tools=[other, TOOL], tool_choice=allowed, temperature=1,
                 seed=seed, parallel_tool_calls=False, max_tokens=400)
        assert [c["function"]["name"] for c in r["choices"][0]["message"]["tool_calls"]] == ["add"], r


@case
def an_answer_can_be_begun():
    body = {"messages": [*QUESTION, {"role": "assistant", "content": "8"}], "continue_final_message": True}
    assert post("/v1/chat/completions", **body, temperature=0)["choices"][0]["message"]["content"].strip() == "8"


@case
def prompts_are_scored():
    r = post("/v1/completions", prompt="What is 14 + 74?", prompt_logprobs=2, max_tokens=1)["choices"][0]
    assert r["prompt_logprobs"][0] is None
    assert all(any(e["rank"] == 1 for e in place.values()) for place in r["prompt_logprobs"][1:])
    # As lm-eval asks.
    for most in (0, 1):
        for prompts in (["What is", "The"], [[1, 5, 9], [1, 7]]):
            r = post("/v1/completions", prompt=prompts, echo=True, logprobs=1, max_tokens=most)
            assert [c["index"] for c in r["choices"]] == [0, 1] and \
                r["choices"][0]["logprobs"]["token_logprobs"][0] is None, r


@case
def bad_words_are_not_said():
    said = lambda **more: post("/v1/chat/completions", messages=QUESTION, temperature=0, max_tokens=8,  # noqa: E731
                               **more)["choices"][0]["message"]["content"]
    assert "88" in said() and "88" not in said(bad_words=["88"])


@case
def tokens_in_both_forms():
    tokens = post("/tokenize", prompt="Hello there", add_special_tokens=False)["tokens"]
    assert tokens == post("/tokenize", content="Hello there")["tokens"]
    back = post("/detokenize", tokens=tokens)
    assert back["prompt"] == back["content"] == "Hello there"
    assert json.loads(send("GET", "/tokenizer_info")[2])["vocab_size"] > 0


@case
def what_clients_send_is_taken():
    r = post("/v1/chat/completions", messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
             max_tokens=None, max_completion_tokens=3, ignore_eos=True, tools=None, stop=None, user="u", n=1,
             stream_options=None, response_format={"type": "text"})
    assert r["usage"]["completion_tokens"] == 3


@case
def errors_are_those_that_clients_act_on():
    error(400, "invalid_json", None, "POST", "/v1/chat/completions", raw=b"{")
    error(404, "model_not_found", "model", "POST", "/v1/chat/completions", chat(model="no-such-model"))
    error(404, "model_not_found", "model", "GET", "/v1/models/no-such-model")
    assert send("GET", "/v1/models/" + MODEL)[0] == 200
    assert json.loads(send("GET", "/v1/models")[2])["data"][0]["max_model_len"] > 0
    _, e = error(400, "context_length_exceeded", "messages", "POST", "/v1/chat/completions",
                 {"model": MODEL, "messages": [{"role": "user", "content": "word " * 3000}]})
    assert "maximum context length is" in e["message"] and "Please reduce the length of the messages" in e["message"]
    error(400, "invalid_value", "temperature", "POST", "/v1/chat/completions", chat(temperature=2.1))
    error(400, "invalid_value", "max_tokens", "POST", "/v1/chat/completions", chat(max_tokens=0))
    error(400, "unknown_parameter", "temprature", "POST", "/v1/chat/completions", chat(temprature=1))
    error(415, "unsupported_content_type", None, "POST", "/v1/chat/completions", chat(),
          {"Content-Type": "text/plain"})
    error(413, "request_too_large", None, "POST", "/v1/completions", raw=b" " * (33 << 20))
    error(403, "host_not_allowed", None, "GET", "/v1/models", headers={"Host": "evil.example"})
    error(403, "origin_not_allowed", None, "GET", "/v1/models", headers={"Origin": "http://evil.example"})
    error(405, "method_not_allowed", None, "GET", "/v1/chat/completions")
    error(404, "unknown_url", None, "GET", "/no/such/route")
    error(431, "headers_too_large", None, "GET", "/health", headers={"X-Long": "x" * 40000})
    assert send("GET", "/health", headers={"x-request-id": "abc"})[1]["x-request-id"] == "abc"
    status, _, data = send("POST", "/v1/messages", {"model": MODEL, "max_tokens": 1, "messages": []})
    assert status == 400 and json.loads(data)["type"] == "error", data


@case
def limits_are_kept():
    wrong = lambda param, **more: error(400, "invalid_value", param, "POST", "/v1/chat/completions",  # noqa: E731
                                        chat(**more))
    wrong("n", n=129)
    wrong("top_logprobs", logprobs=True, top_logprobs=21)
    wrong("stop", stop=["x"] * 17)
    wrong("logit_bias", logit_bias={str(i): 1 for i in range(1025)})
    wrong("tools", tools=[TOOL] * 129)
    error(400, "invalid_json", None, "POST", "/v1/completions", raw=b'{"prompt":' + b"[" * 200 + b"]" * 200 + b"}")
    schema = {"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": "x" * 100} for i in range(900)}}
    wrong("response_format.json_schema.schema", response_format={
        "type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    error(400, "unsupported_parameter", "chat_template", "POST", "/v1/chat/completions", chat(chat_template="x"))
    error(400, "unsupported_parameter", "chat_template_kwargs.messages", "POST", "/v1/chat/completions",
          chat(chat_template_kwargs={"messages": []}))


@case
def prefixes_are_shared_only_with_the_same_salt():
    cached = lambda salt: post("/v1/completions", prompt="One two three four five six seven. " * 12, max_tokens=1,  # noqa: E731
                               cache_salt=salt)["usage"]["prompt_tokens_details"]["cached_tokens"]
    first, second = (f"{name} {time.time()}" for name in "ab")
    assert cached(first) == 0 and cached(first) > 0 and cached(second) == 0


@case
def routers_find_their_numbers():
    text = send("GET", "/metrics")[2].decode()
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "lora_requests_info",
                 "cache_config_info", "prompt_tokens_total", "generation_tokens_total", "prefix_cache_queries_total",
                 "prefix_cache_hits_total", "num_preemptions_total", "request_success_total",
                 "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket",
                 "e2e_request_latency_seconds_bucket", "request_queue_time_seconds_bucket",
                 "request_prefill_time_seconds_bucket", "request_decode_time_seconds_bucket",
                 "request_prompt_tokens_bucket", "request_generation_tokens_bucket"):
        assert f'\nvllm:{name}{{' in text, name
    assert f'model_name="{MODEL}"' in text and 'finished_reason="stop"' in text and "block_size=" in text
    for path in ("/health", "/ready", "/version", "/openapi.json"):
        assert send("GET", path)[0] == 200, path


@case
def half_open_requests_do_not_keep_others_waiting():
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}:{PORT}\r\nContent-Type: application/json\r\n" \
           "Content-Length: 100\r\n\r\n{"
    sockets = []
    for _ in range(100):
        s = socket.create_connection((HOST, PORT))
        s.sendall(head.encode())
        sockets.append(s)
    begin = time.monotonic()
    assert all(send("GET", "/health")[0] == 200 for _ in range(20))
    assert time.monotonic() - begin < 20
    for s in sockets:
        s.close()


run()
