"""What Transformers' logits processors make of small vectors: ../model/sampler_cases.json.

    python make_sampler_golden.py > ../model/sampler_cases.json

Every case: logits, ids seen before, settings; expected: probabilities of the ids that can be drawn. Logits are distinct, so that
the order of equal ones does not matter.
"""
import json
import random
import sys

import torch
from transformers.generation.logits_process import (LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor,
                                                    SuppressTokensLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper,
                                                    TopPLogitsWarper)


def processors(case):
    """In the order of GenerationMixin._get_logits_processor."""
    found = LogitsProcessorList()
    if case["repetition_penalty"] != 1:
        found.append(RepetitionPenaltyLogitsProcessor(case["repetition_penalty"]))
    if case["suppress"]:
        found.append(SuppressTokensLogitsProcessor(case["suppress"]))
    if case["temperature"] != 1:
        found.append(TemperatureLogitsWarper(case["temperature"]))
    if case["top_k"]:
        found.append(TopKLogitsWarper(case["top_k"]))
    if case["top_p"] < 1:
        found.append(TopPLogitsWarper(case["top_p"]))
    if case["min_p"]:
        found.append(MinPLogitsWarper(case["min_p"]))
    return found


def main():
    rng = random.Random(7)
    cases = []
    for i in range(60):
        n = rng.choice([5, 17, 40])
        case = {
            "logits": rng.sample([x / 16 for x in range(-120, 120)], n),
            "seen": [rng.randrange(n) for _ in range(rng.choice([0, 3, 12]))],
            "suppress": rng.sample(range(n), rng.choice([0, 0, 2])),
            "temperature": rng.choice([1.0, 0.3, 0.7, 2.5]),
            "top_k": rng.choice([0, 1, 4, 20, 100]),
            "top_p": rng.choice([1.0, 0.95, 0.5, 0.1]),
            "min_p": rng.choice([0, 0.02, 0.2, 1.0]),
            "repetition_penalty": rng.choice([1.0, 1.3, 0.8]),
        }
        ids = torch.tensor([case["seen"]], dtype=torch.long)
        scores = processors(case)(ids, torch.tensor([case["logits"]], dtype=torch.float64))
        p = scores.softmax(-1)[0]
        case["expected"] = {str(j): round(v, 12) for j, v in enumerate(p.tolist()) if v > 0}
        cases.append(case)
    json.dump(cases, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
