#!/usr/bin/env python3
"""How near a configuration's logits are to the recorded ones of the reference models.

usage: compare_logits.py ROCMFORGE-HOST PLUGINS.TOML [FOLDER] [--most 5e-4]

Runs `rocmforge-host logits` for every recorded sequence, whole and in steps of one token, and prints the largest
difference of each model; exits with 1 if one is above --most. Needs numpy. FOLDER is tests/models/reference by default.
For HIP, whose usual activations are rounded, the file gives `options = { kv_type = "f32", activations = "f32" }`.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("host")
parser.add_argument("config")
parser.add_argument("folder", nargs="?", default=pathlib.Path(__file__).parent / "reference", type=pathlib.Path)
parser.add_argument("--most", type=float, default=5e-4)
args = parser.parse_args()


def logits(model, ids, chunk):
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/logits.npy"
        command = [args.host, "--config", args.config, "logits", "--no-fallback", "--model", str(model), "--out", out]
        command += ["--context-length", "256", "--tokens", ",".join(map(str, ids))]
        if chunk:
            command += ["--chunk", str(chunk)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{model}: {done.stderr}")
        return np.load(out)


worst = 0.0
print("| model | whole | token by token |\n|---|---|---|")
for folder in sorted(args.folder.iterdir()):
    model = folder / "model.gguf"
    if not model.is_file():
        continue
    differences = [0.0, 0.0]
    for sequence in json.loads((folder / "expected.json").read_text())["sequences"].values():
        recorded = sequence.get("logits")
        if not isinstance(recorded, str) or not (folder / recorded).is_file():
            continue
        expected = np.load(folder / recorded)
        for i, chunk in enumerate((0, 1)):
            found = logits(model, sequence["ids"], chunk)
            difference = np.abs(found - expected).max()
            # Not a number is never near.
            differences[i] = max(differences[i], difference if np.isfinite(difference) else np.inf)
    worst = max(worst, *differences)
    print(f"| {folder.name} | {differences[0]:.1e} | {differences[1]:.1e} |", flush=True)
sys.exit(int(worst > args.most))
