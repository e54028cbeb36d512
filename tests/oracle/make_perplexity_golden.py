#!/usr/bin/env python3
"""Makes golden/eval/perplexity.json: what llama.cpp's llama-perplexity says of golden/gguf/hf on a text.

    make_perplexity_golden.py --lapidary build/lapidary --llama PREFIX/bin --out ../golden

The checkpoint is exported to a GGUF in float32 with the product's own exporter (whose files the gguf goldens check). The KV cache is
float32 too. A case's window is the context that the tool uses: with a stride it makes `-c` larger by half the stride and rounds it up
to a multiple of 256.
"""
import argparse
import json
import os
import re
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--lapidary", required=True)
    p.add_argument("--llama", required=True)
    p.add_argument("--out", default=os.path.join(HERE, "..", "golden"))
    a = p.parse_args()
    text = open(os.path.join(HERE, "inputs", "small_corpus.txt"), encoding="utf-8").read()
    cases = []
    with tempfile.TemporaryDirectory() as tmp:
        gguf, txt = os.path.join(tmp, "m.gguf"), os.path.join(tmp, "t.txt")
        open(txt, "w", encoding="utf-8").write(text)
        subprocess.run([a.lapidary, "export", "--model", os.path.join(a.out, "gguf", "hf"), "--out", "gguf:f32=" + gguf],
                       check=True, capture_output=True)
        for window, stride in ((64, 0), (65, 0), (256, 32), (256, 100)):
            words = [os.path.join(a.llama, "llama-perplexity"), "-m", gguf, "-f", txt, "-c", str(window - stride // 2), "-b", str(window),
                     "-t", "1", "-ctk", "f32", "-ctv", "f32", "--ppl-stride", str(stride), "--no-warmup"]
            # Its log is written by a thread of its own, and the end may be missing: again until it is whole.
            for _ in range(50):
                with open(os.path.join(tmp, "log"), "w+") as log:
                    subprocess.run(words, check=True, stdout=log, stderr=subprocess.STDOUT)
                    log.seek(0)
                    said = log.read()
                count = int(re.search(r" over (\d+) chunks", said)[1])
                rows = re.findall(r"\[(\d+)\]([0-9.]+),", said)
                final = re.search(r"PPL = ([0-9.]+) \+/- ([0-9.]+)", said)
                if int(rows[-1][0]) == count and (stride or final):
                    break
            else:
                raise SystemExit("llama-perplexity did not write its whole log")
            case = {"window": window, "stride": stride, "windows": count, "perplexity": float(rows[-1][1])}
            if final:
                case["error"] = float(final[2])
            cases.append(case)
    os.makedirs(os.path.join(a.out, "eval"), exist_ok=True)
    with open(os.path.join(a.out, "eval", "perplexity.json"), "w") as f:
        json.dump({"model": "gguf/hf", "text": text, "cases": cases}, f, indent=1)
        f.write("\n")


main()
