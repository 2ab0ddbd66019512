#!/usr/bin/env python3
"""Speed beside other engines, in pairs: ours and theirs in turn on the same machine, medians and ratios as Markdown.

usage: paired.py --host HOST [--llama DIR] [--ik DIR] [--config FILE] [--pairs 5] [--threads 2] [--kv f16] [--what WHAT]... MODEL.gguf...

HOST is rocmforge-host; DIR is the `bin` folder of a build of llama.cpp (llama-bench, llama-batched-bench) and of
ik_llama.cpp (llama-bench, run with `-rtr 1`). What is measured, several as in `--what prompt,batch`:
  prompt      512 tokens at once            generation  64 tokens, one sequence
  batch       16 sequences, 16 tokens each  batch8      8 sequences
  depth       32 tokens after 8192 of context, and as a share of those after none
  deep        512 tokens at once after 4096 of context, and as a share of those after none (not with ik_llama.cpp)
  busy        generation with one busy loop beside (busy2, busy3: with so many)
With `--kv` all engines keep keys and values in that type (f16, q8_0); without, each in its own default.
Each ratio is the median of the ratios of the pairs; a pair during which other processes took more than 5 % of the
processors is thrown away and repeated, up to twice.
"""
import argparse, json, os, resource, statistics, subprocess, sys, tempfile, time

WHAT = ["prompt", "generation", "batch", "batch8", "depth", "deep", "busy", "busy2", "busy3"]
SHARES = {"depth share": "depth", "deep share": "deep"}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--host", required=True)
    p.add_argument("--llama")
    p.add_argument("--ik")
    p.add_argument("--config")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--kv")
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


def with_kv(kv):
    """A configuration with that type of the CPU backend's cache; libraries lie beside the program."""
    config = tempfile.NamedTemporaryFile("w", suffix=".toml", delete=False)
    config.write(f'[[plugins]]\nname = "backend-cpu"\noptions = {{ kv_type = "{kv}" }}\n')
    config.writelines(f'[[plugins]]\nname = "arch-{name}"\noptional = true\n'
                      for name in ("llama", "mistral", "qwen2", "gemma", "glm", "phi3"))
    config.close()
    return config.name


class Ours:
    name = "rocmforge"

    def __init__(self, args):
        config = with_kv(args.kv) if args.kv else args.config
        self.command = [args.host] + (["--config", config] if config else [])
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
            return with_share("depth", *(f["tg"]["tokens_per_second"] for f in found)), max(others)
        if what == ["deep"]:
            found, others = zip(*(self.bench(model, "-p", "512", "-n", "0", "-b", "0", "-d", d, "--no-limits")
                                  for d in ("4096", "0")))
            return with_share("deep", *(f["pp"]["tokens_per_second"] for f in found)), max(others)
        prompt = "512" if "prompt" in what else "0"
        batch = "16" if "batch" in what else "8" if "batch8" in what else "0"
        found, others = self.bench(model, "-p", prompt, "-n", "64", "-b", batch)
        parts = {"prompt": found["pp"], "generation": found["tg"], "batch": found["batch"], "batch8": found["batch"]}
        parts |= {name: found["tg"] for name in WHAT if name.startswith("busy")}
        self.limits.append(found["limits"])
        for name, key in ("prompt", "products_share"), ("generation", "bandwidth_share"), ("batch", "products_share"):
            if name in what and parts[name][key]:
                self.shares.setdefault(name, []).append(parts[name][key])
        return {name: parts[name]["tokens_per_second"] for name in what}, others


def with_share(name, deep, shallow):
    return {name: deep, f"{name} share": deep / shallow}


