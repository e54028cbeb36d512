#!/usr/bin/env python3
"""Golden numbers of a small random Gemma 4 Unified model, made with Hugging Face Transformers and PEFT.

  make_model_golden.py --shape tiny --seed 1 --out DIR [--only PART ...] [--variant plain|memory|mlx|text-only] ...

Writes into DIR (all layouts: ../golden/README.md):
  model/                  a checkpoint (weights exactly representable in bf16 and fp16)
  forward.safetensors     four batches; hidden states after every layer; logits
  gradients.safetensors   gradient of the mean loss of batch 0 for every parameter (full fine-tuning)
  long.safetensors        one long sequence
  padding.safetensors     rows of different lengths, padded on the left and on the right
  packed.safetensors      several documents in one row
  lora*/                  PEFT adapters: start, gradients, AdamW trajectory, end, merged weights
  full/                   AdamW steps of full fine-tuning
  generate.json           greedy continuations
  schedules.json          learning rates of the usual schedules, step by step
  summary.json            losses, the error of a bf16 run and of float32 itself, for a human reader

Everything is computed in float32 on one thread unless its name says bf16. Needs torch, transformers >= 5.23, peft.
"""
import argparse
import json
import math
import pathlib
import shutil

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from transformers import get_scheduler

import small_models as sm
from small_models import SHAPES, flat, run

KINDS = ["mixed", "text", "crowded", "scattered"]
TEXT_KINDS = ["text", "scattered", "text", "scattered"]
TEXT_LINEAR = r"model\.(language_model\.)?layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
PARTS = ["forward", "gradients", "long", "padding", "packed", "lora", "full", "generate", "schedules"]

# folder -> steps and what LoraConfig gets besides r, lora_alpha and task_type
LORAS = {
    "lora": (20, dict(target_modules=TEXT_LINEAR)),
    "lora-rslora": (5, dict(target_modules=TEXT_LINEAR, use_rslora=True)),
    "lora-dora": (5, dict(target_modules=TEXT_LINEAR, use_dora=True)),
    # the text linears and the three of the media embedders
    "lora-embedders": (8, dict(target_modules="all-linear")),
    # the embedders trained whole beside adapters on attention alone
    "lora-modules-to-save": (8, dict(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                                     modules_to_save=["embed_vision", "embed_audio"])),
    # only the linears of the embedders are trained whole
    "lora-linears-to-save": (5, dict(target_modules=["gate_proj", "down_proj"],
                                     modules_to_save=["patch_dense", "embedding_projection"])),
    "lora-patterns": (8, dict(
        target_modules=TEXT_LINEAR, lora_dropout=0.0,
        rank_pattern={r"language_model\.layers\.[02]\.self_attn\.q_proj": 3, "down_proj": 6, r"layers\.1\.mlp\.up_proj": 1},
        alpha_pattern={"k_proj": 5, r"layers\.1\.mlp\..*": 24})),
    # one tensor only, DoRA and rsLoRA together, an embedder with it
    "lora-few": (5, dict(target_modules=r".*layers\.1\.self_attn\.o_proj|.*patch_dense", use_dora=True, use_rslora=True)),
}


