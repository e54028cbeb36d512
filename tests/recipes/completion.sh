#!/usr/bin/env bash
# The completion of bash, in bash: completion.sh PROGRAM. Each case: the words typed, then what must and what must not be offered.
set -euo pipefail
program=$1
eval "$("$program" completion bash)"
failed=0
offers() {  # WORDS... : what completes the last word
  COMP_WORDS=(lapidary "$@")
  COMP_CWORD=$#
  COMPREPLY=()
  _lapidary
  printf '%s ' "${COMPREPLY[@]:-}"
}
check() {  # WANTED UNWANTED WORDS...
  local wanted=$1 unwanted=$2 got
  shift 2
  got=" $(offers "$@")"
  for word in $wanted; do
    case "$got" in *" $word "*) ;; *) echo "lapidary $*: must offer $word; got$got" >&2; failed=1 ;; esac
  done
  for word in $unwanted; do
    case "$got" in *" $word "*) echo "lapidary $*: must not offer $word; got$got" >&2; failed=1 ;; esac
  done
}
check "train doctor data export completion" "inspected --set" ""
check "train" "doctor eval" tr
check "inspect stats check prepare" "train" data ""
check "--set --resume --print-config" "--model" train --
check "--html --held-out" "--fix" data stats --h
check "--held-out" "--html" data stats --hel
check "--fix --json" "--html" doctor mine --
check "" "--set" train my
# Every option that help names is offered.
for command in train eval export generate inspect doctor plan "data stats"; do
  # shellcheck disable=SC2086
  options=$("$program" $command --help | grep -oE '^  (-[a-z],)?--[a-z-]+' | grep -oE -- '--[a-z-]+' | sort -u)
  [ -n "$options" ] || { echo "$command --help: must name options; got none" >&2; failed=1; }
  # shellcheck disable=SC2086
  check "$options" "" $command --
done
for kind in zsh fish man; do
  text=$("$program" completion $kind)
  [[ $text == *held* && $text == *print*config* ]] || { echo "$kind: must name options; got none" >&2; failed=1; }
done
exit $failed
