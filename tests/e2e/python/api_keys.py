"""Drives a server that has API keys with the official openai client. usage: api_keys.py URL MODEL KEY..

Prints one line per case and `N passed, N failed`; exits with 1 if a case fails.
"""
import sys

import openai

from cases import case, run

URL, MODEL, KEYS = sys.argv[1], sys.argv[2], sys.argv[3:]
QUESTION = [{"role": "user", "content": "What is 14 + 74?"}]


def client(key):
    return openai.OpenAI(base_url=URL + "/v1", api_key=key, max_retries=0, timeout=120)


@case
def every_key_is_answered():
    for key in KEYS:
        r = client(key).chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
        assert r.choices[0].message.content.strip() == "88", r
        assert MODEL in [m.id for m in client(key).models.list()]


@case
def streams_with_a_key():
    chunks = client(KEYS[0]).chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).strip() == "88"


@case
def a_wrong_key_is_an_authentication_error():
    for wrong in ["wrong", KEYS[0] + "x", KEYS[0][:-1], "plain:" + KEYS[0]]:
        for call in [lambda c: c.models.list(),
                     lambda c: c.chat.completions.create(model=MODEL, messages=QUESTION),
                     lambda c: c.completions.create(model=MODEL, prompt="x", stream=True)]:
            try:
                call(client(wrong))
            except openai.AuthenticationError as e:
                assert e.status_code == 401 and e.code == "invalid_api_key", e.body
                assert e.response.headers["www-authenticate"] == "Bearer", e.response.headers
                assert e.request_id, e.response.headers
            else:
                raise AssertionError(f"{wrong} is taken")


run()
