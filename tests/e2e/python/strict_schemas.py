"""Asks a running server for answers to random strict schemas and validates each. usage: strict_schemas.py URL MODEL COUNT

Prints `N passed, N failed`; exits with 1 if an answer does not validate.
"""
import json
import random
import sys

import jsonschema
import openai

URL, MODEL, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = openai.OpenAI(base_url=URL + "/v1", api_key="none", max_retries=0, timeout=120)


def schema(rng, depth):
    kind = rng.choice(["leaf", "leaf", "object", "array", "any"] if depth > 0 else ["leaf"])
    if kind == "object":
        names = rng.sample(["a", "name", "B c", "été", "n-1"], rng.randint(1, 4))
        required = [n for n in names if rng.random() < 0.6]
        return {"type": "object", "properties": {n: schema(rng, depth - 1) for n in names}, "required": required,
                "additionalProperties": False}
    if kind == "array":
        least = rng.randint(0, 2)
        return {"type": "array", "items": schema(rng, depth - 1), "minItems": least, "maxItems": least + rng.randint(0, 2)}
    if kind == "any":
        return {"anyOf": [schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
    low, least = rng.randint(-500, 500), rng.randint(0, 3)
    return rng.choice([
        {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 999)},
        {"type": "number", "minimum": 0, "maximum": rng.randint(1, 9)},
        {"type": "boolean"}, {"type": "null"},
        {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 12)},
        {"type": "string", "pattern": "^[A-C]{2,3}-[0-9]+$", "maxLength": 9},
        {"type": "string", "format": "date"},
        {"enum": ["x", 'with "quotes"', 5, None]},
        {"const": "only this"},
    ])


def main():
    passed = failed = cut = 0
    for seed in range(COUNT):
        wanted = schema(random.Random(seed), 3)
        form = {"type": "json_schema", "json_schema": {"name": "random", "strict": True, "schema": wanted}}
        choice = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Write JSON."}], temperature=1.2, seed=seed,
            max_tokens=300, response_format=form).choices[0]
        if choice.finish_reason != "stop":
            cut += 1
            continue
        try:
            checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
            jsonschema.validate(json.loads(choice.message.content), wanted, format_checker=checker)
            passed += 1
        except (ValueError, jsonschema.ValidationError) as e:
            failed += 1
            print("FAILED", json.dumps(wanted), repr(choice.message.content), e)
    print(f"{passed} passed, {failed} failed, {cut} cut off")
    sys.exit(1 if failed or passed < COUNT / 2 else 0)


main()
