#!/usr/bin/env bash
# bench_report on a folder of known figures gives the known table: report_test.sh PROGRAM. And it says what is wrong.
set -euo pipefail
cd "$(dirname "$0")"
program=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp sample/*.json* "$folder"
"$program" "$folder" >"$folder/printed"
diff expected.md "$folder/results.md"
diff expected.md "$folder/printed"
grep -q '"speedup": 2.5' "$folder/results.json"

# What was not measured is said.
rm "$folder"/torch-512.json "$folder"/gemm.jsonl "$folder"/plan.jsonl "$folder"/generate.json "$folder"/step-*.json \
  "$folder"/lengths.jsonl
"$program" "$folder" | grep -c 'Not measured' | grep -qx 6

# Mistakes: a broken file, a folder of something else.
refused() {  # words, command
  local words=$1
  shift
  if "$@" >/dev/null 2>"$folder/error"; then
    echo "must be refused: $*"
    exit 1
  fi
  grep -qF "$words" "$folder/error" || { cat "$folder/error"; exit 1; }
}
echo '{"tokens":' >"$folder/step-512.json"
refused "step-512.json: must be JSON; got '{\"tokens\":" "$program" "$folder"
rm "$folder/machine.json"
refused "must hold machine.json" "$program" "$folder"
refused "usage" "$program"
