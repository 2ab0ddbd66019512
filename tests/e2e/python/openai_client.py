"""Drives a running server with the official openai client. usage: openai_client.py URL MODEL

Prints one line per case and `N passed, N failed`; exits with 1 if a case fails.
"""
import asyncio
import json
import sys
from typing import Literal

import httpx
import openai
from pydantic import BaseModel, Field

from cases import case, run

URL, MODEL = sys.argv[1], sys.argv[2]
client = openai.OpenAI(base_url=URL + "/v1", api_key="none", max_retries=0, timeout=120)
QUESTION = [{"role": "user", "content": "What is 14 + 74?"}]


def raises(kind, status, param, **request):
    try:
        client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, **request})
    except kind as e:
        assert e.status_code == status, e
        assert e.param == param, (e.param, e.body)
        return e
    raise AssertionError(f"expected {kind.__name__}")


@case
def lists_models():
    ids = [m.id for m in client.models.list()]
    assert MODEL in ids, ids
    assert client.models.retrieve(MODEL).id == MODEL


@case
def answers():
    r = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert r.choices[0].message.content.strip() == "88", r
    assert r.choices[0].message.role == "assistant"
    assert r.choices[0].finish_reason == "stop"
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens > 2
    assert r.id and r.object == "chat.completion" and r.model == MODEL


@case
def streams():
    chunks = list(client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, stream=True,
                                                 stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == "88", text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(c.usage is None for c in chunks[:-1])


@case
def streams_a_story_in_pieces():
    chunks = list(client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Tell me a story about a fox and a lamp."}],
        temperature=0, stream=True))
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(pieces) > 20, pieces


@case
def system_message_and_content_parts():
    r = client.chat.completions.create(model=MODEL, temperature=0, messages=[
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "14 + 74?"}]}])
    assert r.choices[0].message.content.strip() == "88", r


@case
def limits_length():
    r = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1, temperature=0)
    assert r.choices[0].finish_reason == "length" and r.usage.completion_tokens == 1
    r = client.chat.completions.create(model=MODEL, messages=QUESTION, max_completion_tokens=1, temperature=0)
    assert r.choices[0].finish_reason == "length"


@case
def stops_at_a_string():
    r = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=60, temperature=0, stop=["e"])
    assert "e" not in r.choices[0].text and r.choices[0].finish_reason == "stop", r


@case
def repeats_with_a_seed():
    ask = lambda seed: client.completions.create(  # noqa: E731
        model=MODEL, prompt="The", max_tokens=24, temperature=1.5, seed=seed).choices[0].text
    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(6)}) > 1


@case
def logprobs():
    r = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, logprobs=True, top_logprobs=3)
    for entry in r.choices[0].logprobs.content:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
        assert abs(entry.logprob - entry.top_logprobs[0].logprob) < 1e-6


@case
def several_choices():
    r = client.chat.completions.create(model=MODEL, messages=QUESTION, n=3, temperature=0)
    assert [c.index for c in r.choices] == [0, 1, 2]
    assert {c.message.content.strip() for c in r.choices} == {"88"}


@case
def completions_stream_and_batches():
    r = client.completions.create(model=MODEL, prompt=["The", "A"], max_tokens=3, temperature=0)
    assert [c.index for c in r.choices] == [0, 1]
    chunks = list(client.completions.create(model=MODEL, prompt="The", max_tokens=5, temperature=0, stream=True))
    assert "".join(c.choices[0].text for c in chunks if c.choices) != ""


@case
def logit_bias_decides():
    r = client.completions.create(model=MODEL, prompt="The", max_tokens=4, temperature=0, logit_bias={"35": 100})
    assert r.usage.completion_tokens == 4 and len(set(r.choices[0].text)) == 1, r.choices[0].text


@case
def refuses_what_is_wrong():
    raises(openai.BadRequestError, 400, "temperature", temperature=3)
    raises(openai.BadRequestError, 400, "top_p", top_p=-1)
    raises(openai.BadRequestError, 400, "max_tokens", max_tokens=-1)
    raises(openai.NotFoundError, 404, "model", model="no-such-model")
    e = raises(openai.BadRequestError, 400, "messages", messages=[{"role": "user", "content": "word " * 3000}])
    assert e.code == "context_length_exceeded", e.body


@case
def survives_a_client_that_leaves():
    stream = client.completions.create(model=MODEL, prompt="The", max_tokens=900, stream=True,
                                       extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    answers()


WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather in a city.", "strict": True,
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]},
                                                    "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                   "required": ["city", "days"], "additionalProperties": False}}}


class Sum(BaseModel):
    result: int = Field(ge=0, le=999)
    unit: Literal["none", "apples"]
    steps: list[bool] = Field(max_length=3)


class City(BaseModel):
    city: Literal["Rome", "Oslo"]


@case
def answers_are_parsed_into_classes():
    r = client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Sum, temperature=1, seed=3)
    assert isinstance(r.choices[0].message.parsed, Sum), r
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, response_format=Sum, temperature=0) as stream:
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Sum), parsed


