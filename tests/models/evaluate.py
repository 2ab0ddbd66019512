#!/usr/bin/env python3
"""Ask a served model the held-out prompts and compare the answers with those that `make_corpus.py` gives them.

usage: evaluate.py [--host target/release/rocmforge-host] [--model tests/models/llama-demo-Q4_K_M.gguf] [--url URL]
                   [--parallel 8] [--at-least 98.7]

Starts the host on a free port unless --url names a running server. Prints one line per task and a last line
`N of M right (P %)`; exits with 1 below --at-least (the accuracy recorded in README.md less one percentage point).
Needs nothing but Python's standard library.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
import make_corpus  # noqa: E402


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_ready(url, process, seconds=120):
    end = time.time() + seconds
    while time.time() < end:
        if process.poll() is not None:
            sys.exit(f"the host ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url + "/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit("the host is not ready in time")


def answer(url, messages):
    body = {"messages": messages, "temperature": 0, "max_tokens": 300}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)["choices"][0]["message"]["content"].strip()


def right(case, reply):
    if case["match"] == "story":
        return bool(reply) and make_corpus.check_story(case["messages"][-1]["content"], reply)
    return reply == case["expected"]


def held_out_prompts():
    """As `make_corpus.py --eval` writes them; the same each time."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "eval_prompts.jsonl")
        command = [sys.executable, os.path.join(HERE, "make_corpus.py"), "--eval", path]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(path, encoding="utf-8") as f:
            return [json.loads(line) for line in f]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default=os.path.join(ROOT, "target/release/rocmforge-host"))
    parser.add_argument("--model", default=os.path.join(HERE, "llama-demo-Q4_K_M.gguf"))
    parser.add_argument("--url")
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--at-least", type=float, default=98.7)
    parser.add_argument("--show-wrong", action="store_true")
    args = parser.parse_args()
    cases = held_out_prompts()
    process, url = None, args.url
    if not url:
        port = free_port()
        process = subprocess.Popen([args.host, "--log", "warn", "serve", "--model", args.model, "--port", str(port)])
        url = f"http://127.0.0.1:{port}"
    try:
        if process:
            wait_ready(url, process)
        with concurrent.futures.ThreadPoolExecutor(args.parallel) as pool:
            replies = list(pool.map(lambda case: answer(url, case["messages"]), cases))
    finally:
        if process:
            process.terminate()
            process.wait(60)
    tasks = collections.defaultdict(lambda: [0, 0])
    for case, reply in zip(cases, replies):
        ok = right(case, reply)
        tasks[case["task"]][0] += ok
        tasks[case["task"]][1] += 1
        if args.show_wrong and not ok:
            print(f"{case['id']}: expected {case['expected']!r}, got {reply!r}")
    for task, (good, total) in tasks.items():
        print(f"{task:16} {good:4} of {total}")
    good = sum(g for g, _ in tasks.values())
    share = 100 * good / len(cases)
    print(f"{good} of {len(cases)} right ({share:.1f} %)")
    sys.exit(0 if share >= args.at_least else 1)


if __name__ == "__main__":
    main()