class Maker:
    def __init__(self, a):
        self.a, self.out, self.seed = a, a.out, a.seed
        self.s = SHAPES[a.shape]
        self.text_only = a.variant == "text-only"
        self.ids = sm.special_ids(a.tokenizer, self.s["vocab"])
        kinds = TEXT_KINDS if self.text_only else KINDS
        self.batches = [sm.make_batch(self.s, self.ids, self.seed * 100 + i, k) for i, k in enumerate(kinds)]
        self.summary = {"shape": self.s, "special_ids": self.ids, "batches": kinds, "forward": [], "float32_noise": {}}

    def build(self):
        return sm.build(self.a.shape, self.ids, self.seed, tied=not self.a.untied, text_only=self.text_only)

    def gradients(self, model, batch):
        """Loss and the gradients of all parameters."""
        model.zero_grad()
        loss = run(model, batch).loss
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def save(self, tensors, name):
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, str(self.out / name))
        (self.out / name).chmod(0o644)

    # -------------------------------------------------------------- parts

    def checkpoint(self):
        a = self.a
        sm.save_checkpoint(self.build(), self.out / "model", a.variant if a.variant in ("memory", "mlx") else "plain",
                           getattr(torch, a.dtype), a.shard)
        if a.flat:
            sm.flat_spelling(self.out / "model" / "config.json")
        if a.variant == "plain" or self.text_only:  # the real loader must see the same model
            kind = type(self.build())
            again = kind.from_pretrained(self.out / "model", dtype=torch.float32, attn_implementation="eager").eval()
            with torch.no_grad():
                one, two = (run(m, self.batches[0]).logits for m in (again, self.build()))
            assert torch.equal(one, two), (one - two).abs().max()

    @torch.no_grad()
    def forward(self):
        model, data = self.build(), {}
        trained = {"lora", "full"} & set(self.a.only)
        for i, b in enumerate(self.batches):
            if i < self.a.expect or trained:
                data |= flat(b, f"batch{i}")
            if i >= self.a.expect:
                continue
            o = run(model, b, output_hidden_states=True)
            for n, h in enumerate(o.hidden_states):
                data[f"batch{i}.hidden.{n}"] = h
            data[f"batch{i}.logits"] = o.logits
            record = dict(batch=i, loss=o.loss.item(), logit_std=o.logits.std().item(), tokens=b["input_ids"].numel())
            if i < 2:
                half = run(self.build().bfloat16(), sm.cast(b, torch.bfloat16))
                data[f"batch{i}.logits_bf16_run"] = half.logits.float()
                p, q = o.logits.log_softmax(-1), half.logits.float().log_softmax(-1)
                record |= dict(bf16_run_mean_kl=(p.exp() * (p - q)).sum(-1).mean().item(), loss_bf16_run=half.loss.item())
            if i == 0 and not self.text_only:
                bare = run(model, b, "bare")
                data[f"batch{i}.logits_bare_rule"] = bare.logits
                record["loss_bare_rule"] = bare.loss.item()
            exact = run(self.build().double(), sm.cast(b, torch.float64))
            record["float32_error"] = (exact.logits - o.logits).abs().max().item()
            self.summary["forward"].append(record)
        self.save(data, "forward.safetensors")

    def all_gradients(self):
        loss, named = self.gradients(self.build(), self.batches[0])
        _, exact = self.gradients(self.build().double(), sm.cast(self.batches[0], torch.float64))
        worst = max(((named[k] - exact[k]).norm() / exact[k].norm()).item() for k in named)
        self.save(named, "gradients.safetensors")
        self.summary["gradients"] = dict(batch=0, loss=loss.item(), parameters=len(named), float32_error=worst)

    def some(self, grads):
        """Gradients of the embeddings, the norms, the attention of the outer layers, and the embedders."""
        keep = ("layers.0.", f"layers.{self.s['layers'] - 1}.", "norm", "embed_audio", "patch_dense", "embed_tokens")
        return {"grad." + k: g for k, g in grads.items() if any(x in k for x in keep) and "mlp" not in k}

    def long(self):
        """Media in front and text behind: crosses the window and any attention block size many times."""
        g = torch.Generator().manual_seed(self.seed * 100 + 51)
        b = sm.make_batch(self.s, self.ids, self.seed * 100 + 50, "text" if self.text_only else "mixed")
        b = {k: (v[:1] if v.shape[0] == 2 and self.text_only else v) for k, v in b.items()}
        n = self.a.long - b["input_ids"].shape[1]
        tail = torch.randint(self.s["first"], self.s["vocab"] - 8, (1, n), generator=g)
        b["input_ids"] = torch.cat([b["input_ids"], tail], 1)
        b["mm_token_type_ids"] = torch.cat([b["mm_token_type_ids"], torch.zeros_like(tail)], 1)
        b["labels"] = torch.cat([b["labels"], tail], 1)
        model = self.build()
        loss, grads = self.gradients(model, b)
        with torch.no_grad():
            logits = run(model, b).logits[:, -32:]
        self.save(flat(b, "batch") | {"loss": loss.reshape(1), "logits_last_32": logits} | self.some(grads), "long.safetensors")

    def documents(self):
        """Documents of very different lengths; the media ones have an image wider than the window."""
        g = torch.Generator().manual_seed(self.seed * 100 + 70)
        rows = [sm.Row(self.s, self.ids, g) for _ in range(6)]
        rows[0].words(36)
        rows[1].words(2), rows[1].words(0)
        rows[3].words(61)
        rows[5].words(4)
        if self.text_only:
            rows[4].words(20)
        else:  # rows[2] stays a single token
            rows[1].image(7, 5), rows[1].words(6), rows[1].audio(3), rows[1].words(4)
            rows[4].video(2, 2, 2), rows[4].image(2, 2), rows[4].words(7)
        docs = []
        for k, r in enumerate(rows):
            b = sm.single(r, len(r.seq))
            b["labels"][:, 0] = -100          # nothing predicts the first token of a document
            b["labels"][:, :k] = -100
            b["labels"][b["mm_token_type_ids"] != 0] = -100
            docs.append(b)
        return rows, docs

    def alone(self, docs):
        """Every document by itself: logits, sums of the losses, target counts and gradients of the mean over all targets."""
        model, logits, sums, counts = self.build(), [], [], []
        total = sum(int((b["labels"] != -100).sum()) for b in docs)
        model.zero_grad()
        for b in docs:
            o = run(model, {k: v for k, v in b.items() if k != "labels"})
            nll = torch.nn.functional.cross_entropy(o.logits[0, :-1], b["labels"][0, 1:], ignore_index=-100, reduction="sum")
            (nll / total).backward()
            logits.append(o.logits[0].detach())
            sums.append(nll.item())
            counts.append(int((b["labels"] != -100).sum()))
        return logits, sums, counts, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def packed(self):
        rows, docs = self.documents()
        logits, sums, counts, grads = self.alone(docs)
        lengths = [len(r.seq) for r in rows]
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        joined = {k: torch.cat([d[k] for d in docs], 1) for k in ("input_ids", "mm_token_type_ids", "labels")}
        joined["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
        joined |= sm.media_tensors(rows)
        whole = torch.cat(logits)
        with torch.no_grad():  # one run of the packed row, its masks put together from those of the documents
            model = self.build()
            parts = [sm.masks(model.config.get_text_config(), d, torch.float32) for d in docs]
            lowest = torch.finfo(torch.float32).min
            mask = {k: torch.full((1, 1, len(whole), len(whole)), lowest) for k in parts[0]}
            for a, n, part in zip(starts, lengths, parts):
                for k, m in part.items():
                    mask[k][..., a:a + n, a:a + n] = m
            o = run(model, joined | {"attention_mask": mask}, "given")
        assert (o.logits[0] - whole).abs().max() < 1e-4, (o.logits[0] - whole).abs().max()
        assert abs(o.loss.item() - sum(sums) / sum(counts)) < 1e-5
        data = flat(joined, "batch") | {"batch.document_starts": torch.tensor(starts, dtype=torch.int32)}
        data |= {"logits": whole[None], "loss": torch.tensor([sum(sums) / sum(counts)]), "document_loss_sums": torch.tensor(sums),
                 "document_targets": torch.tensor(counts, dtype=torch.int32)} | self.some(grads)
        self.save(data, "packed.safetensors")
        self.summary["packed"] = dict(lengths=lengths, loss=sum(sums) / sum(counts), packed_run_loss=o.loss.item())

    def padding(self):
        rows, docs = self.documents()
        keep = [0, 1, 4, 5]
        rows, docs = [rows[i] for i in keep], [docs[i] for i in keep]
        logits, sums, counts, _ = self.alone(docs)
        t = max(len(r.seq) for r in rows)
        data = {}
        for side in ("left", "right"):
            def fill(row, value):
                pad = torch.full((t - row.shape[0],), value, dtype=row.dtype)
                return torch.cat([pad, row] if side == "left" else [row, pad])
            b = {k: torch.stack([fill(d[k][0], v) for d in docs])
                 for k, v in (("input_ids", 0), ("mm_token_type_ids", 0), ("labels", -100))}
            b["attention_mask"] = torch.stack([fill(torch.ones(len(r.seq), dtype=torch.int64), 0) for r in rows])
            b["position_ids"] = (b["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            b |= sm.media_tensors(rows)
            model = self.build()
            loss, grads = self.gradients(model, b)
            with torch.no_grad():
                got = run(model, b).logits * b["attention_mask"][..., None]
            for i, want in enumerate(logits):
                assert (got[i][b["attention_mask"][i] == 1] - want).abs().max() < 1e-4
            assert abs(loss.item() - sum(sums) / sum(counts)) < 1e-5
            data |= flat(b, f"{side}.batch") | {f"{side}.logits": got, f"{side}.loss": loss.reshape(1)}
            if side == "left":
                data |= {f"{side}.{k}": v for k, v in self.some(grads).items()}
        self.save(data, "padding.safetensors")
        self.summary["padding"] = dict(lengths=[len(r.seq) for r in rows], loss=loss.item())

    def train(self, model, params, steps, lr, wd=0.01, clip=1.0, dtype=torch.float32):
        """AdamW; step i uses batch (i - 1) mod 4. A parameter without gradient (an embedder in a batch without its
        medium) is left alone by the optimizer: no decay, no moments, no step count."""
        opt = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=wd)
        log = []
        for i in range(steps):
            opt.zero_grad()
            loss = run(model, sm.cast(self.batches[i % 4], dtype)).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(params, clip)
            opt.step()
            log.append(dict(step=i + 1, loss=loss.item(), grad_norm=norm.item()))
        return log

    def adapter(self, kw, base):
        """PEFT on `base`, with an A as PEFT draws it and a B that is not zero."""
        torch.manual_seed(self.seed + 5)
        model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **kw)).eval()
        g = torch.Generator().manual_seed(self.seed + 6)
        with torch.no_grad():
            for n, p in model.named_parameters():
                if "lora_B" in n:
                    p.copy_(torch.randn(p.shape, generator=g) * 0.05)
                elif "modules_to_save" in n:  # trained already: differs from the base
                    p.add_(torch.randn(p.shape, generator=g) * 0.02)
        return model

    def lora(self, name, steps, kw):
        out = self.out / name
        out.mkdir(parents=True)
        model = self.adapter(kw, self.build())
        adapted = [n for n, m in model.named_modules() if isinstance(m, LoraLayer)]
        model.save_pretrained(out / "start")
        plain = lambda n: n.replace(".modules_to_save.default", "").replace(".default", "")
        params = [p for p in model.parameters() if p.requires_grad]
        loss, grads = self.gradients(model, self.batches[0])
        self.save({plain(n): g for n, g in grads.items()}, f"{name}/gradients.safetensors")
        with torch.no_grad():
            self.save({"logits.0": run(model, self.batches[0]).logits}, f"{name}/start-logits.safetensors")
        model.zero_grad()
        log = self.train(model, params, steps, 1e-3)
        model.save_pretrained(out / "end")
        with torch.no_grad():
            final = [run(model, b).loss.item() for b in self.batches]
        (out / "trajectory.json").write_text(json.dumps(dict(
            optimizer="AdamW", lr=1e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01, clip_grad_norm=1.0,
            first_gradient_loss=loss.item(), steps=log, final_losses=final), indent=1) + "\n")
        ends = {n: p.detach().double().clone() for n, p in model.named_parameters() if p.requires_grad}
        merged = model.merge_and_unload()
        last = f"layers.{self.s['layers'] - 1}."
        before = self.build().state_dict()
        changed = lambda k, v: not torch.equal(v, before[k]) and ("embed_" in k or len(adapted) < 4)
        wanted = lambda k, v: last in k and k.endswith(("q_proj.weight", "k_proj.weight", "down_proj.weight")) or changed(k, v)
        self.save({k: v for k, v in merged.state_dict().items() if wanted(k, v)}, f"{name}/merged-last-layer.safetensors")
        for f in list(out.rglob("README.md")):
            f.unlink()
        for f in out.rglob("*.*"):
            f.chmod(0o644)
        # the same in double precision: how much of the difference between two programs is rounding
        exact = self.adapter(kw, self.build()).double()
        exact_log = self.train(exact, [p for p in exact.parameters() if p.requires_grad], steps, 1e-3, dtype=torch.float64)
        named = dict(exact.named_parameters())
        self.summary["float32_noise"][name] = dict(
            adapted=len(adapted), parameters=sum(p.numel() for p in params),
            loss=max(abs(x["loss"] - y["loss"]) / y["loss"] for x, y in zip(log, exact_log)),
            end=max(((w - named[n].detach()).norm() / named[n].detach().norm()).item() for n, w in ends.items()))

    def full(self):
        model = self.build()
        params = list(model.parameters())
        log = self.train(model, params, 5, 1e-4)
        (self.out / "full").mkdir()
        with torch.no_grad():
            final = [run(model, b).loss.item() for b in self.batches]
        (self.out / "full" / "trajectory.json").write_text(json.dumps(dict(
            optimizer="AdamW", lr=1e-4, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01, clip_grad_norm=1.0, steps=log,
            final_losses=final), indent=1) + "\n")
        keep = ("layers.0.", "embed_vision", "embed_audio", "language_model.norm", "model.norm", "lm_head")
        kept = {n: p for n, p in model.named_parameters() if any(x in n for x in keep)}
        self.save(kept, "full/end-some-weights.safetensors")
        exact = self.build().double()
        self.train(exact, list(exact.parameters()), 5, 1e-4, dtype=torch.float64)
        named = dict(exact.named_parameters())
        self.summary["float32_noise"]["full"] = dict(
            end=max(((w - named[n]).norm() / named[n].norm()).item() for n, w in kept.items()))

    def greedy(self, model, batch, suppress, **kw):
        g = model.generate(**batch, max_new_tokens=self.a.new_tokens, do_sample=False, suppress_tokens=suppress, eos_token_id=None,
                           pad_token_id=0, attention_mask=torch.ones_like(batch["input_ids"]), output_logits=True,
                           return_dict_in_generate=True, **kw)
        margins = []
        for step in g.logits:
            z = step[0].clone()
            z[suppress] = -math.inf
            top = z.topk(2).values
            margins.append((top[0] - top[1]).item())
        return g.sequences[0, batch["input_ids"].shape[1]:].tolist(), min(margins), torch.stack([z[0] for z in g.logits])

    def generate(self):
        """Greedy continuations of batch 0 and of the first row of batch 1, end-of-medium ids suppressed. Only with a
        static cache does `generate` use its own masks; with the default cache it falls into the bare rule."""
        model, rows = self.build(), []
        suppress = [self.ids["eoi"], self.ids["eoa"]]
        for i in (0, 1):
            b = {k: (v[:1] if i == 1 or self.text_only else v) for k, v in self.batches[i].items() if k != "labels"}
            if self.text_only:
                b.pop("mm_token_type_ids")
            tokens, margin, logits = self.greedy(model, b, suppress, cache_implementation="static", disable_compile=True)
            bare, bare_margin, _ = self.greedy(model, b, suppress)
            whole = dict(b, input_ids=torch.cat([b["input_ids"], torch.tensor([tokens[:-1]])], 1))
            new = torch.zeros(1, len(tokens) - 1, dtype=torch.long)
            whole["mm_token_type_ids"] = torch.cat([b.get("mm_token_type_ids", torch.zeros_like(b["input_ids"])), new], 1)
            if not {self.ids[k] for k in ("image", "video", "audio")} & set(tokens):  # they would need media
                with torch.no_grad():  # the same without a cache
                    again = run(model, whole).logits[0, -len(tokens):]
                assert (again - logits).abs().max() < 1e-4, (again - logits).abs().max()
            rows.append(dict(batch=i, row=0, suppress_tokens=suppress, greedy=tokens, smallest_margin=margin,
                             greedy_bare_rule=bare, smallest_margin_bare_rule=bare_margin))
        (self.out / "generate.json").write_text(json.dumps(rows, indent=1) + "\n")
        self.summary["generate_margins"] = [[r["smallest_margin"], r["smallest_margin_bare_rule"]] for r in rows]

    def schedules(self):
        made = {}
        for name, kw in [("constant", {}), ("constant_with_warmup", {}), ("linear", {}), ("cosine", {}),
                         ("cosine_with_restarts", {"num_cycles": 3}), ("polynomial", {"power": 2.0}), ("inverse_sqrt", {}),
                         ("warmup_stable_decay", {"num_decay_steps": 20})]:
            peak, warmup, total = self.a.schedule
            warmup, total = int(warmup), int(total)
            opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
            sc = get_scheduler(name, opt, num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=kw or None)
            lrs = []
            for _ in range(total):
                lrs.append(opt.param_groups[0]["lr"])
                opt.step()
                sc.step()
            made[name] = dict(peak_lr=peak, warmup_steps=warmup, total_steps=total, options=kw, lr_used_at_step=lrs)
        (self.out / "schedules.json").write_text(json.dumps(made, indent=1) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=pathlib.Path, required=True)
    ap.add_argument("--shape", choices=SHAPES, default="tiny")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--tokenizer", help="a tokenizer.json whose added tokens give the special ids")
    ap.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    ap.add_argument("--loras", nargs="+", choices=LORAS, default=list(LORAS))
    ap.add_argument("--variant", choices=["plain", "memory", "mlx", "text-only"], default="plain")
    ap.add_argument("--untied", action="store_true", help="a head of its own")
    ap.add_argument("--flat", action="store_true", help="config.json with global_head_dim instead of per_layer_config")
    ap.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    ap.add_argument("--shard", help="size of a checkpoint file, such as 100KB")
    ap.add_argument("--long", type=int, default=700, help="tokens of long.safetensors")
    ap.add_argument("--expect", type=int, default=4, help="batches of forward.safetensors that get expected values")
    ap.add_argument("--new-tokens", type=int, default=40)
    ap.add_argument("--schedule", type=float, nargs=3, default=[2e-4, 10, 60], metavar=("PEAK", "WARMUP", "TOTAL"))
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    shutil.rmtree(a.out, ignore_errors=True)
    a.out.mkdir(parents=True)
    m = Maker(a)
    m.checkpoint()
    for part in a.only:
        if part == "lora":
            for name in a.loras:
                m.lora(name, *LORAS[name])
        elif part == "gradients":
            m.all_gradients()
        else:
            getattr(m, part)()
    (a.out / "summary.json").write_text(json.dumps(m.summary, indent=1) + "\n")
    print(json.dumps(m.summary))


if __name__ == "__main__":
    main()
