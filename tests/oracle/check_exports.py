#!/usr/bin/env python3
"""Loads what Lapidary exported in the real Transformers, PEFT and llama.cpp, and prints how far the results are apart.

    G=../golden/gguf
    lapidary export --model $G/hf --adapter $G/lora --out safetensors=OUT/merged --out peft=OUT/peft --out gguf:bf16=OUT/bf16.gguf ...
    check_exports.py --base $G/hf --adapter $G/lora --tokens $G/tokens.json --media $G/media \\
        --merged OUT/merged --peft OUT/peft --gguf OUT/f32.gguf OUT/bf16.gguf OUT/q8_0.gguf OUT/q4_0.gguf --mmproj OUT/mmproj-*.gguf
    check_exports.py --base $G/hf --tokens $G/tokens.json --media $G/media --inventory $G/inventory \\
        --gguf PLAIN/text-f32.gguf PLAIN/text-q4_0.gguf ...          --mmproj PLAIN/mmproj-*.gguf     (without an adapter; names as in the inventory)

What is compared, one line each, and the limit that applies:
  merged  every tensor with PEFT's own merge in float32, rounded to bf16: all others bit-equal, at most 1e-3 of the
          merged elements off by one bf16 step (order of the sum); Transformers loads it without missing or unexpected keys;
          logits against base + adapter: mean KL at most 1.1 times that of PEFT's merge rounded to bf16
  peft    PEFT loads it without missing or unexpected keys; logits equal those of --adapter to 1e-5
  gguf    llama.cpp runs it: F32 within 1e-3 of Transformers; every other type within 1e-3 of Transformers with the stored
          values (--stored), and unlimited figures as it is. Without an adapter: every tensor's bytes equal ggml's
          quantiser, and keys and tensors equal the inventory of llama.cpp's converter, if one is given
  mmproj  with an F32 --gguf, else the first: F32 within 1e-3, others 0.1
The exit status is 1 when a limit is broken. Needs torch, transformers, peft, safetensors, gguf; PREFIX or --prefix
names the tools of referee/llama-build.sh.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Gemma4UnifiedForConditionalGeneration as Model

REFEREE = pathlib.Path(__file__).resolve().parent / "referee"
failed = []


def report(what, ok, **figures):
    text = "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
    print(f"{'ok  ' if ok else 'FAIL'}  {what:<34} {text}", flush=True)
    if not ok:
        failed.append(what)


def load(folder, adapter=None):
    model, info = Model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    if adapter:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(model, adapter)
        info["adapter"] = [str(w.message)[:200] for w in caught if "key" in str(w.message).lower()]
    return model.eval(), info


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids]), mm_token_type_ids=torch.zeros(1, len(ids), dtype=torch.long), use_cache=False).logits[0].double()


def figures(want, got):
    p, q = want.log_softmax(-1), got.log_softmax(-1)
    return dict(max_diff=(want - got).abs().max().item(), mean_kl=(p.exp() * (p - q)).sum(-1).mean().item(),
                top1=(want.argmax(-1) == got.argmax(-1)).double().mean().item())


def disk_name(name):
    name = name.replace("embed_vision.multimodal_embedder.embedding_projection", "embed_vision.embedding_projection")
    for part in ("patch_ln1", "patch_dense", "patch_ln2", "pos_embedding", "pos_norm"):
        name = name.replace(f"model.embed_vision.{part}", f"model.vision_embedder.{part}")
    return name


def check_merged(a, ids, reference):
    model, info = load(a.merged)
    bad = {k: sorted(info[k]) for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[k]}
    report("merged: loads in Transformers", not bad, **({"problems": json.dumps(bad)[:300]} if bad else {}))
    ours = {}
    for f in pathlib.Path(a.merged).glob("*.safetensors"):
        ours |= load_file(f)
    base, _ = load(a.base)
    before = {disk_name(k): v.clone() for k, v in base.state_dict().items()}
    if a.adapter:
        base = PeftModel.from_pretrained(base, a.adapter).merge_and_unload()
    after = {disk_name(k): v for k, v in base.state_dict().items()}
    lost = sorted(k for k in after if k not in ours and k != "lm_head.weight")
    extra = sorted(k for k in ours if k not in after)
    changed = same = steps = worst = 0
    for k, v in ours.items():
        if k in after:
            want = after[k].to(v.dtype)
            if torch.equal(before[k], after[k]):
                same += not torch.equal(v, want)
            else:
                off = (v.view(torch.int16).int() - want.view(torch.int16).int()).abs() if v.dtype == torch.bfloat16 else (v - want).abs() / (want.abs() + 1e-9)
                changed += v.numel()
                steps += int((off > (0 if v.dtype == torch.bfloat16 else 1e-6)).sum())
                worst = max(worst, off.max().item())
    report("merged: tensors against PEFT's merge", not lost and not extra and not same and worst <= 1 and steps <= 1e-3 * max(changed, 1),
           changed_elements=changed, off_by_a_step=steps, worst_steps=worst, other_tensors_that_differ=same, missing=lost, extra=extra)
    rounded, _ = load(a.base)
    if a.adapter:
        rounded = PeftModel.from_pretrained(rounded, a.adapter).merge_and_unload()
    rounded = rounded.bfloat16().float()
    theirs, mine = figures(reference, logits(rounded, ids)), figures(reference, logits(model, ids))
    report("merged: logits, PEFT's merge in bf16", True, **theirs)
    report("merged: logits, ours", mine["mean_kl"] <= 1.1 * theirs["mean_kl"] + 1e-9, **mine)


def referee(script, *args, a):
    r = subprocess.run([sys.executable, REFEREE / script, *map(str, args), "--prefix", str(a.prefix)] if script != "gguf_inventory.py"
                       else [sys.executable, REFEREE / script, *map(str, args)], capture_output=True, text=True)
    return r.returncode, (r.stdout or r.stderr[-600:]).strip()


def gguf_type(path):
    import gguf
    kinds = {t.tensor_type.name for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1}
    return "F32" if kinds == {"F32"} else "/".join(sorted(kinds))


def check_inventory(a, path, name, stem):
    found = a.inventory / f"{stem}.json" if a.inventory else None
    if found and found.exists():
        code, out = referee("gguf_inventory.py", path, "--against", found, "--ignore", a.ignore, a=a)
        report(f"{name}: inventory", code == 0, result=out.replace("\n", " | ")[:1200])


def check_gguf(a, path):
    kind = gguf_type(path)
    name = f"{path.name} ({kind})"
    reference = a.merged if a.adapter else a.base
    common = ["--gguf", path, "--tokens", a.tokens]
    peft = ["--peft", a.adapter] if a.adapter else []
    code, out = referee("gguf_check.py", *common, "--reference", a.base, *peft, a=a)
    r = json.loads(out) if out.startswith("{") else {"error": out}
    ok = code == 0 and (kind != "F32" or r.get("max_diff", 9) <= 1e-3)
    report(f"{name}: runs in llama.cpp", ok, **{k: r[k] for k in ("max_diff", "mean_kl", "top1", "error", "message") if k in r})
    if reference:
        code, out = referee("gguf_check.py", *common, "--reference", reference, "--stored", a=a)
        r = json.loads(out) if out.startswith("{") else {"error": out}
        report(f"{name}: stored values", code == 0 and r.get("max_diff", 9) <= 1e-3,
               **{k: r[k] for k in ("max_diff", "mean_kl", "top1", "error") if k in r})
        if not a.adapter or kind in ("BF16", "BF16/F32"):  # a merge in float32 has finer values than the bf16 folder
            code, out = referee("gguf_tensors.py", "--gguf", path, "--hf", reference, a=a)
            report(f"{name}: bytes against ggml", code == 0, result=out.replace("\n", " | ")[-300:])
    if not a.adapter:
        check_inventory(a, path, name, path.stem)


def check_mmproj(a, path):
    kind = gguf_type(path)
    code, out = referee("gguf_check.py", "--gguf", a.text, "--mmproj", path, "--media", a.media, a=a)
    r = json.loads(out) if out.startswith("{") else {"error": out}
    limit = 1e-3 if kind == "F32" else 0.1
    # with an adapter in the text model the stored logits do not apply; the embeddings do
    value = r.get("embedding_diff", 9) if a.adapter else r.get("max_diff", 9)
    report(f"{path.name} ({kind}): picture and sound", code == 0 and value <= limit,
           **{k: r[k] for k in ("embedding_diff", "max_diff", "mean_kl", "top1", "error", "message") if k in r})
    code, out = referee("gguf_tensors.py", "--gguf", path, "--hf", a.base, a=a)
    report(f"{path.name} ({kind}): bytes against ggml", code == 0, result=out.replace("\n", " | ")[-300:])
    check_inventory(a, path, f"{path.name} ({kind})", path.stem.replace("mmproj-text-", "mmproj-"))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "adapter", "merged", "peft", "media", "inventory", "tokens"):
        ap.add_argument(f"--{name}", type=pathlib.Path, required=name in ("base", "tokens"))
    ap.add_argument("--gguf", type=pathlib.Path, nargs="+", default=[])
    ap.add_argument("--mmproj", type=pathlib.Path, nargs="+", default=[])
    ap.add_argument("--ignore", default=r"^general\.(name|size_label)$", help="keys that need not equal the inventory (%(default)s)")
    ap.add_argument("--prefix", type=pathlib.Path, default=os.environ.get("PREFIX", pathlib.Path.home() / ".cache/lapidary-referee"))
    a = ap.parse_args()
    torch.set_num_threads(1)
    if a.mmproj and not (a.media and a.gguf):
        ap.error("--mmproj needs --media and a --gguf to run with")
    ids = json.loads(a.tokens.read_text())
    model, _ = load(a.base, a.adapter)
    reference = logits(model, ids)
    if a.adapter:
        plain, _ = load(a.base)
        report("the adapter moves the logits", True, **figures(reference, logits(plain, ids)))
    if a.merged:
        check_merged(a, ids, reference)
    if a.peft:
        again, info = load(a.base, a.peft)
        report("peft: loads in PEFT", not info["adapter"], problems=info["adapter"])
        r = figures(reference, logits(again, ids))
        report("peft: logits", r["max_diff"] <= 1e-5, **r)
    for path in a.gguf:
        check_gguf(a, path)
    a.text = next((p for p in a.gguf if gguf_type(p) == "F32"), a.gguf[0]) if a.gguf else None
    for path in a.mmproj:
        check_mmproj(a, path)
    print(f"{len(failed)} of the limits broken" + "".join(f"\n  {f}" for f in failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
