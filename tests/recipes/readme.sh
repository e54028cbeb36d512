#!/usr/bin/env bash
# The README's walk from a folder of recordings to a model works as it is written: its commands, one after the other,
# on recordings that `make-data` synthesizes; and every recipe can be planned for the 12B.
# Usage: readme.sh LAPIDARY SOURCE_DIR
set -euo pipefail
lapidary=$1
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
ln -s "$source/recipes" recipes
mkdir build
ln -s "$lapidary" build/lapidary

build/lapidary make-data --out drawn --size 40 --held-out 8 >made.txt 2>&1
mkdir recordings
cp drawn/audio/*.wav recordings
{
  echo file_name,transcription
  sed -n 's/.*"audio":"audio\/\([^"]*\)".*"answer":"\([^"]*\)".*/\1,\2/p' drawn/catalog.train.jsonl
} >recordings/metadata.csv

sed -n '/^## From recordings to a model/,/^## Your own/s/^    \(build\/lapidary .*\)/\1/p' "$source/README.md" >commands.txt
[ "$(wc -l <commands.txt)" -ge 6 ] || { echo "README.md: must have the walk; got $(wc -l <commands.txt) commands"; exit 1; }
while read -r command; do
  echo "$ $command"
  bash -c "$command" >output.txt 2>&1 || { tail -20 output.txt; exit 1; }
  case $command in
    *"--model mine.gguf --task"*) shipped=$(sed -n 's/^all .*wer_normalized *\([0-9.]*\) .*/\1/p' output.txt) ;;
  esac
done <commands.txt
for made in out/model.safetensors out/report.html mine.gguf mine/config.json; do
  [ -s "$made" ] || { echo "must be made: $made"; exit 1; }
done
# A model that hears nothing is wrong nine times in ten.
awk -v wer="${shipped:-1}" 'BEGIN { exit !(wer < 0.2) }' || { echo "the shipped file must hear; got a word error rate of ${shipped:-none}"; exit 1; }
echo "word error rate of the shipped file: $shipped"

# Recipes for the 12B fit a machine of 16 GB; the others are for tiny models.
for recipe in recipes/configs/*.json; do
  case $(basename "$recipe" .json) in *tiny | quickstart_*) continue ;; esac
  build/lapidary plan "$recipe" --shape 12b --set memory_limit=16GB --no-speed >plan.txt 2>&1 ||
    { echo "$recipe must fit 16 GB:"; cat plan.txt; exit 1; }
  echo "$(basename "$recipe"): $(sed -n 's/^total *//p' plan.txt)"
done
