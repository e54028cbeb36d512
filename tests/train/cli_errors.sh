#!/usr/bin/env bash
# Every mistake on the command line of `train` and `eval`: one line on stderr that names the place, exit code 2.
# Usage: cli_errors.sh LAPIDARY
set -u
lapidary=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
"$lapidary" make-model --shape tiny --layers 1 --out base >/dev/null 2>&1 || { echo "make-model failed"; exit 1; }
echo '{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}' >train.jsonl
echo '{"messages": [{"role": "user", "content": "a?"}]}' >masked.jsonl
: >empty.jsonl
cat >ok.json <<'JSON'
{"model_name_or_path": "base", "dataset": {"train": "train.jsonl"}, "output_dir": "out", "max_steps": 1,
 "lora": {"r": 2}, "max_length": 64}
JSON
failures=0

# expect NAME TEXT ARGUMENTS...: exit code 2, exactly one line of stderr that is not progress, holding TEXT.
expect() {
  local name=$1 text=$2
  shift 2
  "$lapidary" "$@" >stdout 2>stderr
  local code=$?
  local lines
  lines=$(grep -c '^error: ' stderr)
  if [ "$code" -ne 2 ] || [ "$lines" -ne 1 ] || ! grep -qF -- "$text" stderr || [ "$(tail -n1 stderr | cut -c1-7)" != "error: " ]; then
    echo "FAIL $name: exit code $code, stderr:"
    cat stderr
    failures=$((failures + 1))
  else
    echo "ok   $name: $(tail -n1 stderr)"
  fi
}

expect "no configuration" "a configuration must be given" train
expect "missing configuration" "none.json: cannot open" train none.json
expect "unknown key" "got 'learning_rat'; try 'learning_rate'" train ok.json --set learning_rat=1
expect "wrong type" "'max_steps' must be an integer" train ok.json --set max_steps=soon
expect "missing model" "nowhere: a model must be a folder" train ok.json --set model_name_or_path=nowhere
expect "missing data" "nowhere.jsonl: cannot open" train ok.json --set dataset.train=nowhere.jsonl
expect "empty data" "empty.jsonl: must have at least one record" train ok.json --set dataset.train=empty.jsonl
expect "all masked" "masked.jsonl:1: a sample must have tokens to train" train ok.json --set dataset.train=masked.jsonl
expect "too long" "max_length" train ok.json --set max_length=3
expect "pattern without a match" "matches none" train ok.json --set 'lora.target_modules=["nothing"]'
expect "blocks with lora" "'block_coordinate' must go without lora" train ok.json --set 'block_coordinate={}'
expect "blocks of too many layers" "layers_per_block: must be from 1 to the 1 layers" train ok.json --set lora=null \
  --set block_coordinate.layers_per_block=2
echo '{"prompt": "a?", "completion": " b", "label": false}' >labels.jsonl
expect "labels without a preference trainer" "labels.jsonl:1: an answer with a label needs a preference trainer" train ok.json \
  --set dataset.train=labels.jsonl
expect "labels for pairs" "must be a preference pair; got an answer with a label" train ok.json \
  --set dataset.train=labels.jsonl --set loss.type=dpo
rm -rf out
"$lapidary" train ok.json --quiet >stdout 2>stderr || { echo "FAIL a good run"; cat stderr; failures=$((failures + 1)); }
expect "second run" "must be without an earlier run" train ok.json
expect "eval without data" "one of --data, --text and --tokens must be given" eval --model base
expect "eval of a missing model" "a model must be a folder" eval --model nowhere --data train.jsonl
expect "eval of missing data" "nowhere.jsonl: cannot open" eval --model base --data nowhere.jsonl
echo '[[1, 99999999]]' >tokens.json
expect "eval of unknown ids" "ids must be integers from 0 to 2047" eval --model base --tokens tokens.json
expect "logits into a missing folder" "no/where.safetensors: cannot create" eval --model base --data train.jsonl --save-logits no/where.safetensors
expect "missing adapter" "adapter_config.json" eval --model base --data train.jsonl --adapter nowhere
[ "$failures" -eq 0 ]
