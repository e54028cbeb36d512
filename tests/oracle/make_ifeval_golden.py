#!/usr/bin/env python3
"""Makes golden/eval/ifeval.json: what lm-evaluation-harness says of answers to instructions (google/IFEval's checks).

    make_ifeval_golden.py --out ../golden        needs lm_eval, nltk, langdetect

NLTK's trained English model is not used: sentences are found by an untrained Punkt with the abbreviations of ifeval_text.cc, and words are
cut without cutting sentences first. langdetect is seeded; texts whose language it does not know for sure are left out.
"""
import argparse
import importlib
import json
import os
import random
import re
import sys
import types

import langdetect
import nltk
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
langdetect.DetectorFactory.seed = 0
nltk.download = lambda *a, **k: True
nltk.data.find = lambda *a, **k: True

spec = importlib.util.find_spec("lm_eval")
root = os.path.dirname(spec.origin)
for name, path in (("lm_eval", root), ("lm_eval.tasks", root + "/tasks"), ("lm_eval.tasks.ifeval", root + "/tasks/ifeval")):
    package = types.ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package
iu = importlib.import_module("lm_eval.tasks.ifeval.instructions_util")
sys.modules["lm_eval.tasks.ifeval"].instructions_util = iu
ins = importlib.import_module("lm_eval.tasks.ifeval.instructions")
sys.modules["lm_eval.tasks.ifeval"].instructions = ins
sys.modules["lm_eval.tasks.ifeval"].instructions_registry = importlib.import_module("lm_eval.tasks.ifeval.instructions_registry")
utils = importlib.import_module("lm_eval.tasks.ifeval.utils")

source = open(os.path.join(HERE, "..", "..", "train", "evaluation", "ifeval_text.cc"), encoding="utf-8").read()
block = source[source.index("Abbreviations() {"):]
params = PunktParameters()
params.abbrev_types = set(re.findall(r'"([a-z.]+)"', block[:block.index("};")]))
iu._get_sentence_tokenizer = lambda: PunktSentenceTokenizer(params)
real_words = nltk.word_tokenize
iu.nltk.word_tokenize = lambda text: real_words(text, preserve_line=True)

