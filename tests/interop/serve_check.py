"""Clients of `lapidary serve`: see serve.sh. Prints what it compares; fails where figures differ."""
import json
import math
import subprocess
import sys
from pathlib import Path

import openai

url, model, lapidary, out = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
client = openai.OpenAI(base_url=url, api_key="none", timeout=600)


def same(what, got, want, limit=1e-6):
    print(f"{what}: {got:.6f} and {want:.6f}")
    assert abs(got - want) <= limit * max(1, abs(want)), what


def check_openai():
    assert {m.id for m in client.models.list()} == {"base", "tuned"}
    chat = dict(model="base", messages=[{"role": "user", "content": "Hello"}], max_tokens=16, seed=3)
    reply = client.chat.completions.create(**chat)
    streamed = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**chat, stream=True))
    assert streamed == reply.choices[0].message.content, (streamed, reply)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
    for seed in range(5):
        reply = client.chat.completions.create(
            **{**chat, "seed": seed, "max_tokens": 200},
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
        if reply.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(reply.choices[0].message.content)["n"], int)
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}]
    with_tools = client.chat.completions.create(**chat, tools=tools)
    assert with_tools.usage.prompt_tokens > reply.usage.prompt_tokens - 200
    for change, error in [({"model": "none"}, openai.NotFoundError), ({"temperature": 1e9}, openai.BadRequestError)]:
        try:
            client.chat.completions.create(**{**chat, **change})
            raise AssertionError(change)
        except error as caught:
            print("refused:", caught.body["message"])


def score(prompts, name="base"):
    """Log-probabilities of every token but the first, prompt by prompt."""
    reply = client.completions.create(model=name, prompt=prompts, max_tokens=0, echo=True, logprobs=1)
    return [c.logprobs.token_logprobs[1:] for c in reply.choices]


def check_perplexity():
    lists = [[2] + [100 + (7 * i * j) % 130 for j in range(40)] for i in range(1, 4)]
    (out / "tokens.json").write_text(json.dumps(lists))
    text = subprocess.run([lapidary, "eval", "--model", model, "--tokens", str(out / "tokens.json"), "--json", "--quiet"],
                          check=True, capture_output=True, text=True).stdout
    scores = [p for row in score(lists) for p in row]
    same("loss by echo and by lapidary eval", -sum(scores) / len(scores), json.loads(text)["loss"])


def check_task():
    """Multiple choice under the chat template: lm-eval through the server, and `lapidary eval --task`. The sums that its API
    model gives are those of the option's tokens; acc_norm divides by characters."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    folder = out / "chat_task"
    folder.mkdir(exist_ok=True)
    words = "flint basalt amber opal quartz granite".split()
    rows = [{"q": f"Stone {i}, is it {words[i % 6]} or not?", "i": i % 3,
             "o": [words[i % 6], f"a {words[(i + 1) % 6]} of {i} grams", "I cannot say"]} for i in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "chatstones.yaml").write_text(f"""task: chatstones
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder.resolve()}/rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{o}}}}"
doc_to_target: "{{{{i}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
  - metric: acc_norm
""")
    (folder / "task.json").write_text(json.dumps(
        {"name": "chatstones", "kind": "choices", "prompt": "{q}", "options": "o", "answer_index": "i"}))
    theirs = simple_evaluate(
        model="local-completions", tasks=["chatstones"], task_manager=TaskManager(include_path=str(folder)),
        model_args=dict(model="base", base_url=url + "/completions", tokenizer=model, tokenizer_backend="huggingface",
                        tokenized_requests=True, num_concurrent=1, max_length=512),
        apply_chat_template=True, batch_size=4, log_samples=True, bootstrap_iters=0)
    text = subprocess.run([lapidary, "eval", "--model", model, "--task", str(folder / "task.json"), "--data",
                           str(folder / "rows.jsonl"), "--json", "--quiet"], check=True, capture_output=True, text=True).stdout
    ours = json.loads(text)
    furthest = 0.0
    samples = sorted(theirs["samples"]["chatstones"], key=lambda s: s["doc_id"])
    for sample, record in zip(samples, ours["records"]):
        got = [float(line.split()[1]) for line in record["got"].split("\n")]
        want = [float(r[0][0] if isinstance(r[0], (list, tuple)) else r[0]) for r in sample["resps"]]
        furthest = max(furthest, *(abs(a - b) / abs(b) for a, b in zip(got, want)))
    print(f"log-likelihoods of 72 options: within {furthest:.1e}")
    assert furthest < 1e-4
    for name in ("acc", "acc_norm"):
        same(f"{name} in lm-eval and in lapidary eval --task", ours["figures"][name]["value"],
             theirs["results"]["chatstones"][f"{name},none"])


def check_lm_eval():
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    folder = out / "task"
    folder.mkdir(exist_ok=True)
    rows = [{"q": f"The stone number {i} is", "choices": ["flint", "basalt", "a coral"], "answer": i % 3} for i in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "stones.yaml").write_text(f"""task: stones
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder.resolve()}/rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
""")
    result = simple_evaluate(
        model="local-completions", tasks=["stones"], task_manager=TaskManager(include_path=str(folder)),
        model_args=dict(model="base", base_url=url + "/completions", tokenizer=model, tokenizer_backend="huggingface",
                        tokenized_requests=True, num_concurrent=1, max_length=512),
        batch_size=4, log_samples=True, bootstrap_iters=0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    right = 0
    for row, sample in zip(rows, sorted(result["samples"]["stones"], key=lambda s: s["doc_id"])):
        sums = []
        for choice in row["choices"]:
            context = tokenizer(row["q"], add_special_tokens=False).input_ids
            whole = tokenizer(row["q"] + " " + choice, add_special_tokens=False).input_ids
            sums.append(sum(score([whole])[0][len(context) - 1:]))
        got = [float(r[0][0] if isinstance(r[0], (list, tuple)) else r[0]) for r in sample["resps"]]
        assert all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6) for a, b in zip(got, sums)), (got, sums)
        right += max(range(3), key=lambda i: sums[i]) == row["answer"]
    same("accuracy in lm-eval and by hand", result["results"]["stones"]["acc,none"], right / len(rows))


check_openai()
check_perplexity()
check_lm_eval()
check_task()
print("all equal")
