#!/usr/bin/env bash
# Measures this machine: matrix products beside the peak, whole training steps of the 12B and their memory, prefill and
# decoding, on request PyTorch + PEFT and llama.cpp beside them, and the plan's memory beside the measured one. Writes
# bench/results/MACHINE-DATE/results.md and results.json.
#
#   bench/run.sh             everything on the whole 12B, random weights: an hour or more, 8 GB of disk, 10 GB of memory
#   bench/run.sh --quick     the same on a slice of two layers with fewer shapes: a few minutes, 3 GB of disk
#
#   --layers N      a slice of N layers instead of all 48
#   --venv DIR      PyTorch + PEFT beside it, in this virtual environment (made if absent; see compare_torch.py)
#   --out DIR       results folder; what an interrupted or earlier run measured there is kept, only the rest is run
#   --fresh         measure everything again
#   --work DIR      where the random models lie while it runs (default: bench/results/work, removed at the end)
#   --keep          keep them
#   --build DIR     build folder (default: build)
#   --no-build      its programs as they are
# LLAMA_BENCH=/path/to/llama-bench sets llama.cpp beside prefill and decoding. LAPIDARY_ISA and LAPIDARY_THREADS apply.
set -euo pipefail
cd "$(dirname "$0")/.."

quick= layers= venv= out= fresh= work=bench/results/work keep= build=build no_build=
fail() { echo "run.sh: $*" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --fresh) fresh=1 ;;
    --keep) keep=1 ;;
    --no-build) no_build=1 ;;
    --layers|--venv|--out|--work|--build)
      [ $# -ge 2 ] || fail "$1: needs a value; got none; try --help"
      declare "${1#--}=$2"
      shift ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) fail "options: must be among those of --help; got $1" ;;
  esac
  shift
done
if [ -n "$quick" ]; then
  layers=${layers:-2} tokens=(128 512) steps=1 rounds=1
else
  layers=${layers:-48} tokens=(512 2048) steps=1 rounds=3
fi
[[ $layers =~ ^[1-9][0-9]*$ && $layers -le 48 ]] || fail "--layers: must be from 1 to 48; got $layers"
[ -z "${LLAMA_BENCH:-}" ] || [ -x "$LLAMA_BENCH" ] || fail "LLAMA_BENCH: must be a program; got $LLAMA_BENCH"
torch_layers=6  # PyTorch cannot hold more in an ordinary machine, and wants a full layer last

