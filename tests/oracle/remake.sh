#!/usr/bin/env bash
# Makes tests/golden again, or a set with other numbers somewhere else.
#   remake.sh [--out DIR] [--seed N] [PART ...]     parts: tokenizer template media model quant gguf imatrix (default: all)
# --seed adds N to every seed. PYTHON names a Python with the packages listed in README.md; quant, gguf and imatrix
# need the tools of referee/llama-build.sh (PREFIX, or its default place).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$here/../golden
add=0
parts=()
while [ $# -gt 0 ]; do
    case $1 in
        --out)  out=$2; shift 2 ;;
        --seed) add=$2; shift 2 ;;
        -h|--help) sed -n '2,6s/^# *//p' "$0"; exit 0 ;;
        *) parts+=("$1"); shift ;;
    esac
done
if [ ${#parts[@]} = 0 ]; then parts=(tokenizer template media model quant gguf imatrix); fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
py=${PYTHON:-python3}
prefix=${PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/lapidary-referee}
export PYTHONHASHSEED=0 OMP_NUM_THREADS=1 PREFIX=$prefix PYTHON=$py
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# The inputs file $1 with $add added to its seed.
inputs() {
    "$py" - "$here/inputs/$1" "$add" > "$tmp/$1" <<'PY'
import json, sys
d = json.load(open(sys.argv[1]))
d["seed"] += int(sys.argv[2])
json.dump(d, sys.stdout)
PY
    echo "$tmp/$1"
}

# The tokenizers and the template are fixed inputs: they are taken from tests/golden.
fixed=$here/../golden
small=$fixed/tokenizer/small-tokenizer.json
big=$fixed/tokenizer/gemma4-tokenizer.json.xz
template=$fixed/template/gemma4-12b-it.jinja

make_tokenizer() {
    mkdir -p "$out/tokenizer"
    for f in "$small" "$big"; do [ "$f" -ef "$out/tokenizer/$(basename "$f")" ] || cp "$f" "$out/tokenizer/"; done
    "$py" "$here/make_tokenizer_golden.py" cases --tokenizer "$small" --inputs "$(inputs tokenizer_inputs.json)" --out "$out/tokenizer/small-cases.json"
    "$py" "$here/make_tokenizer_golden.py" cases --tokenizer "$big" --inputs "$(inputs tokenizer_inputs.json)" --out "$out/tokenizer/cases.json"
}

make_template() {
    mkdir -p "$out/template"
    [ "$template" -ef "$out/template/$(basename "$template")" ] || cp "$template" "$out/template/"
    "$py" "$here/make_template_golden.py" --template "$template" --tokenizer "$small" --big-tokenizer "$big" \
        --inputs "$(inputs template_inputs.json)" --out "$out/template/cases.json"
}

make_media() {
    rm -rf "$out/media"
    "$py" "$here/make_media_golden.py" --inputs "$(inputs media_inputs.json)" --tokenizer "$small" --template "$template" --out "$out/media"
}

model() {  # NAME SEED OPTIONS...
    "$py" "$here/make_model_golden.py" --out "$out/model/$1" --seed $(($2 + add)) "${@:3}"
}

make_model() {
    model tiny 22 --shape tiny --expect 2 \
        --loras lora lora-dora lora-embedders lora-modules-to-save lora-patterns
    model odd 31 --shape odd --flat --dtype float32 --shard 150KB --expect 3 --long 333 --schedule 3e-4 4 50 \
        --only forward gradients long packed lora full generate schedules \
        --loras lora-embedders lora-linears-to-save lora-few
    model untied 3 --shape mixed-order --untied --dtype float16 --expect 2 \
        --only forward gradients lora full generate --loras lora
    model names-memory 4 --shape speck --variant memory --expect 2 --only forward
    model names-mlx 5 --shape speck --variant mlx --flat --expect 2 --only forward
    model text-only 6 --shape speck --variant text-only --expect 2 --only forward gradients lora generate --loras lora-rslora
}

make_quant() {
    "$py" "$here/referee/quant_goldens.py" --out "$tmp/quant" --seed $((5 + add)) --shapes 1x256 2x256 --prefix "$prefix"
    rm -rf "$out/quant"
    mkdir -p "$out/quant"
    for t in F16 BF16 Q8_0 Q4_0 Q6_K; do cp "$tmp/quant/$t.safetensors" "$out/quant/"; done
    "$py" "$here/referee/quant_goldens.py" --out "$out/quant" --seed $((6 + add)) --shapes 1x256 --prefix "$prefix" \
        --types Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K IQ4_NL IQ4_XS MXFP4 --cases normal edges
}

make_gguf() {
    "$py" "$here/referee/make_tiny_gemma4.py" --out "$tmp/gguf" --seed $((7 + add)) --vocab 768 --layers 2 --full-layers 1 \
        --heads 4 --kv-heads 2 --head-dim 32 --global-head-dim 64 --mlp 256 --media-width 64 --positions 16 --window 20 --tokens 45 \
        --image 336x480 --sound 5000 --lora-rank 3 --lora-alpha 7.5
    "$here/referee/official_gguf.sh" "$tmp/gguf" --keep lora-f32
    rm -rf "$out/gguf"
    mkdir -p "$out/gguf"
    cp -r "$tmp/gguf/." "$out/gguf/"
}

make_imatrix() {  # of the checkpoint in gguf/
    rm -rf "$out/imatrix"
    "$py" "$here/referee/imatrix_goldens.py" --out "$out/imatrix" --model "$out/gguf/hf" --seed $((9 + add)) --prefix "$prefix"
}

for part in "${parts[@]}"; do make_$part; done
du -sb "$out"
