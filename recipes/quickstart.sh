#!/usr/bin/env bash
# From a clone to a fine-tuned, exported and evaluated multimodal model: installs packages, builds, and runs the main job on a tiny
# Gemma 4 Unified checkpoint and a data set that are made on the spot. Usage: quickstart.sh [OUTPUT_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-quickstart}
build=${LAPIDARY_BUILD:-build}
if [ -e "$out" ] && [ -n "$(ls -A "$out")" ]; then
  echo "$out: must be a new or empty folder; got one with files in it; try: bash recipes/quickstart.sh OTHER_FOLDER" >&2
  exit 2
fi

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
say "1. Packages and build"
bash recipes/setup.sh "$build"
cmake --build "$build" --target lapidary
lapidary=$build/lapidary
start=$SECONDS
mkdir -p "$out/results"

say "2. A tiny random model and a data set of pictures, sounds, clips and tool calls"
"$lapidary" make-model --shape tiny --out "$out/base"
"$lapidary" make-data --out "$out/data" --size 600 --held-out 40 --image-pixels 48 --audio-samples 5120 --video-frames 4

say "3. Train it from scratch for a moment, so that it knows something"
"$lapidary" train recipes/configs/quickstart_pretrain.json --set "model_name_or_path=$out/base" \
  --set "dataset.train=$out/data/pretrain.train.jsonl" --set "output_dir=$out/pretrain"

say "4. Fine-tune it with LoRA on a new task"
"$lapidary" train recipes/configs/quickstart_lora.json --set "model_name_or_path=$out/pretrain" \
  --set "dataset.train=$out/data/catalog.train.jsonl" --set "dataset.eval=$out/data/catalog.eval.jsonl" \
  --set "output_dir=$out/catalog"

say "5. Export in one pass: PEFT adapter, merged safetensors, Q4_0 GGUF with its mmproj"
"$lapidary" export --model "$out/pretrain" --adapter "$out/catalog" --out "peft=$out/export/peft" \
  --out "safetensors=$out/export/merged" --out "gguf:q4_0=$out/export/catalog-q4_0.gguf"

say "6. Evaluate before and after, and the exported file"
questions=$out/data/catalog.eval.jsonl
evaluate() { # NAME MODEL [more options]
  local name=$1 model=$2
  shift 2
  "$lapidary" eval --model "$model" --data "$questions" --answers --no-loss --json "$@" >"$out/results/$name.json"
}
evaluate before "$out/pretrain"
evaluate after "$out/pretrain" --adapter "$out/catalog" --swap-media
evaluate gguf "$out/export/catalog-q4_0.gguf" --swap-media

say "7. Answers for a held-out picture, clip and sound, from the exported GGUF"
for medium in image video audio; do
  line=$(grep -n -m1 "\"modality\": *\"$medium\"" "$questions" | cut -d: -f1)
  printf '%-6s expected: %s\n       answered: ' "$medium" "$(sed -n "${line}p" "$questions" | grep -o '"answer": *"[^"]*"')"
  "$lapidary" generate --model "$out/export/catalog-q4_0.gguf" --record "$questions:$line" --greedy
done

say "8. Held-out answers that are right (swapped: with the media of another question)"
"$lapidary" compare "before fine-tuning=$out/results/before.json" "after=$out/results/after.json" \
  "after, swapped media=$out/results/after.json:swapped" "exported Q4_0 GGUF=$out/results/gguf.json" \
  "exported, swapped media=$out/results/gguf.json:swapped" --html "$out/results.html" --title "Lapidary quick start"
echo
echo "report of the fine-tuning: $out/catalog/report.html"
echo "this table as a page:      $out/results.html"
echo "done in $((SECONDS - start)) s after the build"
