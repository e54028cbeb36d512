#!/usr/bin/env bash
# `lapidary watch --serve`: the page of a run, for this machine alone: watch_serve.sh PROGRAM
set -euo pipefail
program=$1
work=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/run"
echo '{"step":1,"epoch":0.5,"loss":2.5,"seconds":1,"tokens_per_s":10}' >"$work/run/metrics.jsonl"
echo '{"max_steps": 4}' >"$work/run/training_config.json"
for port in 18231 28231 38231 48231; do
  "$program" watch "$work/run" --serve $port >"$work/out" 2>"$work/err" &
  server=$!
  for _ in $(seq 100); do
    grep -qs http "$work/out" && break 2
    kill -0 $server 2>/dev/null || break
    sleep 0.1
  done
done
ask() {  # HOST PATH
  exec 3<>/dev/tcp/127.0.0.1/$port
  printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$2" "$1" >&3
  cat <&3
}
fail() { echo "$1" >&2; exit 1; }
page=$(ask 127.0.0.1:$port /)
[[ $page == *"200 OK"* && $page == *"step 1 of 4"* && $page == *"<svg"* ]] || fail "the page must show the run; got $page"
[[ $page != *"<script"* && $page != *"https://"* ]] || fail "the page must need nothing else"
[[ $(ask elsewhere.example:$port /) == *" 403 "* ]] || fail "a request for another host must be refused"
[[ $(ask 127.0.0.1:$port /../etc/passwd) != *"200 OK"* ]] || fail "there must be no other page"
rm "$work/run/metrics.jsonl"
[[ $(ask localhost:$port /) == *" 500 "*"must exist"* ]] || fail "a run that went must be said"
if "$program" watch "$work" --serve $port >/dev/null 2>"$work/err2"; then fail "no run: must be an error"; fi
kill -TERM $server
wait $server || fail "it must end well"