cpu=$(lscpu | sed -n 's/^Model name: *//p' | head -1)
date=$(date +%F)
slug=$(echo "$cpu" | sed 's/([^)]*)//g' | tr -cs 'A-Za-z0-9\n' '-' | sed 's/^-*//;s/-*$//' | tr 'A-Z' 'a-z')
out=${out:-bench/results/$slug-$date${quick:+-quick}}
mkdir -p "$out"
[ -z "$fresh" ] || rm -f "$out"/*.json "$out"/*.jsonl "$out"/*.log "$out"/results.md

# --- What it takes --------------------------------------------------------------------------------

mkdir -p "$work"
need=$((2 + layers / 8))  # GB: blocks of 4.5 bits, 0.13 GB a layer, the embedding and the media part 1 GB
[ -z "$venv" ] || need=$((need + 3 + torch_layers / 2))
free=$(df --output=avail -B1000000000 "$work" | tail -1 | tr -d ' ')
[ "$free" -ge "$need" ] || [ -e "$work/model.done" ] ||
  fail "$work: needs $need GB of disk; got $free GB; try --work on another disk, or --layers"
memory=$(awk '/^MemTotal/ {printf "%.1f", $2 * 1024 / 1e9}' /proc/meminfo)
available=$(awk '/^MemAvailable/ {printf "%d", $2 * 1024 / 1e9}' /proc/meminfo)
needed_memory=$((4 + layers / 8))
[ "$available" -ge "$needed_memory" ] ||
  fail "memory: must have $needed_memory GB available for $layers layers; got $available GB; try --layers or --quick"

# --- Steps ----------------------------------------------------------------------------------------

begun=$SECONDS
say() { printf '[%2d:%02d] %s\n' $(((SECONDS - begun) / 60)) $(((SECONDS - begun) % 60)) "$*"; }
about() {  # seconds in words
  awk -v s="$1" 'BEGIN { if (s < 90) printf "about %d s", s < 5 ? 5 : s; else printf "about %d min", s / 60 + 0.5 }'
}
# step FILE SECONDS WHAT COMMAND...: the command's standard output becomes FILE, whole or not at all.
step() {
  local file=$1 seconds=$2 what=$3
  shift 3
  if [ -e "$out/$file" ]; then
    say "$what: done before"
    return
  fi
  say "$what: $(about "$seconds")"
  if ! "$@" >"$out/$file.part" 2>"$out/$file.log"; then
    tail -5 "$out/$file.log" >&2
    fail "$what: must succeed; got an error, see $out/$file.log; start again to go on from here"
  fi
  mv "$out/$file.part" "$out/$file"
  rm -f "$out/$file.log"
}

if [ -z "$no_build" ]; then
  say "build"
  bash recipes/setup.sh "$build" >/dev/null
  cmake --build "$build" --target lapidary bench_gemm bench_step bench_generate bench_report >"$out/build.log" 2>&1 ||
    { tail -20 "$out/build.log" >&2; fail "build: must succeed; got an error, see $out/build.log"; }
  rm -f "$out/build.log"
fi
bench=$build/bench

# How fast the products are decides how long the steps take: 69.4 GFLOP a token for 48 layers with everything recomputed.
probe() {
  "$bench/bench_gemm" --tokens 512 --formats q4_0 --directions fwd dx --shapes 3840x15360 --repetitions 2 --json
}
step probe.jsonl 5 "speed of the products" probe
rate=$(sed -n 's/.*"tflops":\([0-9.e+-]*\).*/\1/p' "$out/probe.jsonl" | sort -g | head -1)
step_seconds() {  # tokens, layers, number of steps
  awk -v t="$1" -v l="$2" -v n="$3" -v r="$rate" 'BEGIN { print n * t * (4 + 65.4 * l / 48) * 1e9 / (0.75 * r * 1e12) + 10 }'
}

machine() {
  local isa
  isa=$(sed -n 's/.*"isa":"\([a-z0-9_]*\)".*/\1/p' "$out/probe.jsonl" | head -1)
  local threads
  threads=$(sed -n 's/.*"threads":\([0-9]*\).*/\1/p' "$out/probe.jsonl" | head -1)
  printf '{"cpu":"%s","isa":"%s","threads":%s,"cores":%s,"memory_gb":%s,"kernel":"%s","date":"%s","commit":"%s","layers":%s,"quick":%s,"load":%s}\n' \
    "${cpu//[\"\\]/}" "$isa" "$threads" "$(nproc)" "$memory" "$(uname -r)" "$date" \
    "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$layers" "$([ -n "$quick" ] && echo true || echo false)" \
    "$(cut -d' ' -f1 /proc/loadavg)"
}
step machine.json 1 "the machine" machine

# Training reads rows as they are mapped, decoding units.
products() {
  local what=(--tokens 128 512 2048 --repetitions 3)
  [ -n "$quick" ] && what=(--tokens 128 512 --shapes 3840x15360 3840x4096 --repetitions 2)
  "$bench/bench_gemm" "${what[@]}" --formats bf16 q4_0 q8_0 q4_k q6_k openblas --json
  "$bench/bench_gemm" --tokens 1 --directions fwd --formats bf16 q4_0:units q8_0:units q4_k:units q6_k:units --repetitions 10 --json
}
step gemm.jsonl "$([ -n "$quick" ] && echo 30 || echo 300)" "matrix products by format, direction and tokens" products

model=$work/q4_0-$layers
make_model() {
  rm -rf "$model"
  "$build/lapidary" make-model --shape 12b --layers "$layers" --format gguf:q4_0 --out "$model" --json
  touch "$work/model.done"
}
[ -e "$work/model.done" ] && [ -e "$model" ] || rm -f "$out/model.json" "$work/model.done"
step model.json $((5 + layers * 4)) "a random model of $layers layers as Q4_0, $((1 + layers / 8)) GB" make_model

