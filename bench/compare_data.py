"""Lapidary's data path beside the packages of Hugging Face, one thread each, CPU time:
    python bench/compare_data.py --bench build/bench/bench_data --tokenizer tokenizer.json [--text FILE]
Needs tokenizers, and transformers with torch and torchvision for the image processor. A text of your own should be some
megabytes; without one a mixed text is made of the Python library's sources and the message catalogs of the system."""
import argparse
import atexit
import gettext
import glob
import io
import json
import os
import random
import subprocess
import tempfile
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


def mixed_text(limit=6_000_000):
    """Prose of licences, code and messages in many scripts, shuffled by a fixed seed."""
    def catalog(path):
        with open(path, "rb") as file:
            return "\n".join(v for v in gettext.GNUTranslations(file)._catalog.values() if isinstance(v, str))

    def plain(path):
        with open(path, encoding="utf-8") as file:
            return file.read()

    random.seed(1)
    parts = []
    for patterns, read in ((["/usr/include/**/*.h", "/usr/lib/python3*/**/*.py"], plain),
                           (["/usr/share/doc/*/copyright", "/usr/share/doc/**/*.txt", "/usr/share/perl/**/*.pod"], plain),
                           ([f"/usr/share/locale/{name}/LC_MESSAGES/*.mo"
                             for name in "ru zh_CN ja ko de fr ar hi el uk".split()], catalog)):
        paths = sorted(path for pattern in patterns for path in glob.glob(pattern, recursive=True))
        random.shuffle(paths)
        size = 0
        for path in paths:
            try:
                text = read(path)[:40000]
            except (OSError, UnicodeDecodeError):
                continue
            parts.append(text)
            size += len(text.encode())
            if size > limit // 3:
                break
    random.shuffle(parts)
    return "\n\n".join(parts)


def pieces(data, size):
    """As in bench/data.cc: about `size` bytes each, cut before characters."""
    out, begin = [], 0
    while begin < len(data):
        end = min(begin + size, len(data))
        while end < len(data) and data[end] & 0xc0 == 0x80:
            end += 1
        out.append(data[begin:end].decode())
        begin = end
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text")
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args()
    if args.text is None:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt", delete=False) as file:
            file.write(mixed_text())
            args.text = file.name
        atexit.register(os.unlink, args.text)
    ours = json.loads(subprocess.run(
        [args.bench, "--tokenizer", args.tokenizer, "--text", args.text, "--seconds", str(args.seconds), "--json"],
        check=True, capture_output=True, text=True).stdout)
    theirs = {}

    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(args.tokenizer)
    with open(args.text, "rb") as file:
        data = file.read()
    lines = pieces(data, 2000)

    def encode():
        return sum(len(tokenizer.encode(line, add_special_tokens=False).ids) for line in lines)

    theirs["tokens"] = encode()
    if theirs["tokens"] != ours["tokens"]:
        raise SystemExit(f"the tokenizers disagree: {ours['tokens']} tokens and {theirs['tokens']}")
    seconds = best(encode, args.seconds)
    theirs["tokenizer_first_MB_per_s"] = theirs["tokenizer_MB_per_s"] = len(data) / seconds / 1e6

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
