#!/bin/sh
# Prefill and decode of a GGUF file beside llama.cpp's, in turns, so that both see the same minutes.
#   bench/compare_llama.sh MODEL.gguf [LLAMA_BENCH=llama-bench] [PROMPT=512] [NEW=64] [ROUNDS=3]
# Both use LAPIDARY_THREADS threads (default: all processors). Build first: ninja -C build
# bench_generate. A slice of the 12B to try it with:
#   build/lapidary make-model --shape 12b --layers 6 --out slice
#   build/lapidary export --model slice --out gguf:q4_0=slice.gguf
set -eu
model=${1:?usage: bench/compare_llama.sh MODEL.gguf [LLAMA_BENCH] [PROMPT] [NEW] [ROUNDS]}
llama=${2:-llama-bench}
prompt=${3:-512}
new=${4:-64}
rounds=${5:-3}
threads=${LAPIDARY_THREADS:-$(nproc)}
bench=$(dirname "$0")/../build/bench/bench_generate
for round in $(seq "$rounds"); do
  echo "round $round"
  LAPIDARY_THREADS=$threads "$bench" "$model" --prompt "$prompt" --new "$new" --repeat 1
  "$llama" -m "$model" -p "$prompt" -n "$new" -t "$threads" -r 1 2>/dev/null | grep -E 'pp|tg' |
    sed 's/^/llama.cpp /'
done
