"""Drives a running server through the OpenAI adapters of LangChain and LiteLLM. usage: adapters.py URL MODEL

Prints one line per case and `N passed, N failed`; exits with 1 if a case fails.
"""
import json
import os
import sys
from typing import Literal

# Prices are nothing to ask the network for.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from cases import case, run  # noqa: E402

URL, MODEL = sys.argv[1], sys.argv[2]
QUESTION = "What is 14 + 74?"


def chat(**more):
    return ChatOpenAI(model=MODEL, base_url=URL + "/v1", api_key="none", temperature=0, max_retries=0, timeout=120, **more)


def lite(**more):
    return litellm.completion(model="openai/" + MODEL, api_base=URL + "/v1", api_key="none", temperature=0,
                              messages=[{"role": "user", "content": QUESTION}], timeout=120, **more)


class Answer(BaseModel):
    colour: Literal["red", "green"]
    sure: bool


@tool
def weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather in a city."""
    return city


@case
def langchain_invoke():
    r = chat().invoke([HumanMessage(QUESTION)])
    assert r.content.strip() == "88" and r.usage_metadata["total_tokens"] > 0, r


@case
def langchain_stream():
    chunks = list(chat(stream_usage=True).stream(QUESTION))
    assert "".join(c.content for c in chunks).strip() == "88", chunks
    assert sum(c.usage_metadata["output_tokens"] for c in chunks if c.usage_metadata) > 0


@case
def langchain_batch():
    assert [r.content.strip() for r in chat().batch([QUESTION] * 4)] == ["88"] * 4


@case
def langchain_structured_output():
    for method in ("json_schema", "function_calling"):
        r = chat().with_structured_output(Answer, method=method).invoke(QUESTION)
        assert isinstance(r, Answer), (method, r)


@case
def langchain_tools():
    model = chat().bind_tools([weather], tool_choice="required")
    r = model.invoke(QUESTION)
    assert r.tool_calls[0]["name"] == "weather" and r.tool_calls[0]["args"]["city"] in ("Rome", "Oslo"), r
    result = ToolMessage("sunny", tool_call_id=r.tool_calls[0]["id"])
    assert isinstance(chat(max_tokens=20).invoke([HumanMessage(QUESTION), r, result]), AIMessage)
    streamed = None
    for chunk in model.stream(QUESTION):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["name"] == "weather", streamed


@case
def langchain_completions():
    text = OpenAI(model=MODEL, base_url=URL + "/v1", api_key="none", temperature=0, max_tokens=4).invoke("Once upon")
    assert text


@case
def langchain_embeddings():
    # Otherwise it fetches OpenAI's tokenizer to cut texts, and sends tokens of a vocabulary that the model has not.
    embeddings = OpenAIEmbeddings(model=MODEL, base_url=URL + "/v1", api_key="none", check_embedding_ctx_length=False)
    vectors = embeddings.embed_documents(["a", "b", "a"])
    assert len(vectors) == 3 and max(abs(x - y) for x, y in zip(vectors[0], vectors[2])) < 1e-4
    assert len(embeddings.embed_query("a")) == len(vectors[0])


@case
def litellm_embeddings():
    for form in ("float", "base64"):
        r = litellm.embedding(model="openai/" + MODEL, api_base=URL + "/v1", api_key="none", input=["a", "b"],
                              encoding_format=form)
        assert len(r.data) == 2 and r.usage.prompt_tokens > 0, r


@case
def litellm_answers():
    r = lite()
    assert r.choices[0].message.content.strip() == "88" and r.usage.total_tokens > 0, r


@case
def litellm_streams():
    chunks = list(lite(stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).strip() == "88", chunks


@case
def litellm_tools_and_schemas():
    parameters = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
    function = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    r = lite(tools=[function], tool_choice="required")
    assert json.loads(r.choices[0].message.tool_calls[0].function.arguments)["city"] == "Rome", r
    r = lite(response_format=Answer)
    assert Answer.model_validate_json(r.choices[0].message.content), r


@case
def litellm_errors():
    try:
        litellm.completion(model="openai/no-such-model", api_base=URL + "/v1", api_key="none",
                           messages=[{"role": "user", "content": "x"}])
        raise AssertionError("no error")
    except litellm.NotFoundError:
        pass
    try:
        lite(max_tokens=100_000)
        raise AssertionError("no error")
    except litellm.ContextWindowExceededError:
        pass


run()
