#!/usr/bin/env python3
"""Golden renderings of the Gemma 4 chat template, made with Transformers' own `apply_chat_template`.

  make_template_golden.py --template T.jinja --tokenizer small-tokenizer.json \
      [--big-tokenizer gemma4-tokenizer.json.xz] --inputs inputs.json --out cases.json

Every case stores the messages, the tools, the flags and either `rendered` or `error`.

Role spans.  `spans` lists [start, end, class, trained] in UTF-8 bytes of `rendered`, without gaps.
They come from an instrumented copy of the template: each place that emits text also emits a
private-use mark with the class of that text.  Removing the marks must give `rendered` again
(asserted for each case).

  class                emitted by                                                      trained
  bos                  bos_token                                                       no
  header               `<|turn>ROLE\\n`                                                 no
  system               `<|think|>\\n` and the system text of the first turn             no
  tool_decl            `<|tool>`...`<tool|>`                                           no
  content              text of a message; in a model turn                              yes
  thought              `<|channel>thought\\n`...`\\n<channel|>`, in a model turn         yes
  tool_call            `<|tool_call>`...`<tool_call|>`, in a model turn                yes
  tool_response_open   the first `<|tool_response>` after the calls of a message (answered
                       or not): generation has to produce it to stop (id 50 stops)     yes
  tool_response        the rest of every response through `<tool_response|>`           no
  media                `<|image|>`, `<|audio|>`, `<|video|>`                           no
  turn_end             `<turn|>`; in a model turn                                      yes
  newline              the line feed after `<turn|>`                                   no
  generation_prompt    everything that add_generation_prompt appends                   no

So "trained" is the text that the model must produce itself in model turns.

Check by prefixes, independent of the marks: for every assistant message i, let P be the rendering
of messages[:i] with add_generation_prompt (without the pre-filled empty thought) and Q that of
messages[:i+1].  Where both are prefixes of the full rendering, the bytes from len(P) to len(Q)
must be trained except media, the last line feed and responses stored in the message itself.  When this holds for all assistant messages
of a case, all other bytes must be untrained (`prefix_check`: "full"); else "partial" or "none"
(later messages changed how earlier ones are rendered, e.g. dropped thoughts, tool responses).

`ids` and `mask` are the tokens of `rendered` and one 0/1 per token; no token crosses the border
of a trained region (asserted).
"""
import argparse
import copy
import hashlib
import json
import lzma
import os
import random
import tempfile

CLASSES = ["bos", "header", "system", "tool_decl", "content", "thought", "tool_call",
           "tool_response_open", "tool_response", "media", "turn_end", "newline",
           "generation_prompt", "header_model"]
MARK = {c: chr(0xF0000 + k) for k, c in enumerate(CLASSES)}
TRAINED = {"content", "thought", "tool_call", "tool_response_open", "turn_end"}
THOUGHT_OFF = "<|channel>thought\n<channel|>"


def instrument(t):
    """The template with class marks at every place that emits text."""
    m = MARK

    def sub(old, new, count=1):
        nonlocal t
        assert t.count(old) == count, (old, t.count(old))
        t = t.replace(old, new)

    end = "'%s<turn|>%s\\n'" % (m["turn_end"], m["newline"])
    sub("{{- bos_token -}}", "{{- '%s' + bos_token -}}" % m["bos"])
    sub("{{- '<|turn>system\\n' -}}", "{{- '%s<|turn>system\\n%s' -}}" % (m["header"], m["system"]))
    sub("{{- '<turn|>\\n' -}}", "{{- %s -}}" % end, 2)
    sub("{{- '<|tool>' -}}", "{{- '%s<|tool>' -}}" % m["tool_decl"])
    sub("{{- '<|turn>' + role + '\\n' }}",
        "{{- ('%s' if role == 'model' else '%s') + '<|turn>' + role + '\\n' }}"
        % (m["header_model"], m["header"]))
    sub("{{- '<|channel>thought\\n' + thinking_text",
        "{{- '%s<|channel>thought\\n' + thinking_text" % m["thought"])
    sub("{{- '<|tool_call>call:' +", "{{- '%s<|tool_call>call:' +" % m["tool_call"])
    # the macro of one response, then the bare opener of an unanswered call
    sub("{{- '<|tool_response>' -}}\n    {%- if response is mapping -%}",
        "{{- '%s<|tool_response>' -}}\n    {%%- if response is mapping -%%}" % m["tool_response"])
    sub("{{- '<|tool_response>' -}}\n        {%- elif",
        "{{- '%s<|tool_response>' -}}\n        {%%- elif" % m["tool_response_open"])
    for kind in ("image", "audio", "video"):
        sub("{{- '<|%s|>' -}}" % kind, "{{- '%s<|%s|>%s' -}}" % (m["media"], kind, m["content"]), 2)
    sub("{{- captured_content -}}", "{{- '%s' + captured_content -}}" % m["content"])
    sub("        {{- '<|turn>model\\n' -}}", "        {{- '%s<|turn>model\\n' -}}" % m["generation_prompt"])
    sub("{{- '<|channel>thought\\n' -}}",
        "{{- '%s<|channel>thought\\n' -}}" % m["generation_prompt"])
    return t