@case
def json_mode():
    r = client.chat.completions.create(model=MODEL, messages=QUESTION, response_format={"type": "json_object"},
                                       temperature=1, seed=1, max_tokens=400)
    if r.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(r.choices[0].message.content), dict), r


@case
def grammars():
    ask = lambda **extra: client.chat.completions.create(  # noqa: E731
        model=MODEL, messages=QUESTION, temperature=1, extra_body=extra).choices[0].message.content
    assert ask(guided_choice=["red", "green"]) in ("red", "green")
    assert ask(structured_outputs={"regex": "[0-9]{3}"}).isdigit()
    assert ask(grammar='root ::= "<" [a-c]{2} ">"')[0] == "<"


@case
def calls_tools():
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        r = client.chat.completions.create(model=MODEL, messages=QUESTION, tools=[WEATHER], tool_choice=choice,
                                           parallel_tool_calls=False, temperature=1, seed=1)
        (call,) = r.choices[0].message.tool_calls
        assert call.type == "function" and call.function.name == "weather" and call.id
        assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
        assert r.choices[0].finish_reason == "tool_calls" and r.choices[0].message.content is None
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    r = client.chat.completions.create(model=MODEL, tools=[WEATHER], temperature=0,
                                       messages=[*QUESTION, r.choices[0].message, result], max_tokens=20)
    assert r.choices[0].message.role == "assistant"


@case
def streams_calls_of_tools():
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, tool_choice="required", temperature=0,
                                        tools=[openai.pydantic_function_tool(City, name="city")]) as stream:
        kinds = {event.type for event in stream}
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds, kinds
    assert isinstance(call.function.parsed_arguments, City), call


@case
def tools_that_are_not_called():
    r = client.chat.completions.create(model=MODEL, messages=QUESTION, tools=[WEATHER], tool_choice="none", temperature=0)
    assert r.choices[0].message.content.strip() == "88" and not r.choices[0].message.tool_calls, r


@case
def scores_a_text():
    r = client.completions.create(model=MODEL, prompt="What is 14 + 74?", max_tokens=0, echo=True, logprobs=1)
    scores = r.choices[0].logprobs
    assert r.choices[0].text == "What is 14 + 74?" and scores.token_logprobs[0] is None
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == len(scores.text_offset)
    assert all(p <= 0 for p in scores.token_logprobs[1:]) and r.usage.completion_tokens == 0


@case
def the_best_of_several():
    r = client.completions.create(model=MODEL, prompt="The", max_tokens=8, n=2, best_of=4, temperature=1, seed=2)
    assert [c.index for c in r.choices] == [0, 1] and r.usage.completion_tokens > 16, r


@case
def streams_log_probabilities_and_running_usage():
    chunks = list(client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, logprobs=True, top_logprobs=2, stream=True,
        stream_options={"include_usage": True}, extra_body={"stream_options": {
            "include_usage": True, "continuous_usage_stats": True}}))
    entries = [e for c in chunks if c.choices and c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert entries and all(len(e.top_logprobs) == 2 for e in entries), chunks
    assert all(c.usage is not None for c in chunks)


def near(a, b, tolerance=1e-6):
    return len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b))


@case
def embeds_texts():
    # The client asks for base64 unless told otherwise.
    texts = ["What is 14 + 74?", "What is 14 + 75?", "The cat sat on the mat.", "word " * 300]
    r = client.embeddings.create(model=MODEL, input=texts)
    vectors = [e.embedding for e in r.data]
    assert [e.index for e in r.data] == [0, 1, 2, 3] and r.usage.prompt_tokens == r.usage.total_tokens > 300, r.usage
    assert all(abs(sum(x * x for x in v) - 1) < 1e-5 for v in vectors)
    floats = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    assert all(near(a, b.embedding) for a, b in zip(vectors, floats.data))
    similar = lambda a, b: sum(x * y for x, y in zip(a, b))  # noqa: E731
    assert similar(vectors[0], vectors[1]) > similar(vectors[0], vectors[2]), "what is alike is near"
    for text, expected in zip(texts, vectors):
        alone = client.embeddings.create(model=MODEL, input=text).data[0].embedding
        assert near(alone, expected, 1e-4), "it does not depend on what else is embedded"
        tokens = httpx.post(URL + "/tokenize", json={"model": MODEL, "content": text, "add_special": True}).json()
        again = client.embeddings.create(model=MODEL, input=tokens["tokens"]).data[0].embedding
        assert near(again, expected, 1e-4)
    lists = client.embeddings.create(model=MODEL, input=[tokens["tokens"], [1, 2, 3]])
    assert len(lists.data) == 2 and near(lists.data[0].embedding, expected, 1e-4)


