#!/usr/bin/env python3
"""Golden numbers of optimizers and preference losses.

  make_training_golden.py --golden DIR --out DIR     (needs torch >= 2.15, transformers, peft, trl 1.16)

Reads DIR/model/tiny (model and lora/start, of make_model_golden.py) and writes
  training/optimizers.json   short trajectories of torch.optim.SGD and Muon, Transformers' Adafactor
  training/preference.json   TRL's losses, rewards and derivatives by log-probabilities, of random ones
  training/tiny.json         the same on the tiny model with its adapter: pairs of token ids, log-probabilities, losses,
                             rewards and the norm of every adapter gradient
TRL's formulas are called, not copied: DPOTrainer._compute_loss and KTOTrainer._compute_loss run on stand-ins for trainer
and model that hand them given log-probabilities; ORPO and CPO have functions of their own for it. Muon runs in float32,
not bf16 as PyTorch does it, so that the comparison is of the formulas.
"""
import argparse
import json
import math
import pathlib
import types
from collections import defaultdict

import torch
import torch.nn.functional as F
from transformers import Gemma4UnifiedForConditionalGeneration
from transformers.optimization import Adafactor
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer


def numbers(tensor):
    return [float(f"{x:.9g}") for x in tensor.detach().double().flatten().tolist()]


# --- optimizers ---

def trajectory(name, make, shapes, lr, steps=5):
    generator = torch.Generator().manual_seed(7)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    optimizer = make(params, lr)
    out = {"name": name, "lr": lr, "shapes": shapes, "start": [numbers(p) for p in params], "grads": [], "end": []}
    for _ in range(steps):
        grads = [torch.randn(s, generator=generator) for s in shapes]
        for p, g in zip(params, grads):
            p.grad = g.clone()
        optimizer.step()
        out["grads"].append([numbers(g) for g in grads])
    out["end"] = [numbers(p) for p in params]
    return out


def float32_muon():
    """torch's Newton-Schulz without its cast to bfloat16."""
    source = torch.optim._muon
    def zeropower(grad, coefficients, steps, eps):
        a, b, c = coefficients
        x = grad.clone().double()
        if grad.size(0) > grad.size(1):
            x = x.T
        x = x / x.norm().clamp(min=eps)
        for _ in range(steps):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        if grad.size(0) > grad.size(1):
            x = x.T
        return x.to(grad.dtype)
    source._zeropower_via_newtonschulz = zeropower


def optimizers():
    float32_muon()
    both, matrices = [[3, 5], [4]], [[3, 5], [6, 2]]
    sgd = lambda **kw: lambda p, lr: torch.optim.SGD(p, lr=lr, **kw)
    ada = lambda **kw: lambda p, lr: Adafactor(p, lr=lr, relative_step=False, **kw)
    muon = lambda **kw: lambda p, lr: torch.optim.Muon(p, lr=lr, **kw)
    cases = [
        ("sgd", {}, 0.0, sgd(), both, 0.1, {"momentum": 0.0}),
        ("sgd", {}, 0.1, sgd(momentum=0.9, weight_decay=0.1), both, 0.1, {"momentum": 0.9}),
        ("sgd", {}, 0.01, sgd(momentum=0.8, weight_decay=0.01, nesterov=True), both, 0.05,
         {"momentum": 0.8, "nesterov": True}),
        ("adafactor", {}, 0.0, ada(scale_parameter=False), [[3, 5], [4], [2, 3, 4]], 0.05, {}),
        ("adafactor", {}, 0.1, ada(scale_parameter=True, beta1=0.9, weight_decay=0.1, clip_threshold=0.5), both, 0.05,
         {"scale_parameter": True, "beta1": 0.9, "clip_threshold": 0.5}),
        ("muon", {}, 0.1, muon(weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), matrices, 0.02, {}),
        ("muon", {}, 0.0, muon(weight_decay=0.0, nesterov=False, momentum=0.9), matrices, 0.02,
         {"nesterov": False, "momentum": 0.9, "adjust_lr_fn": "original"}),
        ("muon", {}, 0.0, muon(weight_decay=0.0, adjust_lr_fn="spectral_unclamped", ns_steps=3), matrices, 0.02,
         {"adjust_lr_fn": "spectral_unclamped", "ns_steps": 3}),
    ]
    out = []
    for name, _, decay, make, shapes, lr, args in cases:
        case = trajectory(name, make, shapes, lr)
        case.update(weight_decay=decay, args=args)
        out.append(case)
    return out


