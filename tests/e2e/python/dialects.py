"""The official clients of Anthropic, OpenAI (responses) and Ollama against a running server: URL MODEL."""

import json
import sys
import time

import anthropic
import ollama
import openai

URL, MODEL = sys.argv[1:]
QUESTION = [{"role": "user", "content": "What is 14 + 74?"}]


def fails(kind, call):
    """The error of a call that must fail in this way."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")


def messages():
    client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
    options = {"model": MODEL, "max_tokens": 16, "messages": QUESTION, "extra_body": {"temperature": 0}}
    message = client.messages.create(**options)
    text = message.content[0].text
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn"), message
    assert text.strip() == "88", message
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 5, message.usage
    assert message.usage.output_tokens > 0

    with client.messages.stream(**options) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == text == final.content[0].text and len(pieces) > 1, pieces
    assert final.stop_reason == "end_turn" and final.usage.output_tokens == message.usage.output_tokens
    kinds = [event.type for event in client.messages.create(**options, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"], kinds
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds

    counted = client.messages.count_tokens(model=MODEL, messages=QUESTION)
    assert counted.input_tokens == message.usage.input_tokens + message.usage.cache_read_input_tokens
    more = client.messages.count_tokens(model=MODEL, messages=QUESTION, system="Answer with a number.")
    assert more.input_tokens > counted.input_tokens

    stopped = client.messages.create(**options | {"stop_sequences": ["8"]})
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "8"), stopped
    cut = client.messages.create(**options | {"max_tokens": 1})
    assert cut.stop_reason == "max_tokens", cut
    tool = {"name": "add", "description": "adds", "input_schema": {
        "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"], "additionalProperties": False}}
    # The first computes the whole prompt, in rounded attention; those after it compute what follows the blocks in the cache,
    # whose few tokens are not rounded, and so agree with each other to the bit.
    for _ in range(2):
        called = client.messages.create(**options | {"max_tokens": 400}, tools=[tool], tool_choice={"type": "tool", "name": "add"})
    uses = [block for block in called.content if block.type == "tool_use"]
    assert uses and uses[0].name == "add" and set(uses[0].input) == {"a", "b"}, called
    assert called.stop_reason == "tool_use", called
    with client.messages.stream(**options | {"max_tokens": 400}, tools=[tool], tool_choice={"type": "tool", "name": "add"}) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        streamed = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    assert streamed[0].input == uses[0].input == json.loads("".join(parts)) and len(parts) > 3, parts
    answered = client.messages.create(**options | {"messages": QUESTION + [
        {"role": "assistant", "content": [{"type": "tool_use", "id": uses[0].id, "name": "add", "input": uses[0].input}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": uses[0].id, "content": "88"}]}]}, tools=[tool])
    assert answered.content, answered

    error = fails(anthropic.NotFoundError, lambda: client.messages.create(**options | {"model": "none"}))
    assert error.body["type"] == "error" and error.body["error"]["type"] == "not_found_error", error.body
    error = fails(anthropic.BadRequestError, lambda: client.messages.create(**options | {"extra_body": {"temperature": 9}}))
    assert "temperature" in error.body["error"]["message"], error.body
    print("anthropic: ok")


def responses():
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    options = {"model": MODEL, "input": "What is 14 + 74?", "temperature": 0, "max_output_tokens": 16}
    response = client.responses.create(**options)
    assert response.output_text.strip() == "88" and response.status == "completed", response
    assert response.store is False if hasattr(response, "store") else True
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens

    events = list(client.responses.create(**options, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"], kinds
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done",
                          "response.completed"], kinds
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == response.output_text
    with client.responses.stream(**options) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == response.output_text

    again = client.responses.create(**options | {"input": [
        {"role": "user", "content": [{"type": "input_text", "text": "What is 1 + 1?"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "2", "annotations": []}]},
        {"role": "user", "content": "What is 14 + 74?"}]}, instructions="Answer with a number.")
    assert again.output_text and again.instructions == "Answer with a number."
    cut = client.responses.create(**options | {"max_output_tokens": 1})
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens"), cut
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": False}
    strict = client.responses.create(**options | {"max_output_tokens": 400}, text={"format": {
        "type": "json_schema", "name": "sum", "schema": schema, "strict": True}})
    assert list(json.loads(strict.output_text)) == ["sum"], strict.output_text
    tool = {"type": "function", "name": "add", "strict": True, "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}}
    called = client.responses.create(**options | {"max_output_tokens": 400}, tools=[tool], tool_choice="required")
    calls = [item for item in called.output if item.type == "function_call"]
    assert calls and calls[0].name == "add" and list(json.loads(calls[0].arguments)) == ["a"], called
    with client.responses.stream(**options | {"max_output_tokens": 400}, tools=[tool], tool_choice="required") as stream:
        parts = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        streamed = [item for item in stream.get_final_response().output if item.type == "function_call"]
    assert streamed[0].arguments == "".join(parts) and len(parts) > 3, parts
    assert json.loads(streamed[0].arguments) == json.loads(calls[0].arguments), streamed
    answered = client.responses.create(**options | {"input": [
        {"role": "user", "content": "What is 14 + 74?"}, calls[0].model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": calls[0].call_id, "output": "88"}]}, tools=[tool])
    assert answered.status in ("completed", "incomplete"), answered

    error = fails(openai.BadRequestError, lambda: client.responses.create(**options, previous_response_id="resp_1"))
    assert error.param == "previous_response_id" and "stored" in error.message, error
    error = fails(openai.NotFoundError, lambda: client.responses.retrieve(response.id))
    assert error.code == "response_not_stored", error
    print("responses: ok")


def local():
    client = ollama.Client(host=URL)
    options = {"temperature": 0, "num_predict": 16}
    answer = client.chat(model=MODEL, messages=QUESTION, options=options)
    assert answer.message.content.strip() == "88" and answer.done and answer.done_reason == "stop", answer
    assert answer.prompt_eval_count > 5 and answer.eval_count > 0 and answer.total_duration > 0, answer
    pieces = list(client.chat(model=f"{MODEL}:latest", messages=QUESTION, options=options, stream=True))
    assert "".join(p.message.content for p in pieces) == answer.message.content and len(pieces) > 1
    assert [p.done for p in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count == answer.eval_count and pieces[-1].eval_duration > 0

    generated = client.generate(model=MODEL, prompt="What is 14 + 74?", options=options)
    assert generated.response == answer.message.content, generated
    pieces = list(client.generate(model=MODEL, prompt="What is 14 + 74?", options=options, stream=True))
    assert "".join(p.response for p in pieces) == answer.message.content
    raw = client.generate(model=MODEL, prompt="The", raw=True, options=options)
    plain = openai.OpenAI(base_url=f"{URL}/v1", api_key="none").completions.create(
        model=MODEL, prompt="The", temperature=0, max_tokens=16)
    assert raw.response == plain.choices[0].text and raw.done, raw
    for more in ({"suffix": "."}, {"images": [b"x"]}):
        error = fails(ollama.ResponseError, lambda: client.generate(model=MODEL, prompt="The", **more))  # noqa: B023
        assert error.status_code == 400 and list(more)[0] in error.error, error
    cut = client.generate(model=MODEL, prompt="What is 14 + 74?", options=options | {"num_predict": 1})
    assert cut.done_reason == "length", cut
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": False}
    strict = client.chat(model=MODEL, messages=QUESTION, options=options | {"num_predict": 400}, format=schema)
    assert list(json.loads(strict.message.content)) == ["sum"], strict

    listed = client.list().models
    assert [m.model for m in listed] == [MODEL] and listed[0].size > 0 and listed[0].details.format == "gguf", listed
    assert [m.model for m in client.ps().models] == [MODEL]
    shown = client.show(MODEL)
    assert "completion" in shown.capabilities and shown.details.family and shown.modelinfo, shown
    error = fails(ollama.ResponseError, lambda: client.chat(model="none", messages=QUESTION))
    assert error.status_code == 404 and "none" in error.error, error

    embedded = client.embed(model=MODEL, input=["What is 14 + 74?", "The cat"])
    assert len(embedded.embeddings) == 2 and embedded.prompt_eval_count > 5, embedded
    assert all(abs(sum(x * x for x in e) - 1) < 1e-5 for e in embedded.embeddings), embedded
    alone = client.embeddings(model=MODEL, prompt="The cat").embedding
    length = sum(x * x for x in alone) ** 0.5
    assert all(abs(x / length - y) < 1e-4 for x, y in zip(alone, embedded.embeddings[1])), "not of length 1, but the same"
    error = fails(ollama.ResponseError, lambda: client.embed(model=MODEL, input="word " * 3000))
    assert error.status_code == 400 and "context" in error.error, error
    assert len(client.embed(model=MODEL, input="word " * 3000, truncate=True).embeddings) == 1

    # The model goes when it is told to, and comes back by itself.
    client.generate(model=MODEL, prompt="", keep_alive=0)
    for _ in range(200):
        if not client.ps().models:
            break
        time.sleep(0.05)
    assert client.ps().models == []
    again = client.chat(model=MODEL, messages=QUESTION, options=options)
    assert again.message.content == answer.message.content
    print("ollama: ok")


messages()
responses()
local()
