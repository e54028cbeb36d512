#!/usr/bin/env bash
# Event files of a run that is killed between checkpoints and goes on, read by the real tensorboard: tensorboard.sh PROGRAM WORKING_FOLDER
set -euo pipefail
program=$(realpath "$1") work=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
[ -x "$work/venv/bin/python" ] || { python3 -m venv "$work/venv" && "$work/venv/bin/pip" install -q tensorboard; }
cd "$work"
rm -rf base data run
"$program" make-model --shape tiny --layers 2 --out base >/dev/null
"$program" make-data --out data --size 24 --held-out 8 >/dev/null
cat >run.json <<END
{"model_name_or_path": "base", "dataset": {"train": "data/pretrain.train.jsonl"}, "output_dir": "run", "lora": {"r": 2},
 "max_steps": 12, "save_steps": 3, "report_to": ["tensorboard"], "report_samples": 0, "max_length": 512}
END
"$program" train run.json --quiet >/dev/null &
child=$!
until [ "$(wc -l <run/metrics.jsonl 2>/dev/null || echo 0)" -ge 5 ]; do sleep 0.02; done
kill -KILL $child
wait $child || true
echo "killed after $(wc -l <run/metrics.jsonl) steps"
"$program" train run.json --resume --quiet >/dev/null
"$work/venv/bin/python" "$here/tensorboard_check.py" run