@case
def embeddings_in_other_forms():
    ask = lambda **more: client.embeddings.create(model=MODEL, input="The cat", **more).data[0].embedding  # noqa: E731
    whole, short = ask(), ask(dimensions=8)
    length = sum(x * x for x in whole[:8]) ** 0.5
    assert near(short, [x / length for x in whole[:8]], 1e-6)
    mean, last = ask(extra_body={"pooling": "mean"}), ask(extra_body={"pooling": "last"})
    assert near(whole, mean) and not near(mean, last, 1e-3)
    raw = ask(extra_body={"normalize": False})
    length = sum(x * x for x in raw) ** 0.5
    assert near(whole, [x / length for x in raw], 1e-5)
    many = client.embeddings.create(model=MODEL, input=["a", "b"] * 300)
    assert len(many.data) == 600 and near(many.data[0].embedding, many.data[598].embedding, 1e-4)


@case
def embeddings_that_are_refused():
    def wrong(param, code=400, error=openai.BadRequestError, **more):
        try:
            client.embeddings.create(**{"model": MODEL, "input": "a", **more})
            raise AssertionError(more)
        except error as e:
            assert e.status_code == code and e.param == param, e
            return e
    wrong("dimensions", dimensions=100_000)
    wrong("dimensions", dimensions=0)
    wrong("input", input=[])
    wrong("input[1]", input=["a", ""], extra_body={"add_special_tokens": False})
    wrong("input", input=[10**9])
    wrong("encoding_format", encoding_format="int8")
    wrong("model", code=404, error=openai.NotFoundError, model="no-such-model")
    assert wrong("input", input="word " * 3000).code == "context_length_exceeded"


@case
def samplers_of_other_servers():
    for extra in ({"min_p": 0.1}, {"typical_p": 0.9}, {"top_n_sigma": 1}, {"mirostat": 1}, {"mirostat": 2},
                  {"dry_multiplier": 0.8}, {"xtc_probability": 0.5}, {"repetition_penalty": 1.2}, {"top_k": 5},
                  {"min_tokens": 5, "ignore_eos": True}, {"allowed_token_ids": [35, 36]}):
        ask = lambda: client.completions.create(  # noqa: E731
            model=MODEL, prompt="The", max_tokens=8, temperature=1, seed=4, extra_body=extra).choices[0].text
        assert ask() == ask(), extra


@case
def nulls_are_absent():
    nothing = {name: None for name in (
        "temperature top_p n stop max_tokens max_completion_tokens seed logit_bias logprobs top_logprobs tools "
        "tool_choice response_format stream stream_options user presence_penalty frequency_penalty").split()}
    r = httpx.post(URL + "/v1/chat/completions", timeout=120, json={"model": MODEL, "messages": QUESTION, **nothing})
    assert r.status_code == 200, r.text


@case
def request_ids():
    r = client.chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION, max_tokens=1,
                                                         extra_headers={"x-request-id": "my-id"})
    assert r.headers["x-request-id"] == "my-id" and r.request_id == "my-id"
    try:
        client.chat.completions.create(model=MODEL, messages=[])
    except openai.BadRequestError as e:
        assert e.request_id and e.code == "invalid_value" and e.type == "invalid_request_error", e.body


@case
def more_that_is_wrong():
    raises(openai.BadRequestError, 400, "response_format.type", response_format={"type": "xml"})
    raises(openai.BadRequestError, 400, "tools[0].type", tools=[{"type": "custom"}])
    raises(openai.BadRequestError, 400, "tool_choice", tool_choice="required")
    raises(openai.BadRequestError, 400, "stop", stop=["x"] * 17)
    raises(openai.BadRequestError, 400, "nonsense", extra_body={"nonsense": 1})
    raises(openai.BadRequestError, 400, "messages[0].role", messages=[{"role": "robot", "content": "x"}])
    schema = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "thing"}}}
    raises(openai.BadRequestError, 400, "response_format.json_schema.schema", response_format=schema)


@case
def timeouts_leave_nothing_behind():
    try:
        client.with_options(timeout=0.2).completions.create(model=MODEL, prompt="The", max_tokens=900,
                                                            extra_body={"ignore_eos": True}, n=8)
        raise AssertionError("that was too fast for this test")
    except openai.APITimeoutError:
        pass
    answers()


@case
def asynchronous_clients_run_side_by_side_and_cancel():
    async def run():
        own = openai.AsyncOpenAI(base_url=URL + "/v1", api_key="none", max_retries=0, timeout=120)
        one = lambda: own.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)  # noqa: E731
        long = asyncio.create_task(own.completions.create(model=MODEL, prompt="The", max_tokens=900,
                                                          extra_body={"ignore_eos": True}))
        texts = [r.choices[0].message.content.strip() for r in await asyncio.gather(*(one() for _ in range(8)))]
        assert texts == ["88"] * 8, texts
        long.cancel()
        try:
            await long
        except asyncio.CancelledError:
            pass
        await own.close()
    asyncio.run(run())
    answers()


@case
def the_api_describes_itself():
    document = httpx.get(URL + "/openapi.json").json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["temperature"]["maximum"] == 2 and "messages" in body["required"]


run()
