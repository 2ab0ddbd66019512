"""Scores texts with lm-eval through the completions endpoint of a running server.
usage: lm_eval_scores.py URL MODEL HOST CONFIG

Sums with one right and three wrong results, in lm-eval's own multiple-choice task. Prints the accuracy; exits with 1 if
it is not above chance, or if the scores do not match the server's own log-probabilities, or those of the logits that the
program HOST computes of the model, which CONFIG names, without a server.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import httpx  # noqa: E402
import lm_eval  # noqa: E402
import numpy  # noqa: E402

URL, MODEL, HOST, CONFIG = sys.argv[1:]
SUMS = 24


def documents():
    rng = random.Random(1)
    for _ in range(SUMS):
        a, b = rng.randint(1, 49), rng.randint(1, 49)
        wrong = rng.sample([a + b + d for d in (-11, -7, -3, 2, 5, 9) if a + b + d > 0], 3)
        choices = [str(n) for n in [a + b, *wrong]]
        messages = [{"role": "user", "content": f"What is {a} + {b}?"}]
        prompt = httpx.post(URL + "/apply-template", json={"model": MODEL, "messages": messages}).json()["prompt"]
        yield {"prompt": prompt, "choices": choices, "gold": 0}


def task(path):
    return {
        "task": "sums", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": path}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_target": "gold", "doc_to_choice": "choices",
        "target_delimiter": "", "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def accuracy(path, **args):
    results = lm_eval.simple_evaluate(
        model="local-completions", tasks=[task(path)], bootstrap_iters=0, verbosity="ERROR",
        model_args={"model": MODEL, "base_url": URL + "/v1/completions", "num_concurrent": 4, "max_retries": 1, **args})
    return results["results"]["sums"]["acc,none"], results["samples"]["sums"]


def post(path, **body):
    return httpx.post(URL + path, timeout=120, json={"model": MODEL, **body}).json()


def own_score(context, choice):
    """The log-likelihood of the choice after the context, from one request of our own."""
    scores = post("/v1/completions", prompt=context + choice, max_tokens=0, echo=True, logprobs=1,
                  add_special_tokens=False)["choices"][0]["logprobs"]["token_logprobs"]
    count = len(post("/tokenize", prompt=choice, add_special_tokens=False)["tokens"])
    return sum(scores[-count:])


def direct_score(context, choice, folder):
    """The same from the logits of the model, in double precision."""
    context, choice = (post("/tokenize", prompt=text, add_special_tokens=False)["tokens"] for text in (context, choice))
    tokens, out = context + choice, os.path.join(folder, "logits.npy")
    ids = ",".join(map(str, tokens))
    subprocess.run([HOST, "--config", CONFIG, "logits", "--model", MODEL, "--tokens", ids, "--out", out], check=True,
                   stderr=subprocess.DEVNULL)
    rows = numpy.load(out).astype(numpy.float64)[len(context) - 1:-1]
    rows -= rows.max(axis=1, keepdims=True)
    chosen = rows[numpy.arange(len(choice)), choice] - numpy.log(numpy.exp(rows).sum(axis=1))
    return float(chosen.sum())


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "sums.jsonl")
        with open(path, "w") as file:
            file.writelines(json.dumps(d) + "\n" for d in documents())
        found, samples = accuracy(path, tokenizer_backend="remote", tokenized_requests=True)
    print(f"{found:.3f} of {SUMS} sums with lm-eval {lm_eval.__version__}")
    own, direct = [], []
    with tempfile.TemporaryDirectory() as folder:
        for sample in samples[:4]:
            for (context, choice), response in zip(sample["arguments"], sample["filtered_resps"]):
                own.append(abs(float(response[0]) - own_score(context, choice)))
                direct.append(abs(float(response[0]) - direct_score(context, choice, folder)))
    print(f"largest difference of {len(own)} scores from the server's own: {max(own):.2e}; "
          f"from the logits without a server: {max(direct):.2e}")
    sys.exit(0 if found > 0.5 and max(own) < 1e-3 and max(direct) < 1e-3 else 1)


main()