def to_spans(marked):
    """[start byte, end byte, class, trained] of the text without marks."""
    back = {v: k for k, v in MARK.items()}
    runs, model = [], False
    for ch in marked:
        if ch in back:
            cls = back[ch]
            if cls in ("header", "header_model", "generation_prompt"):
                model = cls == "header_model"
            runs.append([cls, model, ""])
        else:
            runs[-1][2] += ch
    spans, pos = [], 0
    previous = None
    for cls, model, text in runs:
        if not text:
            continue
        parts = [(cls, text)]
        opener = "<|tool_response>"
        if cls == "tool_response" and previous == "tool_call":
            parts = [("tool_response_open", opener), (cls, text[len(opener):])]
        for c, s in parts:
            c = "header" if c == "header_model" else c
            n = len(s.encode())
            trained = int(model and c in TRAINED)
            if spans and spans[-1][2] == c and spans[-1][3] == trained:
                spans[-1][1] += n
            else:
                spans.append([pos, pos + n, c, trained])
            pos += n
        previous = cls
    return spans


class Renderer:
    def __init__(self, template, tokenizer):
        self.template, self.marked = template, instrument(template)
        self.tokenizer = tokenizer

    def __call__(self, case, messages=None, generation=None, marked=False):
        flags = dict(case["flags"])
        if generation is not None:
            flags["add_generation_prompt"] = generation
        return self.tokenizer.apply_chat_template(
            copy.deepcopy(case["messages"] if messages is None else messages),
            tools=copy.deepcopy(case.get("tools")), tokenize=False,
            chat_template=self.marked if marked else self.template, **flags)


def prefix_check(render, case, text, spans):
    """Verdict of the prefix rule described above; raises when it contradicts the spans."""
    raw = text.encode()
    trained = bytearray(len(raw))
    free = bytearray(len(raw))  # not trained, although part of an assistant message
    for a, b, cls, t in spans:
        trained[a:b] = bytes([t]) * (b - a)
        if cls in ("media", "newline", "tool_response"):
            free[a:b] = b"\1" * (b - a)
    covered = bytearray(len(raw))
    done, total = 0, 0
    msgs = case["messages"]
    for i, msg in enumerate(msgs):
        if msg.get("role") not in ("assistant", "model"):
            continue
        total += 1
        if i == 0:
            continue
        try:
            p = render(case, msgs[:i], True)
            q = render(case, msgs[:i + 1], False)
        except Exception:
            continue
        if p.endswith(THOUGHT_OFF) and not case["flags"].get("enable_thinking"):
            p = p[:-len(THOUGHT_OFF)]
        if p.endswith("<|channel>thought\n") and case["flags"].get("enable_thinking"):
            p = p[:-len("<|channel>thought\n")]
        p, q = p.encode(), q.encode()
        if not (q.startswith(p) and raw.startswith(q)):
            continue
        done += 1
        a = len(p)
        if not p.endswith(b"<|turn>model\n"):  # no generation prompt: the message may bring a header
            a = next((y for x, y, cls, _ in spans if x == a and cls == "header"), a)
        if not msg.get("tool_responses"):
            assert not any(cls == "tool_response" and a <= x < len(q) for x, _, cls, _ in spans)
        assert all(trained[k] or free[k] for k in range(a, len(q))), (case["name"], i)
        covered[a:len(q)] = b"\1" * (len(q) - a)
    if done == total and total:
        assert all(covered[k] or not trained[k] for k in range(len(raw))), case["name"]
        return "full"
    return "partial" if done else "none"


