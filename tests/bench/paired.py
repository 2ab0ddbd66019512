#!/usr/bin/env python3
"""Speed beside other engines, in pairs: ours and theirs in turn on the same machine, medians and ratios as Markdown.

usage: paired.py --host HOST [--llama DIR] [--ik DIR] [--config FILE] [--pairs 5] [--threads 2] [--what pp,tg]... MODEL.gguf...

HOST is rocmforge-host; DIR is the `bin` folder of a build of llama.cpp (llama-bench, llama-batched-bench) and of
ik_llama.cpp (llama-bench, run with `-rtr 1`). What is measured, several as in `--what prompt,batch`:
  prompt      512 tokens at once            generation  64 tokens, one sequence
  batch       16 sequences, 16 tokens each  depth       32 tokens after 8192 of context, as a share of those after none
  busy        generation with one busy loop beside
Each ratio is the median of the ratios of the pairs; a pair during which other processes took more than 5 % of the
processors is thrown away and repeated, up to twice.
"""
import argparse, json, os, resource, statistics, subprocess, sys, time

WHAT = ["prompt", "generation", "batch", "depth", "busy"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--host", required=True)
    p.add_argument("--llama")
    p.add_argument("--ik")
    p.add_argument("--config")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--what", default="prompt,generation")
    p.add_argument("models", nargs="+")
    return p.parse_args()


def busy_seconds():
    """Processor seconds of the whole machine since its start, and of this process's ended children."""
    fields = [int(f) for f in open("/proc/stat").readline().split()[1:]]
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK"), own.ru_utime + own.ru_stime


def run(command):
    """Standard output, and the share of the processors that others took meanwhile."""
    (all0, own0), start = busy_seconds(), time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    (all1, own1), wall = busy_seconds(), time.monotonic() - start
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout, (all1 - all0 - own1 + own0) / (wall * os.cpu_count())


class Ours:
    name = "rocmforge"

    def __init__(self, args):
        self.command = [args.host] + (["--config", args.config] if args.config else [])
        self.threads = args.threads
        self.shares, self.limits = {}, []

    def bench(self, model, *more):
        out, others = run(self.command + ["--threads", str(self.threads), "bench", "--model", model, "-r", "1",
                                          "--json", *more])
        return json.loads(out), others

    def speeds(self, model, what):
        """By name what is asked for; and what others took."""
        if what == ["depth"]:
            found, others = zip(*(self.bench(model, "-p", "0", "-n", "32", "-b", "0", "-d", d, "--no-limits")
                                  for d in ("8192", "0")))
            return {"depth": found[0]["tg"]["tokens_per_second"] / found[1]["tg"]["tokens_per_second"]}, max(others)
        prompt = "512" if "prompt" in what else "0"
        batch = "16" if "batch" in what else "0"
        found, others = self.bench(model, "-p", prompt, "-n", "64", "-b", batch)
        parts = {"prompt": found["pp"], "generation": found["tg"], "busy": found["tg"], "batch": found["batch"]}
        self.limits.append(found["limits"])
        for name, key in ("prompt", "products_share"), ("generation", "bandwidth_share"), ("batch", "products_share"):
            if name in what and parts[name][key]:
                self.shares.setdefault(name, []).append(parts[name][key])
        return {name: parts[name]["tokens_per_second"] for name in what}, others


class Theirs:
    def __init__(self, name, folder, threads, more):
        self.name, self.folder, self.threads, self.more = name, folder, threads, more

    def llama_bench(self, model, *sizes):
        out, others = run([os.path.join(self.folder, "llama-bench"), "-m", model, "-t", str(self.threads), "-r", "1",
                           "-o", "json", *sizes, *self.more])
        return json.loads(out), others

    def speeds(self, model, what):
        if self.more and what in (["batch"], ["depth"]):
            return {what[0]: None}, 0.0
        if what == ["batch"]:
            out, others = run([os.path.join(self.folder, "llama-batched-bench"), "-m", model, "-t", str(self.threads),
                               "-npp", "1", "-ntg", "16", "-npl", "16", "-c", "1024", "--output-format", "jsonl"])
            return {"batch": [json.loads(l) for l in out.splitlines() if l.startswith("{")][-1]["speed_tg"]}, others
        if what == ["depth"]:
            found, others = zip(*(self.llama_bench(model, "-p", "0", "-n", "32", "-d", d) for d in ("8192", "0")))
            return {"depth": found[0][0]["avg_ts"] / found[1][0]["avg_ts"]}, max(others)
        found, others = self.llama_bench(model, "-p", "512" if "prompt" in what else "0", "-n", "64")
        of = {name: f["avg_ts"] for f in found for name in (["prompt"] if f["n_prompt"] else ["generation", "busy"])}
        return {name: of[name] for name in what}, others


def pairs(args, engines, model, what):
    """For each engine by name its speeds, one per pair."""
    speeds = [{name: [] for name in what} for _ in engines]
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if what == ["busy"] else None
    try:
        for _ in range(args.pairs):
            for attempt in range(3):
                found = [engine.speeds(model, what) for engine in engines]
                if loop or max(others for _, others in found) < 0.05:
                    break
            for speed, (values, _) in zip(speeds, found):
                for name in what:
                    speed[name].append(values[name])
    finally:
        if loop:
            loop.kill()
    return speeds


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def row(engines, model, what, speeds):
    """A model's line in the table of each thing measured."""
    ours = engines[0]
    for name in what:
        of = [s[name] for s in speeds]
        medians = [statistics.median(s) if s[0] is not None else None for s in of]
        ratios = [statistics.median(a / b for a, b in zip(of[0], s)) if s[0] is not None else None for s in of[1:]]
        cells = [os.path.basename(model).removesuffix(".gguf")]
        cells += [number(v) if v is not None else "-" for v in medians + ratios]
        if name in ours.shares:
            cells.append(f"{100 * statistics.median(ours.shares[name]):.0f} %")
        yield name, "| " + " | ".join(cells) + " |"


def main():
    args = arguments()
    engines = [Ours(args)]
    if args.llama:
        engines.append(Theirs("llama.cpp", args.llama, args.threads, []))
    if args.ik:
        engines.append(Theirs("ik_llama.cpp", args.ik, args.threads, ["-rtr", "1"]))
    asked = args.what.split(",")
    if not set(asked) <= set(WHAT):
        sys.exit(f"--what: expected some of {', '.join(WHAT)}, found '{args.what}'")
    # A prompt and generation after it are one run.
    together = [name for name in asked if name in ("prompt", "generation")]
    runs = ([together] if together else []) + [[name] for name in asked if name not in together]
    tables = {name: [] for name in asked}
    for model in args.models:
        for what in runs:
            engines[0].shares = {}
            for name, line in row(engines, model, what, pairs(args, engines, model, what)):
                tables[name].append(line)
                print(f"{name}: {line}", file=sys.stderr, flush=True)
    for name, lines in tables.items():
        head = ["model"] + [e.name for e in engines] + [f"ratio to {e.name}" for e in engines[1:]]
        share = {"prompt": "share of products", "generation": "share of bandwidth", "batch": "share of products"}
        head += [share[name]] if name in share else []
        unit = "share of the speed without context" if name == "depth" else "tokens per second"
        print(f"\n{name}, {unit}, median of {args.pairs} pairs\n")
        print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n" + "\n".join(lines))
    found = [l for l in engines[0].limits if l.get("bytes_per_second") and l.get("products_per_second")]
    if found:
        read = statistics.median(l["bytes_per_second"] for l in found)
        products = statistics.median(l["products_per_second"] for l in found)
        print(f"\nlimits meanwhile: {read / 1e9:.1f} GB/s, {products / 1e9:.0f} G products of 8 bits per second")


main()