# --- preference losses ---

class Accelerator:
    device = torch.device("cpu")
    def gather(self, x): return x
    def gather_for_metrics(self, x): return x


class FakeOutputs:
    def __init__(self, log_probs):
        shape = log_probs.shape
        self.log_probs = log_probs
        self.entropy = self.mean_logits = torch.zeros(shape)
        self.is_top1 = torch.zeros(shape, dtype=torch.bool)


def spread(sums, tokens):
    """[B, T] of per-token log-probabilities whose rows sum up to `sums`, and masks one longer."""
    width = int(max(tokens))
    rows, masks = [], []
    for s, n in zip(sums, tokens):
        n = int(n)
        rows.append(torch.cat([(s / n).expand(n), torch.zeros(width - n)]))
        masks.append([0] + [1] * n + [0] * (width - n))
    return torch.stack(rows), torch.tensor(masks)


def dpo(config, c, r, rc, rr, nc, nr):
    log_probs, mask = spread(torch.cat([c, r]), list(nc) + list(nr))
    metrics = {"train": defaultdict(list)}
    me = types.SimpleNamespace(
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", beta=config["beta"],
        loss_types=[config.get("loss_type", "sigmoid")], loss_weights=[1.0],
        label_smoothing=config.get("label_smoothing", 0.0), use_weighting=False, aux_loss_enabled=False,
        accelerator=Accelerator(), _metrics=metrics, _total_train_tokens=0, _tp_size=1, args=types.SimpleNamespace(),
        model=types.SimpleNamespace(training=True))
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
              "ref_chosen_logps": rc, "ref_rejected_logps": rr}
    loss = DPOTrainer._compute_loss(me, lambda **kw: FakeOutputs(log_probs), inputs, False)
    m = metrics["train"]
    return loss, m["rewards/chosen"][0], m["rewards/rejected"][0]


def kto(config, c, r, rc, rr, nc, nr, kl=0.0):
    log_probs, mask = spread(torch.cat([c, r]), list(nc) + list(nr))
    labels = torch.tensor([True] * len(c) + [False] * len(r))
    metrics = {"train": defaultdict(list)}
    kind = config.get("loss_type", "kto")
    me = types.SimpleNamespace(
        beta=config["beta"], loss_type=kind, calculate_KL=kind == "kto", precompute_ref_logps=True,
        desirable_weight=config.get("desirable_weight", 1.0), undesirable_weight=config.get("undesirable_weight", 1.0),
        aux_loss_enabled=False, accelerator=Accelerator(), _metrics=metrics, _total_train_tokens=0, _tp_size=1,
        args=types.SimpleNamespace(), model=types.SimpleNamespace(training=True),
        _compute_kl_logps=lambda model, batch: torch.full((len(labels),), kl))
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
              "label": labels, "ref_logps": torch.cat([rc, rr]), "ref_KL_logps": torch.zeros(len(labels))}
    loss = KTOTrainer._compute_loss(me, lambda **kw: FakeOutputs(log_probs), inputs, False)
    beta = config["beta"]
    return loss, float((beta * (c - rc)).mean()), float((beta * (r - rr)).mean())


def orpo(config, c, r, rc, rr, nc, nr):
    me = types.SimpleNamespace(beta=config["beta"], accelerator=Accelerator())
    losses, chosen, rejected, _, _ = ORPOTrainer.odds_ratio_loss(me, c / nc, r / nr)
    return -losses.mean(), float(chosen.mean()), float(rejected.mean())


def simpo(config, c, r, rc, rr, nc, nr):
    me = types.SimpleNamespace(beta=config["beta"], alpha=0.0, loss_type="simpo", simpo_gamma=config["simpo_gamma"],
                               label_smoothing=config.get("label_smoothing", 0.0), accelerator=Accelerator())
    losses, chosen, rejected = CPOTrainer.cpo_loss(me, c / nc, r / nr)
    return losses.mean(), float(chosen.mean()), float(rejected.mean())