def token_mask(tok, text, spans):
    enc = tok.encode(text, add_special_tokens=False)
    starts = [0]
    for ch in text:
        starts.append(starts[-1] + len(ch.encode()))
    trained = bytearray(starts[-1])
    for a, b, _, t in spans:
        trained[a:b] = bytes([t]) * (b - a)
    bits = []
    for a, b in enc.offsets:
        piece = trained[starts[a]:starts[b]]
        assert piece and len(set(piece)) == 1, (text[a:b], text)
        bits.append(str(piece[0]))
    return {"ids": enc.ids, "mask": "".join(bits)}


# --------------------------------------------------------------- random cases

def random_case(rng, words, k):
    """A conversation of the ordinary kinds (text, tools, thoughts, media), drawn from `rng`."""
    def text(n=6):
        s = " ".join(rng.choice(words) for _ in range(rng.randint(1, n)))
        return rng.choice(["", "", "", " ", "\n", "  \n"]) + s + rng.choice(["", "", ".", "?", " ", "\n"])

    def value(depth=0):
        kind = rng.randint(0, 8 if depth < 2 else 5)
        if kind == 0:
            return None
        if kind == 1:
            return rng.choice([True, False])
        if kind == 2:
            return rng.choice([0, -7, 12345678901234567890, rng.randint(-999, 999)])
        if kind == 3:
            return rng.choice([0.5, -2.0, 1e-07, 1e16, 3.25e+20, round(rng.uniform(-9, 9), 3)])
        if kind in (4, 5):
            return text(3)
        if kind == 6:
            return [value(depth + 1) for _ in range(rng.randint(0, 3))]
        return {rng.choice(words): value(depth + 1) for _ in range(rng.randint(0, 3))}

    def schema(depth=0):
        kind = rng.choice(["string", "integer", "number", "boolean", "array", "object"])
        s = {"type": kind}
        if rng.random() < 0.6:
            s["description"] = text(4)
        if kind == "string" and rng.random() < 0.4:
            s["enum"] = [rng.choice(words) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.2:
            s["nullable"] = True
        if kind == "array" and rng.random() < 0.8:
            s["items"] = schema(depth + 1) if depth < 2 else {"type": "string"}
        if kind == "object" and depth < 2 and rng.random() < 0.8:
            s["properties"] = {rng.choice(words): schema(depth + 1) for _ in range(rng.randint(1, 3))}
            if rng.random() < 0.5:
                s["required"] = list(s["properties"])[:1]
        return s

    def content(media):
        if not media or rng.random() < 0.5:
            return text()
        parts = [{"type": "text", "text": text()} for _ in range(rng.randint(1, 2))]
        for _ in range(rng.randint(1, 2)):
            parts.insert(rng.randint(0, len(parts)),
                         {"type": rng.choice(["image", "audio", "video", "image_url", "input_audio"])})
        return parts

    names = rng.sample(words, 3)
    tools = None
    if rng.random() < 0.5:
        tools = []
        for n in names[:rng.randint(1, 3)]:
            f = {"name": n, "description": text()}
            if rng.random() < 0.8:
                props = {rng.choice(words): schema() for _ in range(rng.randint(1, 4))}
                f["parameters"] = {"type": "object", "properties": props}
                if rng.random() < 0.6:
                    f["parameters"]["required"] = rng.sample(list(props), rng.randint(1, len(props)))
            if rng.random() < 0.2:
                f["response"] = {"description": text(3), "type": "object"}
            tools.append({"type": "function", "function": f})
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": rng.choice(["system", "developer"]), "content": text()})
    call = 0
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": content(True)})
        for _ in range(rng.choice([0, 0, 1, 2]) if tools else 0):
            msg = {"role": "assistant", "content": rng.choice([None, "", text()]), "tool_calls": []}
            if rng.random() < 0.5:
                msg[rng.choice(["reasoning", "reasoning_content", "thinking"])] = text(9)
            answers = []
            for _ in range(rng.randint(1, 3)):
                call += 1
                msg["tool_calls"].append({"id": f"c{call}", "type": "function", "function": {
                    "name": rng.choice(names), "arguments": {rng.choice(words): value() for _ in range(rng.randint(0, 3))}}})
                answers.append({"role": "tool", "tool_call_id": f"c{call}", "content": text()})
            messages += [msg] + answers
        msg = {"role": "assistant", "content": text(12)}
        if rng.random() < 0.4:
            msg[rng.choice(["reasoning", "reasoning_content"])] = text(9)
        if rng.random() < 0.15:
            msg["content"] = "<|channel>thought\n" + text() + "\n<channel|>" + msg["content"]
        messages.append(msg)
    if rng.random() < 0.35:
        messages.pop()
    flags = {"add_generation_prompt": rng.random() < 0.4}
    if rng.random() < 0.5:
        flags["enable_thinking"] = rng.random() < 0.7
    if rng.random() < 0.3:
        flags["preserve_thinking"] = True
    return {"name": f"random-{k}", "messages": messages, "tools": tools, "flags": flags}


def load_tokenizer(path, tmp):
    """A Transformers tokenizer without files from the hub."""
    from transformers import PreTrainedTokenizerFast
    opener = lzma.open if path.endswith(".xz") else open
    plain = os.path.join(tmp, "tokenizer.json")
    with opener(path, "rt", encoding="utf-8") as f, open(plain, "w", encoding="utf-8") as g:
        g.write(f.read())
    return PreTrainedTokenizerFast(tokenizer_file=plain, bos_token="<bos>", eos_token="<eos>",
                                   pad_token="<pad>", unk_token="<unk>")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--template", required=True)
    ap.add_argument("--tokenizer", required=True, help="small-tokenizer.json")
    ap.add_argument("--big-tokenizer", help="gemma4-tokenizer.json.xz; adds ids_gemma4")
    ap.add_argument("--inputs", required=True, help="JSON: seed, random_cases, words, cases")
    ap.add_argument("--out", required=True)
    args = ap.parse_args()
    import jinja2
    import transformers
    with open(args.template, encoding="utf-8") as f:
        template = f.read()
    with open(args.inputs, encoding="utf-8") as f:
        inputs = json.load(f)
    rng = random.Random(inputs["seed"])
    cases = inputs["cases"] + [random_case(rng, inputs["words"], k) for k in range(inputs["random_cases"])]
    with tempfile.TemporaryDirectory() as tmp:
        tok = load_tokenizer(args.tokenizer, tmp)
        big = load_tokenizer(args.big_tokenizer, tmp)._tokenizer if args.big_tokenizer else None
    render = Renderer(template, tok)
    out, verdicts, errors = [], {}, 0
    for case in cases:
        c = {"name": case["name"], "messages": case["messages"], "tools": case.get("tools"),
             "flags": case["flags"]}
        try:
            text = render(case)
        except Exception as e:
            c["error_type"], c["error"] = type(e).__name__, str(e)
            errors += 1
            out.append(c)
            continue
        marked = render(case, marked=True)
        assert not any(ch in text for ch in MARK.values())
        assert "".join(ch for ch in marked if ch not in MARK.values()) == text, case["name"]
        c["rendered"] = text
        c["spans"] = to_spans(marked)
        assert c["spans"][-1][1] == len(text.encode())
        c["prefix_check"] = prefix_check(render, case, text, c["spans"])
        verdicts[c["prefix_check"]] = verdicts.get(c["prefix_check"], 0) + 1
        c["small"] = token_mask(tok._tokenizer, text, c["spans"])
        if big:
            c["gemma4"] = token_mask(big, text, c["spans"])
        out.append(c)
    head = {"made_with": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
            "template_sha256": hashlib.sha256(template.encode()).hexdigest()}
    with open(args.out, "w") as f:
        f.write(json.dumps({**head, "cases": []}, ensure_ascii=True)[:-2] + "\n")
        f.write(",\n".join(json.dumps(c, ensure_ascii=True) for c in out) + "\n]}\n")
    print(f"{len(out)} cases, {errors} errors, prefix check {verdicts}")


if __name__ == "__main__":
    main()