for t in "${tokens[@]}"; do
  step "step-$t.json" "$(step_seconds "$t" "$layers" $((steps + 1)))" "$((steps + 1)) training steps of $t tokens" \
    "$bench/bench_step" "$model/model.gguf" --tokens "$t" --steps "$steps" --checkpointing --profile --json
done

# How a step grows with its length: on six layers, one of them full.
if [ -z "$quick" ]; then
  lengths() {
    "$build/lapidary" make-model --shape 12b --layers 6 --format gguf:q4_0 --out "$work/lengths" --json >&2
    "$bench/bench_step" "$work/lengths/model.gguf" --table --steps 1 --checkpointing --json
    rm -rf "$work/lengths"
  }
  step lengths.jsonl "$(step_seconds 45000 6 1)" "steps of 512 to 32,768 tokens on 6 layers" lengths
fi

prompt=512 new=$([ -n "$quick" ] && echo 16 || echo 64)
step generate.json "$(awk -v l="$layers" -v n="$new" 'BEGIN { print 4 * (12 + n * (0.1 + l * 0.02)) }')" \
  "prefill of $prompt tokens and $new more" \
  "$bench/bench_generate" "$model/model.gguf" --prompt "$prompt" --new "$new" --repeat 3 --json
if [ -n "${LLAMA_BENCH:-}" ]; then
  step llama.json $((60 + layers * 5)) "llama.cpp on the same file" \
    "$LLAMA_BENCH" -m "$model/model.gguf" -t "${LAPIDARY_THREADS:-$(nproc)}" -p "$prompt" -n "$new" -r 3 -o json
fi

if [ -n "$venv" ]; then
  slice=$work/bf16-$torch_layers
  make_slice() {
    rm -rf "$slice"
    "$build/lapidary" make-model --shape 12b --layers "$torch_layers" --out "$slice" --json
    touch "$work/slice.done"
  }
  [ -e "$work/slice.done" ] && [ -e "$slice" ] || rm -f "$out/slice.json" "$work/slice.done"
  for t in "${tokens[@]}"; do
    [ ! -e "$out/torch-$t.json" ] || continue
    step slice.json $((20 + torch_layers * 5)) "a random slice of $torch_layers layers in bfloat16" make_slice
    step "torch-$t.json" "$(awk -v s="$(step_seconds "$t" "$torch_layers" $((steps + 1)))" -v r="$rounds" 'BEGIN { print r * (5 * s + 30) }')" \
      "PyTorch + PEFT and Lapidary in turn, $t tokens, $torch_layers layers" \
      python3 bench/compare_torch.py "$slice" --venv "$venv" --bench-step "$bench/bench_step" --tokens "$t" --steps "$steps" --rounds "$rounds"
  done
fi

# Two layers stand for the model: what a plan adds up is the same for every layer.
if [ -z "$quick" ]; then
  plans() {
    rm -rf "$work/plan"
    "$build/lapidary" make-model --shape 12b --layers 2 --format gguf:q4_0 --out "$work/plan" --json >&2
    # It ends with 1 where a plan is off by more than 5 %: a figure to report like the others.
    bash bench/plan_check.sh "$work/plan/model.gguf" "$build/lapidary" >"$work/plan.txt" || [ $? -eq 1 ]
    sed -n 's/^\([a-z0-9-]*\) *limit *\([^ ]*\) *plan *\([0-9.]*\) GB *peak *\([0-9.]*\) GB.*/{"config":"\1, limit \2","planned_gb":\3,"measured_gb":\4}/p' \
      "$work/plan.txt" | tee "$work/plan.jsonl"
    [ "$(wc -l <"$work/plan.jsonl")" -eq 5 ]
  }
  step plan.jsonl "$(step_seconds 12800 2 1)" "plan against measured memory, five short runs of 2 layers" plans
fi

"$bench/bench_report" "$out"
[ -n "$keep" ] || rm -rf "$work"
say "done: $out/results.md, $out/results.json"
