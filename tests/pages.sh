#!/usr/bin/env bash
# Every page that the program writes, in a real browser without a window: pages.sh [PROGRAM]. Installs Chromium where there is
# none. A page passes if it renders, asks nothing of the network or other files, and is no wider than a phone (390 px) although
# parts of it may scroll by themselves. A planted page that is too wide and one that loads a picture must fail.
set -euo pipefail
program=$(realpath "${1:-build/lapidary}")
if ! command -v chromium >/dev/null; then
  run=()
  [ "$(id -u)" -eq 0 ] || run=(sudo)
  "${run[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

# browse ADDRESS SCHEME: the page as the browser has it in the end. It finds this machine and no other.
browse() {
  chromium --headless --no-sandbox --disable-gpu --allow-file-access-from-files --user-data-dir="$work/profile" \
    --host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1' --virtual-time-budget=5000 \
    --blink-settings=preferredColorScheme="$2" --dump-dom "$1" 2>browser.log
}

# check NAME PAGE SCHEME: prints what the browser measured, fails if the page does.
check() {
  local name=$1 page=$2 scheme=$3 dom
  cat >frame.html <<END
<!DOCTYPE html><html><body style="margin:0"><iframe id="f" src="$page" style="border:0;width:390px;height:844px"></iframe>
<pre id="result">none</pre><script>
document.getElementById('f').onload = function () {
  var d = this.contentDocument, w = this.contentWindow;
  var asked = w.performance.getEntriesByType('resource').map(e => e.name);
  for (const e of d.querySelectorAll('[src],link[href],object[data],image,use,[srcset]'))
    for (const a of ['src', 'href', 'data', 'srcset', 'xlink:href']) if (e.hasAttribute(a)) asked.push(e.getAttribute(a));
  for (const s of d.querySelectorAll('style,[style]'))
    asked.push(...((s.getAttribute('style') || '') + s.textContent).match(/url\\([^)]*|@import[^;]*/g) || []);
  asked = asked.filter(n => !/^(url\\(["']?)?(data:|#)/.test(n));
  document.getElementById('result').textContent = 'width=' + d.documentElement.scrollWidth + ' text=' + d.body.innerText.length +
      ' headings=' + d.querySelectorAll('h1,h2').length + ' drawn=' +
      Array.from(d.querySelectorAll('svg')).filter(s => s.getBoundingClientRect().width > 50).length +
      ' ink=' + w.getComputedStyle(d.body).color.replace(/ /g, '') + ' asked=' + asked.length + ' ' + asked.join(' ');
};</script></body></html>
END
  dom=$(browse "file://$work/frame.html" "$scheme")
  result=$(sed -n 's/.*<pre id="result">\(.*\)<\/pre>.*/\1/p' <<<"$dom")
  echo "$name: $result"
  local width text asked
  width=$(grep -oE 'width=[0-9]+' <<<"$result" | cut -d= -f2)
  text=$(grep -oE 'text=[0-9]+' <<<"$result" | cut -d= -f2)
  asked=$(grep -oE 'asked=[0-9]+' <<<"$result" | cut -d= -f2)
  [ -n "$width" ] && [ "$width" -le 390 ] && [ "$text" -ge 100 ] && [ "$asked" -eq 0 ]
}

"$program" make-model --shape tiny --layers 2 --out base >/dev/null
"$program" make-data --out data --size 40 --held-out 8 --image-pixels 48 --audio-samples 5120 --video-frames 4 >/dev/null
cat >run.json <<END
{"model_name_or_path": "base", "dataset": {"train": "data/pretrain.train.jsonl", "eval": "data/pretrain.train.jsonl"},
 "output_dir": "a-run-whose-name-is-rather-long-because-people-do-that-in-earnest", "lora": {"r": 2}, "max_steps": 4,
 "report_samples": 2, "max_length": 512}
END
"$program" train run.json --quiet >/dev/null
"$program" data stats data/pretrain.train.jsonl --model base --html stats.html >/dev/null
"$program" data inspect data/pretrain.train.jsonl --model base --html samples.html >/dev/null
"$program" eval --compare base base --data data/pretrain.train.jsonl --limit 4 --html compared.html --quiet >/dev/null
for i in $(seq 12); do
  echo "{\"question\": \"Which stone is number $i, and why $(printf 'reallyreally%.0s' $(seq 30))?\", \"choices\": [\"amber\", \"basalt\"], \"answer\": $((i % 2)), \"subject\": \"a-subject-$((i % 3))\"}"
done >quiz.jsonl
"$program" eval --model base --task multiple_choice --data quiz.jsonl --html quiz.html --quiet >/dev/null
"$program" eval --model base --data data/pretrain.train.jsonl --score wer --score rougeL --no-loss --max-new-tokens 4 --limit 6 \
  --html scored.html --quiet >/dev/null
run=a-run-whose-name-is-rather-long-because-people-do-that-in-earnest
# What `watch --serve` shows, taken from it by the browser.
for port in 18233 28233 38233 48233; do
  "$program" watch $run --serve $port >served 2>served.err &
  server=$!
  for _ in $(seq 100); do
    grep -qs http served && break 2
    kill -0 $server 2>/dev/null || break
    sleep 0.1
  done
done
browse "http://127.0.0.1:$port/" 0 >watched.html
kill $server
failed=0
for page in $run/report.html stats.html samples.html compared.html quiz.html scored.html watched.html; do
  check "$page" "$page" 0 || { echo "FAILED: $page" >&2; failed=1; }
done
light=$(check "report, light" $run/report.html 1 | grep -o 'ink=[^ ]*')
dark=$(check "report, dark" $run/report.html 0 | grep -o 'ink=[^ ]*')
[ "$light" != "$dark" ] || { echo "FAILED: report.html must follow the reader's dark mode; got $light in both" >&2; failed=1; }

{ cat stats.html; echo '<div style="width:900px">wide</div>'; } >wide.html
check "planted: too wide" wide.html 0 && { echo "FAILED: a page that is too wide must not pass" >&2; failed=1; }
{ cat stats.html; echo '<img src="picture.png">'; } >asks.html
check "planted: asks for a file" asks.html 0 && { echo "FAILED: a page that loads a file must not pass" >&2; failed=1; }
exit $failed
