"""Drives a running server with the official openai client. usage: openai_client.py URL MODEL

Prints one line per case and `N passed, N failed`; exits with 1 if a case fails.
"""
import sys
import traceback

import openai

URL, MODEL = sys.argv[1], sys.argv[2]
client = openai.OpenAI(base_url=URL + "/v1", api_key="none", max_retries=0, timeout=120)
QUESTION = [{"role": "user", "content": "What is 14 + 74?"}]
CASES = []


def case(f):
    CASES.append(f)
    return f


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


def main():
    failed = 0
    for f in CASES:
        try:
            f()
            print("ok     ", f.__name__)
        except Exception:  # noqa: BLE001
            failed += 1
            print("FAILED ", f.__name__)
            traceback.print_exc(file=sys.stdout)
    print(f"{len(CASES) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