TEXTS = [
    "",
    "   ",
    "Hello there. This is Dr. Smith speaking! Are you all right? Yes... I am. It costs 3.50 dollars, i.e. nothing.",
    "THE WEATHER IN THE NORTH WAS VERY GOOD WHEN WE WENT THERE WITH OUR FRIENDS, AND WE THINK THAT THEY SHOULD HAVE COME WITH US. DON'T STOP!",
    "my dog is very happy today and it runs through the garden with great joy. please do not stop it.",
    "Mein Hund ist heute sehr gl\u00fccklich und l\u00e4uft mit gro\u00dfer Freude durch den Garten. Das ist ein sch\u00f6ner Tag f\u00fcr alle.",
    "Mon chien est tr\u00e8s heureux aujourd'hui et il court dans le jardin avec une grande joie. C'est une belle journ\u00e9e pour nous.",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643\u0645 \u0641\u064a \u0647\u0630\u0627 \u0627\u0644\u064a\u0648\u0645 \u0627\u0644\u062c\u0645\u064a\u0644\u060c \u0646\u062d\u0646 \u0646\u0630\u0647\u0628 \u0625\u0644\u0649 \u0627\u0644\u062d\u062f\u064a\u0642\u0629 \u0645\u0639 \u0627\u0644\u0623\u0635\u062f\u0642\u0627\u0621.",
    "\u0928\u092e\u0938\u094d\u0924\u0947, \u0906\u091c \u0915\u093e \u0926\u093f\u0928 \u092c\u0939\u0941\u0924 \u0938\u0941\u0902\u0926\u0930 \u0939\u0948 \u0914\u0930 \u0939\u092e \u092c\u0917\u0940\u091a\u0947 \u092e\u0947\u0902 \u091c\u093e \u0930\u0939\u0947 \u0939\u0948\u0902\u0964",
    "\uc548\ub155\ud558\uc138\uc694. \uc624\ub298\uc740 \ub0a0\uc528\uac00 \uc544\uc8fc \uc88b\uc2b5\ub2c8\ub2e4. \uc6b0\ub9ac\ub294 \uacf5\uc6d0\uc5d0 \uac11\ub2c8\ub2e4.",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u0441\u0435\u0433\u043e\u0434\u043d\u044f \u043e\u0447\u0435\u043d\u044c \u0445\u043e\u0440\u043e\u0448\u0438\u0439 \u0434\u0435\u043d\u044c, \u0438 \u043c\u044b \u0438\u0434\u0451\u043c \u0433\u0443\u043b\u044f\u0442\u044c \u0432 \u043f\u0430\u0440\u043a \u0441 \u0434\u0440\u0443\u0437\u044c\u044f\u043c\u0438.",
    "* one\n* two\n- three\n  - four\n**bold** text\n*it* and *that*\n",
    "<<My Title>>\n\nSection 1\nText here [name] and [address].\nSection 2\nMore text.\n\nP.S. Do not forget.",
    "<< >>\nsection 1 SECTION 2\n[]\nP.P.S this too\np. s. small",
    "First part.\n***\nSecond part.\n***\nThird part.",
    "***\nFirst\n*** ***\nThird",
    "******\nOne answer\n******\nAnother answer\n******",
    "same\n******\nsame",
    "First word here.\n\nSecond paragraph starts.\n\n'Third' one. \n\n\n",
    "```json\n{\"a\": [1, 2, {\"b\": null}], \"c\": NaN}\n```",
    "```json\n{\"a\": [1, 2, {\"b\": null}]}\n```",
    "```\n[1, 2,]\n```",
    "{\"a\": 1}",
    "\"This whole answer is quoted. Is there anything else I can help with?\"",
    "My answer is yes.\nAny questions: A.B.C. Corp., NASA and the EU sent $5 (USD) -- OK? 'TIS FINE; CANNOT GO. WE'LL SEE \u201cTHIS\u201d U.S. END",
    "Write a poem about cats. Then the poem: cats and CATS, Cat cat. The End.",
    "write a POEM about cats.\nOnce upon a time there was a cat, and another cat, who liked the garden.",
    "He said: \"Stop!\" Then he left. (Really.) J. R. Smith met Mr. X. They ran 5. then 6. Then 7. End of story?! Yes",
    "Here you are:\n\n*Hello* **there**, [friend]\n\nHope this helps!",
    "One line only",
    "line one\nline two\nthe end, my friend",
]
NAMES = {
    "keywords:existence": [{"keywords": ["cat", "garden"]}, {"keywords": ["end"]}],
    "keywords:frequency": [{"keyword": "cat", "frequency": 3, "relation": "at least"}, {"keyword": "the", "frequency": 2, "relation": "less than"}],
    "keywords:forbidden_words": [{"forbidden_words": ["garden", "the"]}, {"forbidden_words": ["cat"]}],
    "keywords:letter_frequency": [{"letter": "e", "let_frequency": 8, "let_relation": "at least"}, {"letter": "A", "let_frequency": 4, "let_relation": "less than"}],
    "language:response_language": [{"language": x} for x in ("de", "fr", "ar", "hi", "ko", "ru", "en")],
    "length_constraints:number_sentences": [{"num_sentences": n, "relation": r} for n in (2, 3, 4, 5, 6, 7, 8) for r in ("at least",)],
    "length_constraints:number_paragraphs": [{"num_paragraphs": 2}, {"num_paragraphs": 3}],
    "length_constraints:number_words": [{"num_words": 10, "relation": "at least"}, {"num_words": 14, "relation": "less than"}],
    "length_constraints:nth_paragraph_first_word": [{"num_paragraphs": 3, "nth_paragraph": 3, "first_word": "third"},
                                                    {"num_paragraphs": 3, "nth_paragraph": 1, "first_word": "Here"}],
    "detectable_content:number_placeholders": [{"num_placeholders": 1}, {"num_placeholders": 2}],
    "detectable_content:postscript": [{"postscript_marker": "P.S."}, {"postscript_marker": "P.P.S"}],
    "detectable_format:number_bullet_lists": [{"num_bullets": 4}, {"num_bullets": 1}],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": 2}, {"num_highlights": 3}],
    "detectable_format:multiple_sections": [{"section_spliter": "Section", "num_sections": 2}, {"section_spliter": "SECTION", "num_sections": 1}],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": "Write a poem about cats."}],
    "startend:end_checker": [{"end_phrase": "Is there anything else I can help with?"}, {"end_phrase": "the end, MY friend"}],
    "startend:quotation": [{}],
    "change_case:capital_word_frequency": [{"capital_frequency": n, "capital_relation": "at least"} for n in (1, 5, 8, 11, 12, 13, 14, 15, 16, 18)],
    "change_case:english_capital": [{}],
    "change_case:english_lowercase": [{}],
    "punctuation:no_comma": [{}],
}


def sure_language(text):
    if not re.search(r"[^\W\d_]", text):
        return True
    best = langdetect.detect_langs(text)
    return best[0].prob > 0.99 and len(text) > 60 or bool(re.search(r"[\u0600-\u06ff\u0900-\u097f\uac00-\ud7af]", text))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", default=os.path.join(HERE, "..", "golden"))
    a = p.parse_args()
    random.seed(5)
    cases = []
    for t, text in enumerate(TEXTS):
        verdicts = []
        for name, all_kwargs in NAMES.items():
            if ("language" in name or "english" in name) and not sure_language(text):
                verdicts.append(None)
                continue
            row = []
            for kwargs in all_kwargs:
                x = utils.InputExample(0, [name], "", [kwargs])
                row.append([int(utils.test_instruction_following_strict(x, text).follow_all_instructions),
                            int(utils.test_instruction_following_loose(x, text).follow_all_instructions)])
            verdicts.append(row)
        cases.append({"text": text, "verdicts": verdicts})
    os.makedirs(os.path.join(a.out, "eval"), exist_ok=True)
    with open(os.path.join(a.out, "eval", "ifeval.json"), "w") as f:
        json.dump({"instructions": [[k, v] for k, v in NAMES.items()], "cases": cases}, f, separators=(",", ":"))
        f.write("\n")


main()
