"""Lapidary's data path beside the packages of Hugging Face, one thread each, CPU time:
    python bench/compare_data.py --bench build/bench/bench_data --tokenizer tokenizer.json [--text FILE]
Needs tokenizers, and transformers with torch and torchvision for the image processor."""
import argparse
import io
import json
import os
import subprocess
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"


def best(body, seconds):
    body()
    least, start = 1e300, time.process_time()
    while time.process_time() - start < seconds or least == 1e300:
        begin = time.process_time()
        body()
        least = min(least, time.process_time() - begin)
    return least


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args()
    ours = json.loads(subprocess.run(
        [args.bench, "--tokenizer", args.tokenizer, "--text", args.text, "--seconds", str(args.seconds), "--json"],
        check=True, capture_output=True, text=True).stdout)
    theirs = {}

    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(args.tokenizer)
    data = open(args.text, "rb").read()
    lines = [data[i:i + 2000].decode("utf-8", "replace") for i in range(0, len(data), 2000)]
    seconds = best(lambda: [tokenizer.encode(line, add_special_tokens=False) for line in lines], args.seconds)
    theirs["tokenizer_MB_per_s"] = len(data) / seconds / 1e6

    import numpy
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor  # noqa: F401  (fails early where transformers is missing)
    from transformers.models.gemma4_unified import image_processing_gemma4_unified as module
    torch.set_num_threads(1)
    processor = next(getattr(module, name) for name in dir(module) if name.endswith("ImageProcessor"))()
    i = numpy.arange(3_000_000)
    pixels = (128 + 60 * ((i // 3 % 1000) > (i // 3000)) + i % 31).astype(numpy.uint8).reshape(1000, 1000, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)

    def process():
        image = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
        processor(images=image, return_tensors="pt")

    theirs["image_per_s"] = 1 / best(process, args.seconds)
    print(f"{'':32} {'ours':>12} {'Hugging Face':>14} {'ratio':>8}")
    for key, value in ours.items():
        other = theirs.get(key)
        print(f"{key:32} {value:12.1f} {f'{other:.1f}' if other else '':>14} {f'{value / other:.1f}' if other else '':>8}")


if __name__ == "__main__":
    main()