LOSSES = {"dpo": dpo, "kto": kto, "orpo": orpo, "simpo": simpo}
CONFIGS = [{"type": "dpo", "beta": 0.1, "loss_type": t} for t in
           ["sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "apo_zero", "apo_down", "sppo_hard"]] + [
    {"type": "dpo", "beta": 0.5, "loss_type": "sigmoid"},
    {"type": "dpo", "beta": 0.2, "loss_type": "robust", "label_smoothing": 0.1},
    {"type": "kto", "beta": 0.1}, {"type": "kto", "beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.7},
    {"type": "kto", "beta": 0.1, "loss_type": "apo_zero_unpaired"},
    {"type": "orpo", "beta": 0.1}, {"type": "orpo", "beta": 0.4},
    {"type": "simpo", "beta": 2.0, "simpo_gamma": 0.5},
    {"type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "label_smoothing": 0.1}]


def preference():
    generator = torch.Generator().manual_seed(11)
    n = 4
    nc, nr = torch.tensor([3., 5., 8., 2.]), torch.tensor([4., 2., 8., 6.])
    def draw(tokens): return -tokens * (0.3 + torch.rand(n, generator=generator, dtype=torch.float64))
    c, r = draw(nc), draw(nr)
    rc, rr = c + torch.randn(n, generator=generator).double(), r + torch.randn(n, generator=generator).double()
    out = {"chosen": c.tolist(), "rejected": r.tolist(), "ref_chosen": rc.tolist(), "ref_rejected": rr.tolist(),
           "chosen_tokens": nc.tolist(), "rejected_tokens": nr.tolist(), "cases": []}
    for config in CONFIGS:
        a, b = c.clone().requires_grad_(), r.clone().requires_grad_()
        kl = 0.4 if config["type"] == "kto" and config.get("loss_type", "kto") == "kto" else 0.0
        extra = {"kl": kl} if config["type"] == "kto" else {}
        # KTO's stand-in: policy minus reference is kl on every mixed answer.
        loss, chosen, rejected = LOSSES[config["type"]](config, a, b, rc, rr, nc.double(), nr.double(), **extra)
        loss.backward()
        out["cases"].append({"config": config, "kl": kl, "loss": loss.item(), "chosen_reward": chosen,
                             "rejected_reward": rejected, "d_chosen": a.grad.tolist(), "d_rejected": b.grad.tolist()})
    return out


# --- the tiny model ---

def answers(model, sequences, prompts):
    """Sums of log-probabilities behind the prompts."""
    sums = []
    for ids, prompt in zip(sequences, prompts):
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        logp = F.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        sums.append(logp[prompt - 1:].sum())
    return torch.stack(sums)


def tiny(folder):
    from peft import PeftModel
    torch.manual_seed(3)
    base = Gemma4UnifiedForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    base.eval()
    model = PeftModel.from_pretrained(base, folder / "lora/start", is_trainable=True)
    model.eval()
    generator = torch.Generator().manual_seed(5)
    def draw(n): return torch.randint(10, 90, (n,), generator=generator).tolist()
    pairs = []
    for prompt, chosen, rejected in [(6, 4, 7), (9, 5, 3), (4, 6, 6)]:
        p = draw(prompt)
        pairs.append({"prompt": p, "chosen": draw(chosen), "rejected": draw(rejected)})
    order = [(i, k) for i in range(len(pairs)) for k in ("chosen", "rejected")]
    sequences = [pairs[i]["prompt"] + pairs[i][k] for i, k in order]
    mixed = [pairs[i]["prompt"] + pairs[i - 1][k] for i, k in order]
    prompts = [len(pairs[i]["prompt"]) for i, k in order]
    nc = torch.tensor([float(len(p["chosen"])) for p in pairs])
    nr = torch.tensor([float(len(p["rejected"])) for p in pairs])
    with torch.no_grad(), model.disable_adapter():
        reference = answers(model, sequences, prompts)
        reference_kl = answers(model, mixed, prompts)
    with torch.no_grad():
        kl = (answers(model, mixed, prompts) - reference_kl).mean().clamp(min=0).item()
    out = {"pairs": pairs, "reference": reference.tolist(), "kl": kl, "cases": []}
    for config in [{"type": "dpo", "beta": 0.1}, {"type": "dpo", "beta": 0.3, "loss_type": "ipo"},
                   {"type": "orpo", "beta": 0.1}, {"type": "simpo", "beta": 2.0, "simpo_gamma": 0.5, "cpo_alpha": 0.3},
                   {"type": "kto", "beta": 0.1, "desirable_weight": 1.2}]:
        model.zero_grad()
        logps = answers(model, sequences, prompts)
        out["policy"] = logps.tolist()
        extra = {"kl": kl} if config["type"] == "kto" else {}
        loss, chosen, rejected = LOSSES[config["type"]](config, logps[0::2], logps[1::2], reference[0::2], reference[1::2],
                                                        nc, nr, **extra)
        nll = -logps[0::2].sum() / nc.sum()
        loss = loss + {"orpo": 1.0, "simpo": config.get("cpo_alpha", 0.0)}.get(config["type"], 0.0) * nll
        loss.backward()
        grads = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}
        norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in grads.values()))
        out["cases"].append({"config": config, "loss": loss.item(), "chosen_reward": chosen, "rejected_reward": rejected,
                             "grad_norm": norm,
                             "gradient_norms": [float(f"{g.double().norm().item():.7g}")
                                                for _, g in sorted(grads.items())]})
        out["names"] = [n for n, _ in sorted(grads.items())]
    out["unpaired"] = unpaired(model, draw)
    return out


def unpaired(model, draw):
    """KTO as TRL takes it: answers of their own with a label, K from the answers of the records before."""
    kl = 0.0
    while kl < 0.05:  # K is cut off at 0: records that have one
        records = [{"prompt": draw(p), "completion": draw(c), "label": label}
                   for p, c, label in [(5, 4, True), (7, 6, False), (3, 5, True), (6, 3, True), (4, 7, False)]]
        sequences = [r["prompt"] + r["completion"] for r in records]
        # add_kl_completion_ids of KTOTrainer: [last] + [all but the last].
        mixed = [r["prompt"] + records[i - 1]["completion"] for i, r in enumerate(records)]
        prompts = [len(r["prompt"]) for r in records]
        labels = [r["label"] for r in records]
        with torch.no_grad(), model.disable_adapter():
            reference, reference_kl = answers(model, sequences, prompts), answers(model, mixed, prompts)
        with torch.no_grad():
            kl = (answers(model, mixed, prompts) - reference_kl).mean().clamp(min=0).item()
    out = {"records": records, "kl": kl, "cases": []}
    for config in [{"type": "kto", "beta": 0.1}, {"type": "kto", "beta": 0.4, "desirable_weight": 1.5,
                                                 "undesirable_weight": 0.7},
                   {"type": "kto", "beta": 0.2, "loss_type": "apo_zero_unpaired"}]:
        model.zero_grad()
        logps = answers(model, sequences, prompts)
        chosen = torch.tensor([i for i, label in enumerate(labels) if label])
        rejected = torch.tensor([i for i, label in enumerate(labels) if not label])
        tokens = torch.tensor([float(len(r["completion"])) for r in records])
        loss, chosen_reward, rejected_reward = kto(config, logps[chosen], logps[rejected], reference[chosen],
                                                   reference[rejected], tokens[chosen], tokens[rejected], kl)
        loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        out["cases"].append({"config": config, "loss": loss.item(), "chosen_reward": chosen_reward,
                             "rejected_reward": rejected_reward,
                             "gradient_norms": [float(f"{g.double().norm().item():.7g}")
                                                for _, g in sorted(grads.items())]})
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out / "training"
    out.mkdir(parents=True, exist_ok=True)
    for name, value in [("optimizers", optimizers()), ("preference", preference()),
                        ("tiny", tiny(args.golden / "model/tiny"))]:
        (out / f"{name}.json").write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
