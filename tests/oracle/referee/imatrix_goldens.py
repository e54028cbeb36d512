#!/usr/bin/env python3
"""Golden data for importance matrices, made with the real llama.cpp.

OUT/blocks.safetensors: for each case CASE.input F32 [rows, cols], CASE.importance F32 [cols], and
CASE.TYPE, the bytes of ggml_quantize_chunk with that matrix. OUT/text.txt: a text, and
OUT/llama.gguf what llama-imatrix -c CTX measures on it with MODEL (a Hugging Face folder, converted
to F32). OUT/quantized.json: for each mix the type and the start of the SHA-256 of each block tensor
that llama-quantize --imatrix OUT/llama.gguf makes of it, and the quantize.imatrix.* keys.
"""
import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from safetensors.numpy import save_file

import ggml_lib

TYPES = "Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()
MIXES = "Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_0 Q4_1 Q4_K_S Q4_K_M Q5_0 Q5_1 Q5_K_S Q5_K_M Q6_K Q8_0 IQ4_NL IQ4_XS".split()
HASH_CHARS = 16
WORDS = ("the of and a to in is was river stone light under seven green morning letters carried slowly without answer "
         "mountain glass between numbers always turning paper house never winter spoke north bridge quiet market seed").split()


def cases(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    def importance(cols, zeros=0.0):
        w = rng.gamma(0.5, 1.0, cols)
        return np.where(rng.random(cols) < zeros, 0.0, w)

    heavy = rng.standard_t(1.5, (1, 512))
    dead = importance(256)
    dead[32:64] = 0  # a whole block that nothing reaches
    sparse = rng.standard_normal((2, 256)) * (rng.random((2, 256)) < 0.15)
    positive = np.abs(rng.standard_normal((2, 256))) + 1
    positive[1] *= -1
    made = {"normal": (rng.standard_normal((2, 256)) * 0.02, importance(256)), "heavy": (heavy, importance(512, 0.3)),
            "sparse": (sparse, dead), "one_sign": (positive, np.abs(rng.standard_t(1.2, 256)))}
    return {k: (x.astype(np.float32), w.astype(np.float32)) for k, (x, w) in made.items()}


def write_blocks(path: pathlib.Path, prefix: pathlib.Path, seed: int) -> None:
    ggml = ggml_lib.Ggml(prefix)
    tensors = {}
    for name, (x, w) in cases(np.random.default_rng(seed)).items():
        tensors |= {f"{name}.input": x, f"{name}.importance": w}
        for kind in TYPES:
            tensors[f"{name}.{kind}"] = ggml.quantise(kind, x, w)
    save_file(tensors, path, metadata={"source": "ggml_quantize_chunk with an importance matrix, ggml 0.25.3"})
    path.chmod(0o644)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--model", type=pathlib.Path, required=True, help="Hugging Face folder")
    p.add_argument("--seed", type=int, default=9)
    p.add_argument("--ctx", type=int, default=128)
    p.add_argument("--prefix", type=pathlib.Path, default=ggml_lib.default_prefix(), help="llama-build.sh prefix")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    write_blocks(a.out / "blocks.safetensors", a.prefix, a.seed)
    rng = np.random.default_rng(a.seed)
    lines = [" ".join(rng.choice(WORDS, 12)).capitalize() + f", {rng.integers(1, 2000)}." for _ in range(16)]
    (a.out / "text.txt").write_text("\n".join(lines) + "\n")
    with tempfile.TemporaryDirectory() as tmp:
        def run(*command):
            done = subprocess.run([str(c) for c in command], cwd=a.out, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                sys.exit(f"{command[0]}: {done.stdout[-2000:]}")

        model = f"{tmp}/f32.gguf"
        run(os.environ.get("PYTHON", sys.executable), a.prefix / "src/llama.cpp/convert_hf_to_gguf.py", a.model.resolve(), "--outtype",
            "f32", "--outfile", model)
        run(a.prefix / "bin/llama-imatrix", "-m", model, "-f", "text.txt", "-o", "llama.gguf", "-c", a.ctx, "--no-ppl", "-t", 1, "-fa",
            "off", "-ctk", "f32", "-ctv", "f32")
        mixes = {}
        for mix in MIXES:
            run(a.prefix / "bin/llama-quantize", "--imatrix", "llama.gguf", model, f"{tmp}/q.gguf", mix, 1)
            reader = gguf.GGUFReader(f"{tmp}/q.gguf")
            keys = {k: f.contents() for k, f in reader.fields.items() if k.startswith("quantize.")}
            mixes[mix.lower()] = {t.name: f"{t.tensor_type.name} {hashlib.sha256(t.data.tobytes()).hexdigest()[:HASH_CHARS]}"
                                  for t in reader.tensors if t.tensor_type.name not in ("F32", "F16")}
    (a.out / "quantized.json").write_text(json.dumps({"keys": keys, "ctx": a.ctx, "mixes": mixes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
