"""Conversations of several turns as Transformers continues them: the chat template over the history, which holds the model's
own answers, then greedy decoding in float32.
  make_conversation_golden.py CHECKPOINT TEMPLATE OUT.json [SEED]
CHECKPOINT is a small one with a tokenizer, TEMPLATE Google's chat template (golden/template). A turn is {"messages", "tools", "enable_thinking", "prompt" (ids),
"answer" (ids), "text" (what the history holds of it), "smallest_margin"}; questions are tried until no two best logits come
closer than 1e-3, so that the rounding of float32 decides nothing."""
import json
import random
import sys

import torch
from transformers import AutoTokenizer, GenerationConfig, Gemma4UnifiedForConditionalGeneration

checkpoint, template, out = sys.argv[1:4]
rng = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
tokenizer.chat_template = open(template).read()
model = Gemma4UnifiedForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
defaults = GenerationConfig.from_pretrained(checkpoint)
stops = defaults.eos_token_id if isinstance(defaults.eos_token_id, list) else [defaults.eos_token_id]
NEW, PENALTY = 20, 3.0  # without it a small random model says one token again and again
WORDS = "stone river amber which colour hardness does it have and why would anyone keep 17 of them in a box".split()
TOOLS = [{"type": "function", "function": {"name": "weigh", "description": "Weighs a stone.", "parameters": {
    "type": "object", "properties": {"stone": {"type": "string"}}, "required": ["stone"]}}}]


def question():
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(5, 11))) + "?"


def answer(messages, think, tools):
    prompt = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, enable_thinking=think,
                                           tokenize=True, return_dict=False)
    ids = torch.tensor([prompt])
    g = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, repetition_penalty=PENALTY,
                       eos_token_id=stops, suppress_tokens=defaults.suppress_tokens, pad_token_id=0,
                       output_scores=True, return_dict_in_generate=True)
    new = g.sequences[0, len(prompt):].tolist()
    margin = min((s[0].topk(2).values[0] - s[0].topk(2).values[1]).item() for s in g.scores)
    return prompt, new, margin


def turn(history, think, tools, ask):
    """The history grows by a question (`ask`: a function that makes one, or None) and the answer."""
    for _ in range(200):
        messages = history + ([ask()] if ask else [])
        prompt, new, margin = answer(messages, think, tools)
        text = tokenizer.decode(new, skip_special_tokens=True)
        if margin > 1e-3 and "\ufffd" not in text and text.strip() and "<|" not in text and "|>" not in text:
            return dict(messages=messages, tools=tools or [], enable_thinking=think, prompt=prompt, answer=new, text=text,
                        smallest_margin=margin)
    raise SystemExit("no question without near ties")


def user():
    return dict(role="user", content=question())


def plain(think):
    turns, history = [], [dict(role="system", content="Be brief.")]
    for i in range(3):
        turns.append(turn(history, think, None, user))
        said = dict(role="assistant", content=turns[-1]["text"])
        if think:
            said["reasoning_content"] = question()
        history = turns[-1]["messages"] + [said]
    return turns


def tool():
    """A call in the history, its result, an answer, and a second question."""
    def called():
        return dict(role="tool", tool_call_id="1", name="weigh", content=str(rng.randint(1, 9999)) + " grams")
    call = dict(role="assistant", content="", tool_calls=[dict(id="1", type="function", function=dict(
        name="weigh", arguments={"stone": "amber"}))])
    first = turn([user(), call], False, TOOLS, called)
    history = first["messages"] + [dict(role="assistant", content=first["text"])]
    return [first, turn(history, False, TOOLS, user)]


conversations = [dict(name="plain", turns=plain(False)), dict(name="thinking", turns=plain(True)), dict(name="tool", turns=tool())]
lines = []
for c in conversations:
    rows = ",\n   ".join(json.dumps(t, ensure_ascii=False) for t in c["turns"])
    lines.append(f' {{"name": "{c["name"]}", "turns": [\n   {rows}]}}')
open(out, "w").write("[\n" + ",\n".join(lines) + "\n]\n")
for c in conversations:
    print(c["name"], [(len(t["prompt"]), len(t["answer"]), round(t["smallest_margin"], 4)) for t in c["turns"]])
