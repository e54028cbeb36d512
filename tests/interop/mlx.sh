#!/usr/bin/env bash
# MLX folders and adapters in the real mlx, mlx-lm and mlx-vlm (CPU builds of PyPI):
#   mlx.sh LAPIDARY MODEL ADAPTER OUT [TOKENS_AND_LOGITS.safetensors]
# The last, if given, holds tokens [T], logits [T, V] of the model and logits_lora with the adapter.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lapidary=$(realpath "$1")
model=$2
adapter=$3
out=$4
logits=${5:-}
mkdir -p "$out"
[ -x "$out/venv/bin/python" ] || {
  python3 -m venv "$out/venv"
  "$out/venv/bin/pip" install -q "mlx[cpu]" mlx-lm requests pillow fastapi tqdm datasets safetensors
  "$out/venv/bin/pip" install -q --no-deps mlx-vlm
}
rm -rf "$out"/{f32,4bit,4bit-g32,8bit,bf16,base,lora}
"$lapidary" export --model "$model" --adapter "$adapter" --out safetensors:f32="$out/f32" --out mlx:4bit="$out/4bit" \
  --out mlx:4bit-g32="$out/4bit-g32" --out mlx:8bit="$out/8bit" --out mlx:bf16="$out/bf16" --out mlx-lora="$out/lora"
"$lapidary" export --model "$model" --out mlx:bf16="$out/base"
"$out/venv/bin/python" "$here/mlx_check.py" "$out" $logits
