#!/usr/bin/env python3
"""What mlx makes of the folders that mlx.sh exported: mlx_check.py OUT [LOGITS.safetensors]. Exit status 1 on a difference."""
import json
import pathlib
import sys

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)
out = pathlib.Path(sys.argv[1])
failed = []


def check(good, text):
    print(("ok   " if good else "BAD  ") + text)
    if not good:
        failed.append(text)


def mlx_name(name):
    language = "model.language_model."
    return "language_model.model." + name[len(language):] if name.startswith(language) else name[len("model."):]


source = mx.load(str(out / "f32/model.safetensors"))
for folder, bits, group in (("4bit", 4, 64), ("4bit-g32", 4, 32), ("8bit", 8, 64)):
    ours = mx.load(str(out / folder / "model.safetensors"))
    words = different = 0
    for name, weight in source.items():
        stem = mlx_name(name)[: -len(".weight")]
        if stem + ".scales" not in ours:
            continue
        codes, scales, biases = mx.quantize(weight, group_size=group, bits=bits)
        words += codes.size
        different += int((codes != ours[stem + ".weight"]).sum())
        different += int((scales.astype(mx.bfloat16) != ours[stem + ".scales"]).sum())
        different += int((biases.astype(mx.bfloat16) != ours[stem + ".biases"]).sum())
    check(words > 0 and different == 0, f"{folder}: {words} words, {different} words, scales or biases differ from mlx.core.quantize")

if len(sys.argv) > 2:
    golden = {k: np.array(v) for k, v in mx.load(sys.argv[2]).items()}

    def log_softmax(x):
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    def kl(logits, name):
        p, q = log_softmax(golden[name]), log_softmax(np.array(logits.astype(mx.float32))[0])
        return float((np.exp(p) * (p - q)).sum(-1).mean())

    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model as load_text_model
    from mlx_vlm.utils import load_model

    tokens = mx.array(golden["tokens"])[None]
    for folder, limit in (("bf16", 0.01), ("8bit", 0.1), ("4bit", 1.0)):
        value = kl(load_model(out / folder).language_model(tokens).logits, "logits_lora")
        check(value < limit, f"{folder} in mlx-vlm: mean KL to Transformers with the adapter {value:.2e} (limit {limit})")
    # mlx-lm takes the 12B's vocabulary where the top level of config.json has none.
    vocabulary = json.load(open(out / "base/config.json"))["text_config"]["vocab_size"]
    model, _ = load_text_model(out / "base", model_config={"vocab_size": vocabulary})
    value = kl(model(tokens), "logits")
    check(value < 0.01, f"bf16 without adapter in mlx-lm: mean KL {value:.2e} (limit 0.01)")
    value = kl(load_adapters(model, str(out / "lora"))(tokens), "logits_lora")
    check(value < 0.01, f"mlx-lora in mlx-lm: mean KL {value:.2e} (limit 0.01)")
sys.exit(1 if failed else 0)