class Theirs:
    def __init__(self, name, folder, threads, more, kv):
        self.name, self.folder, self.threads, self.more = name, folder, threads, more
        self.kv = ["-ctk", kv, "-ctv", kv, "-fa", "1"] if kv else []

    def llama_bench(self, model, *sizes):
        out, others = run([os.path.join(self.folder, "llama-bench"), "-m", model, "-t", str(self.threads), "-r", "1",
                           "-o", "json", *sizes, *self.more, *self.kv])
        return json.loads(out), others

    def speeds(self, model, what):
        if self.more and what in (["batch"], ["batch8"], ["deep"]):
            return {name: None for name in [*what, *(n for n, of in SHARES.items() if of in what)]}, 0.0
        if what[0].startswith("batch"):
            out, others = run([os.path.join(self.folder, "llama-batched-bench"), "-m", model, "-t", str(self.threads),
                               "-npp", "1", "-ntg", "16", "-npl", "8" if what == ["batch8"] else "16", "-c", "1024",
                               "--output-format", "jsonl"])
            return {what[0]: [json.loads(l) for l in out.splitlines() if l.startswith("{")][-1]["speed_tg"]}, others
        if what == ["depth"] and self.more:
            # Its bench has no option for the depth, but for tokens after a prompt that is not counted.
            found, others = self.llama_bench(model, "-p", "0", "-n", "32", "-gp", "8192,32")
            return with_share("depth", *(max(f["avg_ts"] for f in found if (f["n_prompt"] > 0) == deep)
                                         for deep in (True, False))), others
        if what in (["depth"], ["deep"]):
            sizes = ("-p", "0", "-n", "32", "-d", "0,8192")
            if what == ["deep"]:
                sizes = ("-p", "512", "-n", "0", "-d", "0,4096")
            found, others = self.llama_bench(model, *sizes)
            return with_share(what[0], *(f["avg_ts"] for f in sorted(found, key=lambda f: -f["n_depth"]))), others
        found, others = self.llama_bench(model, "-p", "512" if "prompt" in what else "0", "-n", "64")
        of = {bool(f["n_prompt"]): f["avg_ts"] for f in found}
        return {name: of[name == "prompt"] for name in what}, others


def pairs(args, engines, model, what):
    """For each engine by name its speeds, one per pair."""
    names = [*what, *(name for name, of in SHARES.items() if of in what)]
    speeds = [{name: [] for name in names} for _ in engines]
    count = int(what[0][4:] or 1) if what[0].startswith("busy") else 0
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        for _ in range(args.pairs):
            for attempt in range(3):
                found = [engine.speeds(model, what) for engine in engines]
                if loops or max(others for _, others in found) < 0.05:
                    break
            for speed, (values, _) in zip(speeds, found):
                for name in names:
                    speed[name].append(values[name])
    finally:
        for loop in loops:
            loop.kill()
    return speeds


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def row(engines, model, what, speeds):
    """A model's line in the table of each thing measured."""
    ours = engines[0]
    for name in speeds[0]:
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
        engines.append(Theirs("llama.cpp", args.llama, args.threads, [], args.kv))
    if args.ik:
        engines.append(Theirs("ik_llama.cpp", args.ik, args.threads, ["-rtr", "1"], args.kv))
    asked = args.what.split(",")
    if not set(asked) <= set(WHAT):
        sys.exit(f"--what: expected some of {', '.join(WHAT)}, found '{args.what}'")
    # A prompt and generation after it are one run.
    together = [name for name in asked if name in ("prompt", "generation")]
    runs = ([together] if together else []) + [[name] for name in asked if name not in together]
    tables = {name: [] for name in [*asked, *(name for name, of in SHARES.items() if of in asked)]}
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
        unit = "share of the speed without context" if name in SHARES else "tokens per second"
        print(f"\n{name}, {unit}, median of {args.pairs} pairs\n")
        print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|\n" + "\n".join(lines))
    found = [l for l in engines[0].limits if l.get("bytes_per_second") and l.get("products_per_second")]
    if found:
        read = statistics.median(l["bytes_per_second"] for l in found)
        products = statistics.median(l["products_per_second"] for l in found)
        print(f"\nlimits meanwhile: {read / 1e9:.1f} GB/s, {products / 1e9:.0f} G products of 8 bits or of bfloat16 per second")


main()
