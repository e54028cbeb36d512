#!/usr/bin/env bash
# Importance matrices against the real llama.cpp: imatrix.sh LAPIDARY MODEL TEXT OUT LLAMA_BIN PYTHON
# MODEL is a Hugging Face folder, best with eight layers or more, where llama.cpp's mixes treat the first eighth apart; TEXT
# has 1,024 tokens at least. LLAMA_BIN holds llama-imatrix and llama-quantize, PYTHON has gguf and numpy.
set -euo pipefail
lapidary=$1
model=$2
text=$3
out=$4
bin=$5
python=$6
rm -rf "$out"
mkdir -p "$out"
"$lapidary" export --model "$model" --out gguf:f32="$out/f32.gguf" >"$out/log" 2>&1
for kind in gguf dat; do
  "$lapidary" imatrix --model "$out/f32.gguf" --text "$text" --compute float32 --out "$out/ours.$kind" --quiet >>"$out/log" 2>&1
  "$bin/llama-imatrix" -m "$out/f32.gguf" -f "$text" -o "$out/theirs.$kind" --output-format $kind -c 512 -b 512 --no-ppl -fa off \
    -ctk f32 -ctv f32 >>"$out/log" 2>&1
done
failed=0
# Every mix from each of the four matrices, ours against theirs.
for mix in q2_k q3_k_s q3_k_m q3_k_l q4_0 q4_1 q4_k_s q4_k_m q5_0 q5_1 q5_k_s q5_k_m q6_k q8_0 iq4_nl iq4_xs; do
  for matrix in ours.gguf theirs.gguf ours.dat theirs.dat; do
    "$lapidary" export --model "$out/f32.gguf" --imatrix "$out/$matrix" --out gguf:$mix="$out/a.gguf" --overwrite >>"$out/log" 2>&1
    "$bin/llama-quantize" --imatrix "$out/$matrix" "$out/f32.gguf" "$out/b.gguf" ${mix^^} 2 >>"$out/log" 2>&1
    "$python" - "$out" "$mix from $matrix" <<'PY' || failed=1
import sys
import gguf

a, b = (gguf.GGUFReader(f"{sys.argv[1]}/{n}.gguf") for n in "ab")
ours, theirs = ({t.name: (t.tensor_type, t.data.tobytes()) for t in r.tensors} for r in (a, b))
keys = [{k: f.contents() for k, f in r.fields.items() if k.startswith("quantize.") or k == "general.file_type"} for r in (a, b)]
bad = [n for n in sorted(ours.keys() | theirs.keys()) if ours.get(n) != theirs.get(n)]
good = not bad and keys[0] == keys[1]
kinds = sorted({t.name for t, _ in ours.values()})
print(f"{'ok  ' if good else 'BAD '} {sys.argv[2]}: {len(ours)} tensors ({', '.join(kinds)}), different: {bad or 'none'}; keys "
      f"{'equal' if keys[0] == keys[1] else keys}")
sys.exit(not good)
PY
  done
done
"$python" - "$out" <<'PY' || failed=1
import sys
import gguf
import numpy as np

a, b = ({t.name: np.asarray(t.data, dtype=np.float64) for t in gguf.GGUFReader(f"{sys.argv[1]}/{n}.gguf").tensors} for n in ("ours", "theirs"))
worst = max((np.abs(a[n] - b[n]) / np.maximum(np.abs(b[n]), 1e-30)).max() for n in b) if a.keys() == b.keys() else 1
print(f"{'ok  ' if worst < 1e-4 else 'BAD '} {len(b) // 2} matrices, largest relative difference of a sum {worst:.1e} (limit 1e-4)")
sys.exit(not worst < 1e-4)
PY
exit $failed
