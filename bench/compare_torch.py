#!/usr/bin/env python3
"""Times a LoRA step of a 12B-geometry slice with PyTorch + PEFT, and sets Lapidary's figure beside it.

    python3 -m venv venv && venv/bin/pip install torch 'transformers==5.23.*' 'peft==0.21.*'
    build/lapidary make-model --shape 12b --layers 6 --out slice
    (time a 512-token LoRA step of Lapidary on it: seconds a step from the metrics of `lapidary train`, or bench)
    venv/bin/python bench/compare_torch.py --tokens 512 --ours SECONDS

Both run in bf16 with fp32 adapters of rank 16 on every text linear, AdamW, one sequence, the full vocabulary and no
activation checkpointing unless --checkpointing is given. A shared machine drifts by a factor of two within minutes: run
the two in turn in the same minute, several times, and quote the ratio. Prints one JSON line; the load averages before and
after, and cpu_s (processor seconds of the cheapest step, all threads) beside the wall time, tell whether somebody else was
computing. Needs about 12 GB of memory for 6 layers and 512 tokens.
"""
import argparse
import json
import os
import resource
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma4UnifiedConfig, Gemma4UnifiedForConditionalGeneration

HIDDEN = 3840
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def slice_model(layers, vocab):
    """The first `layers` decoder layers of the real geometry (every sixth is full) with random bf16 weights."""
    types = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)]
    config = Gemma4UnifiedConfig(
        text_config=dict(
            vocab_size=vocab, hidden_size=HIDDEN, intermediate_size=15360, num_hidden_layers=layers, num_attention_heads=16,
            num_key_value_heads=8, head_dim=256, global_head_dim=512, num_global_key_value_heads=1, attention_k_eq_v=True,
            sliding_window=1024, layer_types=types, final_logit_softcapping=30.0, use_bidirectional_attention="vision"),
        vision_config=dict(), audio_config=dict(), image_token_id=vocab - 5, video_token_id=vocab - 4, audio_token_id=vocab - 1,
        boi_token_id=vocab - 7, eoi_token_id=vocab - 6, boa_token_id=vocab - 3, eoa_token_index=vocab - 2)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = Gemma4UnifiedForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.02)
        for module in model.modules():  # buffers, which to_empty leaves undefined
            if hasattr(module, "layer_scalar"):
                module.layer_scalar.fill_(1.0)
            if torch.is_tensor(getattr(module, "embed_scale", None)):
                module.embed_scale.fill_(HIDDEN**0.5)
        rotary = model.model.language_model.rotary_emb
        for name, buffer in type(rotary)(config.text_config).named_buffers():
            getattr(rotary, name).data = buffer.data
    return model


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--layers", type=int, default=6)
    ap.add_argument("--vocab", type=int, default=262144)
    ap.add_argument("--tokens", type=int, default=512)
    ap.add_argument("--rank", type=int, default=16)
    ap.add_argument("--steps", type=int, default=3, help="the fastest counts")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--checkpointing", action="store_true")
    ap.add_argument("--ours", type=float, nargs="+", default=[], metavar="SECONDS", help="Lapidary's seconds a step; the fastest counts")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    load_before = os.getloadavg()[0]
    base = slice_model(a.layers, a.vocab)
    if a.checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
        base.enable_input_require_grads()
    model = get_peft_model(base, LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules=TARGETS)).train()
    params = [p for p in model.parameters() if p.requires_grad]
    for p in params:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(params, lr=1e-4)
    ids = torch.randint(10, a.vocab - 20, (1, a.tokens), generator=torch.Generator().manual_seed(1))
    steps, forwards, cpu = [], [], []
    for _ in range(a.steps):
        begin, busy = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, mm_token_type_ids=torch.zeros_like(ids), use_cache=False).loss
        forwards.append(time.perf_counter() - begin)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - busy)
    best = min(steps)
    result = dict(peer="torch+peft", torch=torch.__version__, layers=a.layers, vocab=a.vocab, tokens=a.tokens, rank=a.rank,
                  checkpointing=a.checkpointing, threads=a.threads, step_s=[round(s, 3) for s in steps], best_step_s=round(best, 3), cpu_s=round(min(cpu), 3),
                  forward_s=round(min(forwards), 3), tokens_per_s=round(a.tokens / best, 2),
                  peak_rss_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
                  load_before=round(load_before, 2), load_after=round(os.getloadavg()[0], 2), loss=round(loss.item(), 4))
    if a.ours:
        ours = min(a.ours)
        result |= dict(ours_step_s=ours, ours_tokens_per_s=round(a.tokens / ours, 2), ours_over_torch=round(best / ours, 3))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
