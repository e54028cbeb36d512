#!/usr/bin/env bash
# GGUF adapters and parts in the real llama.cpp: llama_lora.sh LAPIDARY MODEL ADAPTER OUT LLAMA_BIN PYTHON
# LLAMA_BIN holds llama-export-lora and llama-gguf-split (tests/oracle/referee/llama-build.sh), PYTHON has gguf and numpy.
set -euo pipefail
lapidary=$1
model=$2
adapter=$3
out=$4
bin=$5
python=$6
rm -rf "$out"
mkdir -p "$out"
"$lapidary" export --model "$model" --adapter "$adapter" --out gguf:f32="$out/merged.gguf" --out gguf-lora="$out/lora.gguf"
"$lapidary" export --model "$model" --out gguf:f32="$out/base.gguf"
"$lapidary" export --model "$model" --out gguf:f32="$out/parts/m.gguf" --max-shard-size 300KB
"$bin/llama-export-lora" -m "$out/base.gguf" --lora "$out/lora.gguf" -o "$out/llama-merged.gguf" >"$out/log" 2>&1
"$bin/llama-gguf-split" --merge "$(ls "$out"/parts/m-00001-of-*.gguf)" "$out/joined.gguf" >>"$out/log" 2>&1
"$python" - "$out" <<'PY'
import sys
import gguf
import numpy as np

def tensors(path):
    return {t.name: t for t in gguf.GGUFReader(path).tensors}

def values(tensor):
    return np.asarray(tensor.data, dtype=np.float64).ravel()

failed = False
for ours, theirs, limit in (("merged", "llama-merged", 1e-6), ("base", "joined", 0)):
    a, b = tensors(f"{sys.argv[1]}/{ours}.gguf"), tensors(f"{sys.argv[1]}/{theirs}.gguf")
    worst = max(np.abs(values(a[n]) - values(b[n])).max() / max(1e-9, np.abs(values(a[n])).max()) for n in a)
    good = a.keys() == b.keys() and worst <= limit
    failed |= not good
    print(f"{'ok  ' if good else 'BAD '} {ours} against {theirs}: {len(a)} tensors, largest relative difference {worst:.1e} (limit {limit})")
sys.exit(failed)
PY
