#!/usr/bin/env python3
"""Makes golden/eval/scorers.json: what the usual packages say of answers and references.

    make_scorer_golden.py --out ../golden       needs sacrebleu, jiwer, rouge-score, rapidfuzz, lm_eval (its task files only)

SQuAD's and ChartQA's rules are short and stand here as their authors published them; ANLS as in the DocVQA evaluation.
"""
import argparse
import importlib.util
import json
import os
import random
import re
import string
import sys
import types
from collections import Counter

import jiwer
import sacrebleu
from rapidfuzz.distance import Levenshtein
from rouge_score import rouge_scorer

HERE = os.path.dirname(os.path.abspath(__file__))


def lm_eval_module(path):
    root = os.path.dirname(importlib.util.find_spec("lm_eval").origin)
    spec = importlib.util.spec_from_file_location("m_" + path.replace("/", "_"), os.path.join(root, "tasks", path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# minerva_math imports its computer algebra at once; only its text rules are used here.
for name in ("antlr4", "math_verify", "sympy.parsing.latex"):
    if name not in sys.modules:
        fake = types.ModuleType(name)
        fake.parse = fake.verify = fake.parse_latex = None
        sys.modules[name] = fake
import importlib.metadata as _metadata

_real = _metadata.version
_metadata.version = lambda name: "4.11" if name.startswith("antlr4") else _real(name)
aime = lm_eval_module("aime/utils.py")
minerva = lm_eval_module("minerva_math/utils.py")


def squad_tokens(s):
    s = s.lower()
    s = "".join(c for c in s if c not in set(string.punctuation))
    s = re.sub(r"\b(a|an|the)\b", " ", s, flags=re.UNICODE)
    return s.split()


def squad_f1(got, want):
    a, b = squad_tokens(got), squad_tokens(want)
    same = sum((Counter(a) & Counter(b)).values())
    if not a or not b:
        return float(a == b)
    if same == 0:
        return 0.0
    p, r = same / len(a), same / len(b)
    return 2 * p * r / (p + r)


def anls(got, want):
    a, b = (" ".join(x.strip().lower().split()) for x in (want, got))
    length = max(len(want.upper()), len(got.upper()))
    score = 1 - (Levenshtein.distance(a, b) / length if length else 0.0)
    return 0.0 if score < 0.5 else score


def relaxed(got, want):
    def to_float(text):
        try:
            return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
        except ValueError:
            return None
    got, want = got.strip(), want.strip()
    a, b = to_float(got), to_float(want)
    if a is not None and b:
        return float(abs(a - b) / abs(b) <= 0.05)
    return float(got.lower() == want.lower())


def math_equal(got, want):
    return float(aime.process_results({"answer": want}, [got])["exact_match"])


def math_minerva(got, want):
    answer = minerva.normalize_final_answer(minerva.get_unnormalized_answer(got))
    boxed = minerva.last_boxed_only_string(want)
    return float(bool(answer) and answer == minerva.normalize_final_answer(minerva.remove_boxed(boxed) if boxed else want))


PAIRS = [
    ("The cat sat on the mat.", ["the cat sat on a mat", "A cat was sitting on the mat."]),
    ("", ["nothing"]), ("nothing", ["nothing"]), ("Nothing!", [" nothing "]), ("a the an", ["the"]),
    ("It's 3.5% of 1,000,000 - not 4-5!", ["It is 3.5 % of 1,000,000 -- not 4-5."]),
    ("&quot;Hello&quot; &amp; &lt;bye&gt; ...ok", ['"Hello" & <bye> ...ok']),
    ("end-\nof line\nand more", ["endof line and more"]),
    ("Straße und Größe, naïve café", ["strasse und GRÖSSE, naive cafe", "STRASSE UND GRÖSSE, NAÏVE CAFÉ"]),
    ("今天天气很好，我们去公园吧。GPT-4 says 3.14", ["今天天氣很好，我們去公園吧！ GPT-4 says 3.14"]),
    ("これはテストです。ありがとう", ["これは試験です。ありがとうございます"]),
    ("Кошка спит на крыше", ["Собака спит на крыше", "Кошка сидит на крыше"]),
    ("one two three four five six", ["one two four three five six seven"]),
    ("one  two\tthree\n four", ["one two three four"]),
    ("the the the the", ["the cat is on the mat"]), ("ok", ["ok", "okay"]), ("..", ["."]), ("x" * 40, ["x" * 39 + "y"]),
    ("Don't stop, it's fine", ["don’t stop it's FINE"]),
    ("12.5", ["12"]), ("12.7", ["12"]), ("11.4", ["12"]), ("52%", ["0.5"]), ("0.5", ["50%"]), ("-3", ["3"]), ("0", ["0"]), ("0.0", ["0"]),
    ("1e3", ["1000"]), ("1_000", ["1000"]), ("inf", ["5"]), ("nan", ["nan"]), ("five", ["Five"]), ("5 dollars", ["5"]), (" 7 ", ["7.2"]),
    ("2019", ["2020"]), ("0x10", ["16"]), (".5", ["0.5"]), ("+5", ["5"]), ("5%%", ["5%"]),
    ("ünïcödé test", ["unicode test"]), ("\u212a is kelvin", ["k is kelvin"]), ("word\u00a0word", ["word word"]), ("a\u2028b", ["a b"]),
    ("emoji 😀 here", ["emoji 😀😀 here"]), ("end .", ["end."]), ("(hi) [there] {you} ~x~ `y` a/b c@d", ["( hi ) there you"]),
    ("1.2.3 a.b, c,d ,. 5, 6.", ["1.2.3 a. b , c, d 5 , 6 ."]),
]
MATH = [
    ("so the answer is $\\boxed{\\frac{1}{2}}$.", "0.5"), ("$1/2$", "\\frac12"), ("\\boxed{3}", "3"), ("\\boxed{03}", "3"), ("k = 7", "7"),
    ("We get \\boxed{x=5}", "5"), ("\\boxed{\\dfrac{2}{3}}", "\\frac23"), ("\\boxed{\\tfrac 23}", "\\frac{2}{3}"), ("\\boxed{\\sqrt3}", "\\sqrt{3}"),
    ("\\boxed{\\sqrt{3}}", "\\sqrt 3"), ("\\boxed{10\\%}", "10"), ("\\boxed{90^\\circ}", "90"), ("\\boxed{5\\text{ cm}}", "5"),
    ("\\boxed{(1,2)}", "(1, 2)"), ("\\boxed{\\left(1,2\\right)}", "(1,2)"), ("\\boxed 42$", "42"), ("\\fbox{9}", "9"), ("x/y", "x/y"),
    ("a/b/c", "a/b/c"), ("\\frac", "\\frac"), ("$2$ and $3$", "3"), ("\\boxed{1} then \\boxed{2}", "2"), ("\\boxed{\\frac{a}{b}", "a"),
    ("\\$18", "18"), ("-3/4", "-\\frac{3}{4}"), ("3/-4", "\\frac{3}{-4}"), ("{.5}", "{0.5}"), (".5", "\\frac{1}{2}"), ("\\boxed{12!}", "12!"),
    ("abc=5", "5"), ("\\boxed{\\frac1{72}}", "\\frac{1}{72}"), ("\\boxed{\\frac{72}1}", "\\frac{72}{1}"), ("70", "070"), ("\\boxed{2\\!000}", "2000"),
    ("Final Answer: The final answer is $\\frac12$. I hope it is correct.", "\\boxed{\\frac{1}{2}}"),
    ("Final Answer: The final answer is 1,000 dollars. I hope it is correct.", "1000"),
    ("Final Answer: The final answer is $x = 5 \\text{ cm}$. I hope it is correct.", "5"),
    ("Final Answer: The final answer is 0,1. I hope it is correct.", "01"), ("The final answer is 5.", "7"),
    ("Final Answer: The final answer is \\sqrt[3]8. I hope it is correct.", "\\sqrt[3]{8}"),
    ("Final Answer: The final answer is \\left(3,\\frac\\pi2\\right). I hope it is correct.", "\\left(3,\\frac{\\pi}{2}\\right)"),
    ("Final Answer: The final answer is \\text{(A)}. I hope it is correct.", "(A)"),
    ("Final Answer: The final answer is 12\\mathrm{th}. I hope it is correct.", "12"),
    ("Final Answer: The final answer is 30^\\circ. I hope it is correct.", "30"),
    ("Final Answer: The final answer is \\sqrtab. I hope it is correct.", "\\sqrt{a}b"),
    ("Final Answer: The final answer is 3 square feet. I hope it is correct.", "3"),
    ("Final Answer: The final answer is 20\\%. I hope it is correct.", "20\\%"),
]


def random_pairs(n):
    rng = random.Random(11)
    words = "the a cat dog runs, sat. on 3.5 10-year “quoted” it's Größe 北京 и so (well) 1,000 U.S. e.g. end! why? & < %".split()
    out = []
    for _ in range(n):
        want = [rng.choice(words) for _ in range(rng.randint(1, 12))]
        got = [rng.choice(words) if rng.random() < 0.3 else w for w in want if rng.random() < 0.85]
        if rng.random() < 0.3:
            rng.shuffle(got)
        refs = [" ".join(want)]
        if rng.random() < 0.4:
            refs.append(" ".join(rng.choice(words) for _ in range(rng.randint(1, 12))))
        out.append((" ".join(got), refs))
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(HERE, "..", "golden"))
    a = p.parse_args()
    rouge = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    pairs = PAIRS + random_pairs(60)
    cases = []
    for got, refs in pairs:
        r = rouge.score_multi(refs, got)
        scores = {k: r[k].fmeasure for k in ("rouge1", "rouge2", "rougeL")}
        scores["squad_f1"] = max(squad_f1(got, x) for x in refs)
        scores["squad_exact"] = float(any(squad_tokens(got) == squad_tokens(x) for x in refs))
        scores["anls"] = max(anls(got, x) for x in refs)
        scores["relaxed_accuracy"] = max(relaxed(got, x) for x in refs)
        scores["wer"] = min(jiwer.wer(x, got) for x in refs)
        scores["cer"] = min(jiwer.cer(x, got) for x in refs)
        for name, tokenizer in (("bleu", "13a"), ("bleu_zh", "zh"), ("bleu_char", "char")):
            scores[name] = sacrebleu.metrics.BLEU(tokenize=tokenizer).corpus_score([got], [[x] for x in refs]).score
        scores["chrf"] = sacrebleu.metrics.CHRF().corpus_score([got], [[x] for x in refs]).score
        cases.append({"got": got, "references": refs, "scores": {k: round(v, 10) for k, v in scores.items()}})
    math = [{"got": got, "reference": want, "math_equal": math_equal(got, want), "math_minerva": math_minerva(got, want)} for got, want in MATH]
    got = [g for g, _ in pairs]
    most = max(len(r) for _, r in pairs)
    streams = [[r[i] if i < len(r) else None for _, r in pairs] for i in range(most)]
    first = [r[0] for _, r in pairs]
    corpus = {"chrf": sacrebleu.metrics.CHRF().corpus_score(got, streams).score, "wer": jiwer.wer(first, got), "cer": jiwer.cer(first, got)}
    for name, tokenizer in (("bleu", "13a"), ("bleu_zh", "zh"), ("bleu_char", "char")):
        corpus[name] = sacrebleu.metrics.BLEU(tokenize=tokenizer).corpus_score(got, streams).score
    os.makedirs(os.path.join(a.out, "eval"), exist_ok=True)
    with open(os.path.join(a.out, "eval", "scorers.json"), "w") as f:
        json.dump({"cases": cases, "corpus": corpus, "math": math}, f, separators=(",", ":"))
        f.write("\n")


main()
