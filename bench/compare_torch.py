#!/usr/bin/env python3
"""A LoRA step of a 12B-geometry slice: Lapidary beside PyTorch + Transformers + PEFT, on the same checkpoint.

    build/lapidary make-model --shape 12b --layers 6 --out slice
    python3 bench/compare_torch.py slice --venv torch-venv --tokens 512

--venv DIR makes a virtual environment with the packages below if DIR has none (about 5 GB; PIP_INDEX_URL chooses a CPU-only
build of PyTorch, which is smaller) and runs the peer in it; without it the running Python must have them.

Both load the same bfloat16 folder and train adapters of rank 16 on every text linear: one sequence of random tokens, the
full vocabulary, bfloat16 compute, float32 adapters, AdamW, every layer recomputed in the backward pass (--no-checkpointing
keeps all). A shared machine drifts by a factor of two within minutes, so whole programs alternate: one warm-up step and
--steps timed ones each, --rounds times, never both at once. The figure is the ratio of the medians of all timed steps. cpu_s
is the cheapest step's processor time over all threads: far from step_s * threads, somebody else was computing.

Prints progress on stderr and one JSON object on stdout. PyTorch needs about 12 GB of memory for 6 layers and 512 tokens,
18 GB at 2,048.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import venv

PACKAGES = ["torch==2.*", "transformers==5.23.*", "peft==0.21.*"]
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def peak_gb():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1)) * 1024 / 1e9


def run_peer(a):
    """The peer's side, in a process of its own: one JSON object."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(a.threads)
    model = transformers.Gemma4UnifiedForConditionalGeneration.from_pretrained(a.model, dtype=torch.bfloat16)
    if a.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
        model.enable_input_require_grads()
    model = peft.get_peft_model(model, peft.LoraConfig(r=a.rank, lora_alpha=32, target_modules=TARGETS)).train()
    params = [p for p in model.parameters() if p.requires_grad]
    for p in params:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(params, lr=1e-4)
    vocab = model.config.text_config.vocab_size
    ids = torch.randint(10, vocab - 20, (1, a.tokens), generator=torch.Generator().manual_seed(1))
    seconds, cpu = [], []
    for step in range(a.steps + 1):
        begin, busy = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, mm_token_type_ids=torch.zeros_like(ids), use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step > 0:  # the first one warms up
            seconds.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - busy)
    print(json.dumps(dict(
        step_s=seconds, cpu_s=min(cpu), peak_rss_gb=peak_gb(), loss=loss.item(), trainable=sum(p.numel() for p in params),
        versions=dict(torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__))))


def make_venv(folder):
    """The folder's Python, installed first if it is not there."""
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        print(f"{folder}: installing {' '.join(PACKAGES)}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, stdout=sys.stderr)
    return python


def last_json(command, name):
    """Runs a program; the JSON object that its output ends with."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        sys.exit(f"error: {name} must end with a figure; got exit status {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return json.loads(lines[-1])


def run_ours(a):
    command = [a.bench_step, a.ours or a.model, "--tokens", str(a.tokens), "--steps", str(a.steps), "--rank", str(a.rank), "--json"]
    if a.checkpointing:
        command.append("--checkpointing")
    return last_json(command, "bench_step")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", help="Hugging Face folder that both load (make-model --shape 12b --layers N)")
    ap.add_argument("--ours", help="the same model in another format for Lapidary, for example a Q4_0 GGUF")
    ap.add_argument("--bench-step", default="build/bench/bench_step", metavar="PROGRAM", help="default %(default)s")
    ap.add_argument("--venv", metavar="DIR", help="virtual environment with PyTorch, made if it is not there")
    ap.add_argument("--tokens", type=int, default=512)
    ap.add_argument("--rank", type=int, default=16)
    ap.add_argument("--steps", type=int, default=2, help="timed steps a round")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    ap.add_argument("--no-checkpointing", dest="checkpointing", action="store_false")
    ap.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.peer:
        return run_peer(a)

    if not os.path.isfile(os.path.join(a.model, "config.json")):
        sys.exit(f"error: {a.model}: must be a Hugging Face folder; got no config.json; try lapidary make-model --shape 12b --layers 6 --out {a.model}")
    python = make_venv(a.venv) if a.venv else sys.executable
    os.environ["LAPIDARY_THREADS"] = str(a.threads)
    peer = [python, os.path.abspath(__file__), a.model, "--peer", "--tokens", str(a.tokens), "--rank", str(a.rank),
            "--steps", str(a.steps), "--threads", str(a.threads)] + ([] if a.checkpointing else ["--no-checkpointing"])
    load_before = os.getloadavg()[0]
    ours, theirs = [], []
    ours_s, theirs_s = [], []
    for r in range(a.rounds):
        for results, seconds, name, run in ((ours, ours_s, "lapidary", lambda: run_ours(a)),
                                            (theirs, theirs_s, "pytorch", lambda: last_json(peer, "the peer"))):
            result = run()
            results.append(result)
            steps = result["step_s"]
            seconds += steps if isinstance(steps, list) else [steps]
            print(f"round {r + 1} of {a.rounds}: {name} {seconds[-1]:.2f} s a step, {result['peak_rss_gb']:.2f} GB", file=sys.stderr)
    median_ours, median_theirs = statistics.median(ours_s), statistics.median(theirs_s)
    with open(os.path.join(a.model, "config.json")) as file:
        text = json.load(file)["text_config"]
    print(json.dumps(dict(
        model=a.model, layers=text["num_hidden_layers"], vocab=text["vocab_size"], tokens=a.tokens, rank=a.rank,
        checkpointing=a.checkpointing, threads=a.threads, rounds=a.rounds, versions=theirs[-1]["versions"],
        ours=dict(model=a.ours or a.model, isa=ours[-1]["isa"], step_s=[round(s, 3) for s in ours_s], median_s=round(median_ours, 3),
                  tok_s=round(a.tokens / median_ours, 2), peak_rss_gb=round(max(r["peak_rss_gb"] for r in ours), 2),
                  loss=round(ours[-1]["loss"], 4)),
        torch=dict(step_s=[round(s, 3) for s in theirs_s], median_s=round(median_theirs, 3), tok_s=round(a.tokens / median_theirs, 2),
                   cpu_s=round(min(r["cpu_s"] for r in theirs), 3), peak_rss_gb=round(max(r["peak_rss_gb"] for r in theirs), 2),
                   loss=round(theirs[-1]["loss"], 4)),
        speedup=round(median_theirs / median_ours, 3), load_before=round(load_before, 2), load_after=round(os.getloadavg()[0], 2))))


if __name__ == "__main__":
    main()
