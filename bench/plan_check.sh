#!/usr/bin/env bash
# Peak resident memory (VmHWM) of short training runs beside what `lapidary plan` said of them.
#   bench/plan_check.sh MODEL [LAPIDARY]
# MODEL: a folder or .gguf, say of `lapidary make-model --shape 12b --layers 2`. Five configurations,
# the last two squeezed to the least limit that the plan names. Ends with 1 if one is off by more
# than 5 %.
set -euo pipefail
model=$1
lapidary=${2:-build/lapidary}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 - "$work" <<'PY'
import json, sys
words = "amber basalt coral flint garnet jade opal quartz".split()
text = " ".join(words[i * 7 % 8] for i in range(12000))
with open(sys.argv[1] + "/long.jsonl", "w") as out:
    out.write(json.dumps({"text": text}) + "\n")
PY

field() { python3 -c "import json,sys; print(json.loads(sys.stdin.read().strip().splitlines()[-1])$1)"; }

config() {  # name tokens optim
  cat > "$work/$1.json" <<JSON
{"model_name_or_path": "$model", "dataset": {"train": "$work/long.jsonl"}, "output_dir": "$work/$1",
 "lora": {"r": 16, "lora_alpha": 16, "target_modules": "text-linear"}, "max_length": $2,
 "on_too_long": "truncate", "max_steps": 2, "report_samples": 0, "optim": "$3"}
JSON
}

failed=0
check() {  # name limit
  local set=() planned peak
  [ -n "$2" ] && set=(--set "memory_limit=$2")
  planned=$("$lapidary" plan "$work/$1.json" "${set[@]}" --json --no-speed |
            python3 -c 'import json,sys; print(json.load(sys.stdin)["memory"]["total"])')
  "$lapidary" train "$work/$1.json" "${set[@]}" --quiet > "$work/$1.log" 2>&1 || { cat "$work/$1.log"; exit 1; }
  peak=$(field '["peak_memory_bytes"]' < "$work/$1/metrics.jsonl")
  python3 - "$1" "${2:-none}" "$planned" "$peak" <<'PY' || failed=1
import sys
name, limit, planned, peak = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
off = peak / planned - 1
print(f"{name:12} limit {limit:>8}  plan {planned / 1e9:6.3f} GB  peak {peak / 1e9:6.3f} GB  {100 * off:+5.1f} %")
sys.exit(abs(off) > 0.05)
PY
}

least() { "$lapidary" plan "$work/$1.json" --set memory_limit=1MB --no-speed 2>&1 | sed -n 's/.*memory_limit: "\([^"]*\)".*/\1/p'; }

config short 256 adamw_torch
config middle 1024 adamw_8bit
config long 2048 adamw_bf16
config squeezed-1 1024 adamw_8bit
config squeezed-2 2048 adamw_8bit
check short ""
check middle ""
check long ""
check squeezed-1 "$(least squeezed-1)"
check squeezed-2 "$(least squeezed-2)"
exit $failed
