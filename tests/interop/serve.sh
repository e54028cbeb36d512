#!/usr/bin/env bash
# `lapidary serve` asked by the real openai package and by lm-evaluation-harness:
#   serve.sh LAPIDARY MODEL ADAPTER OUT
# MODEL needs a tokenizer that Transformers loads. Makes a virtual environment in OUT the first time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lapidary=$(realpath "$1")
model=$(realpath "$2")
adapter=$(realpath "$3")
out=$4
mkdir -p "$out"
python=${LAPIDARY_SERVE_PYTHON:-$out/venv/bin/python}
[ -x "$python" ] || {
  python3 -m venv "$out/venv"
  "$out/venv/bin/pip" install -q openai "lm-eval[api]==0.4.13" transformers
}
# The checkpoint with Google's chat template, which is what `lapidary` renders.
rm -rf "$out/model"
cp -r "$model" "$out/model"
cp "$here/../golden/template/gemma4-12b-it.jinja" "$out/model/chat_template.jinja"
model=$out/model
"$lapidary" serve --model "$model" --name base --adapter tuned="$adapter" --port 0 --quiet 2> "$out/log" &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 200); do
  grep -q http "$out/log" && break
  sleep 0.1
done
url=$(sed -n 's/.* at \(http[^;]*\);.*/\1/p' "$out/log")
"$python" "$here/serve_check.py" "$url" "$model" "$lapidary" "$out"
