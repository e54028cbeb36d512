"""Compares the event files of a run with its metrics.jsonl: tensorboard_check.py RUN. Exit code 1 if they differ."""
import collections
import glob
import json
import struct
import sys

from tensorboard.backend.event_processing import event_accumulator, event_file_loader

run = sys.argv[1]
lines = [json.loads(line) for line in open(run + "/metrics.jsonl")]
files = sorted(glob.glob(run + "/runs/*/events.out.tfevents.*"))
seen = collections.Counter()
for path in files:
    for event in event_file_loader.EventFileLoader(path).Load():
        for value in event.summary.value:
            seen[value.tag, event.step] += 1
twice = {key: n for key, n in seen.items() if n != 1}

folder = files[0].rsplit("/", 1)[0]
events = event_accumulator.EventAccumulator(folder, size_guidance={event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0})
events.Reload()
wrong, checked = [], 0
single = lambda x: struct.unpack("f", struct.pack("f", x))[0]
for key in ("loss", "learning_rate", "grad_norm", "num_tokens"):
    want = {line["step"]: single(line[key]) for line in lines if key in line}
    if "train/" + key in events.Tags()["scalars"]:
        got = {e.step: e.value for e in events.Scalars("train/" + key)}
    else:
        got = {e.step: e.tensor_proto.float_val[0] for e in events.Tensors("train/" + key)}
    counts = collections.Counter(e.step for e in (events.Scalars("train/" + key) if "train/" + key in events.Tags()["scalars"]
                                                  else events.Tensors("train/" + key)))
    if any(n != 1 for n in counts.values()):
        wrong.append((key, "steps more than once", counts))
    checked += len(want)
    if got != want:
        wrong.append((key, want, got))
print(f"{len(files)} files, {len(seen)} values, {checked} compared with metrics.jsonl; in two files, which tensorboard counts once: {len(twice)}; wrong: {len(wrong)}")
for item in wrong:
    print(item)
sys.exit(bool(wrong or len(files) != 2 or not checked))
