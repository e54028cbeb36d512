#!/usr/bin/env python3
"""Write a small random Gemma 4 "unified" checkpoint in the layout of the 12B release.

The folder holds config.json (flat keys, as Google ships it), model.safetensors (bf16, the same tensor
names as the 12B), tokenizer.json and the other side files, a PEFT LoRA adapter, token ids, and the
fp32 logits that Hugging Face transformers computes for them. media/ holds an image, a sound, a prompt
with both, and the expected embeddings and logits. Everything follows from --seed.
"""
import argparse
import json
import math
import pathlib
import pydoc_data.topics
import wave

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

# Ids below 494 are those of the real tokenizer. The seven media markers sit near the end of the
# small vocabulary because their real ids (255999 and up) do not exist in it.
LOW_SPECIALS = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 46: "<|tool>", 47: "<tool|>",
                48: "<|tool_call>", 49: "<tool_call|>", 50: "<|tool_response>", 51: "<tool_response|>",
                52: '<|"|>', 98: "<|think|>", 100: "<|channel>", 101: "<channel|>", 105: "<|turn>", 106: "<turn|>"}
MEDIA = {"boi": (-16, "<|image>"), "boa": (-15, "<|audio>"), "image": (-8, "<|image|>"), "audio": (-7, "<|audio|>"),
         "eoi": (-6, "<image|>"), "eoa": (-5, "<audio|>"), "video": (-4, "<|video|>")}
FIRST_BYTE, FIRST_LEARNED = 238, 494
SPACE = "\u2581"


def train_merges(count: int) -> list[tuple[str, str]]:
    """Learns `count` BPE merges inside words from the text of Python's own help topics."""
    text = "\n".join(pydoc_data.topics.topics[k] for k in sorted(pydoc_data.topics.topics))
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Replace(" ", SPACE)
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(SPACE, "merged_with_next"),
        pre_tokenizers.Digits(individual_digits=True)])
    tok.train_from_iterator(text.split("\n"), trainers.BpeTrainer(vocab_size=count + 600, show_progress=False))
    merges = [tuple(m) for m in json.loads(tok.to_str())["model"]["merges"]]
    return [m for m in merges if "\n" not in m[0] + m[1] and set(m[0] + m[1]) != {SPACE}]


def build_tokenizer(vocab_size: int) -> dict:
    """Returns tokenizer.json with the Gemma 4 pipeline and `vocab_size` entries without gaps."""
    by_id = dict(LOW_SPECIALS)
    by_id |= {vocab_size + off: text for off, text in MEDIA.values()}
    by_id |= {107 + i: "\n" * (i + 1) for i in range(31)}
    by_id |= {138 + i: SPACE * (i + 2) for i in range(30)}
    by_id[5], by_id[212] = "[multimodal]", "</s>"
    by_id |= {FIRST_BYTE + b: f"<0x{b:02X}>" for b in range(256)}

    letters = [chr(c) for c in range(33, 127)] + [SPACE, "\t", "\u00e9", "\u00fc", "\u00df", "\u4e2d", "\u6587"]
    room = vocab_size - 16 - FIRST_LEARNED - len(letters)
    merges, have, learned = [], set(letters), []
    for left, right in train_merges(room):
        if len(learned) < room and left in have and right in have:
            merges.append((left, right))
            if left + right not in have:
                have.add(left + right)
                learned.append(left + right)
    by_id |= {FIRST_LEARNED + i: t for i, t in enumerate(learned + letters)}

    runs = [(c * left, c * right) for left in range(30, 0, -1) for right in range(31 - left, 0, -1) for c in ("\n", SPACE)]
    unused = 0
    for i in range(vocab_size):
        if i not in by_id:
            by_id[i] = f"<unused{unused}>"
            unused += 1
    vocab = {by_id[i]: i for i in range(vocab_size)}
    assert len(vocab) == vocab_size

    specials = sorted(LOW_SPECIALS | {vocab_size + off: text for off, text in MEDIA.values()})
    added = [{"id": i, "content": by_id[i], "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i in specials]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
            "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                               "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {}},
            "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                                                         {"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                      "vocab": vocab, "merges": [list(m) for m in runs + merges]}}


def build_config(a) -> dict:
    ids = {k: a.vocab + off for k, (off, _) in MEDIA.items()}
    layer_types = ["full_attention" if i in a.full_layers else "sliding_attention" for i in range(a.layers)]
    return {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"], "model_type": "gemma4_unified", "dtype": "bfloat16",
        "transformers_version": "5.10.0.dev0", "tie_word_embeddings": True, "initializer_range": 0.02,
        "boi_token_id": ids["boi"], "eoi_token_id": ids["eoi"], "image_token_id": ids["image"],
        "video_token_id": ids["video"], "boa_token_id": ids["boa"], "eoa_token_index": ids["eoa"],
        "audio_token_id": ids["audio"], "eos_token_id": [1, 106],
        "text_config": {
            "model_type": "gemma4_unified_text", "vocab_size": a.vocab, "hidden_size": a.hidden,
            "intermediate_size": a.mlp, "num_hidden_layers": a.layers, "num_attention_heads": a.heads,
            "num_key_value_heads": a.kv_heads, "num_global_key_value_heads": a.global_kv_heads, "head_dim": a.head_dim,
            "global_head_dim": a.global_head_dim, "layer_types": layer_types, "sliding_window": a.window,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}},
            "max_position_embeddings": a.context, "rms_norm_eps": 1e-06, "hidden_activation": "gelu_pytorch_tanh",
            "final_logit_softcapping": 30.0, "attention_k_eq_v": True, "use_bidirectional_attention": "vision",
            "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": True, "use_cache": True,
            "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "num_kv_shared_layers": 0,
            "use_double_wide_mlp": False, "enable_moe_block": False, "num_experts": None, "top_k_experts": None,
            "moe_intermediate_size": None, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": a.vocab,
            "initializer_range": 0.02, "dtype": "bfloat16"},
        "vision_config": {
            "model_type": "gemma4_unified_vision", "patch_size": 16, "pooling_kernel_size": 3, "model_patch_size": 48,
            "mm_embed_dim": a.media_width or a.hidden, "mm_posemb_size": a.positions, "output_proj_dims": a.media_width or a.hidden,
            "num_soft_tokens": 280, "rms_norm_eps": 1e-06, "initializer_range": 0.02},
        "audio_config": {
            "model_type": "gemma4_unified_audio", "audio_embed_dim": 640, "audio_samples_per_token": 640,
            "hidden_size": 640, "output_proj_dims": 640, "rms_norm_eps": 1e-06, "initializer_range": 0.02}}


def side_files(a) -> dict[str, dict]:
    image = {"do_convert_rgb": True, "do_resize": True, "do_rescale": True, "image_mean": [0.0, 0.0, 0.0],
             "image_std": [1.0, 1.0, 1.0], "patch_size": 16, "pooling_kernel_size": 3, "resample": 3,
             "rescale_factor": 0.00392156862745098}
    names = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>", "sot": "<|turn>",
             "eot": "<turn|>", "soc": "<|channel>", "eoc": "<channel|>", "think": "<|think|>", "escape": '<|"|>',
             "std": "<|tool>", "etd": "<tool|>", "stc": "<|tool_call>", "etc": "<tool_call|>", "str": "<|tool_response>",
             "etr": "<tool_response|>", "boi": "<|image>", "eoi": "<image|>", "image": "<|image|>", "boa": "<|audio>",
             "eoa": "<audio|>", "audio": "<|audio|>"}
    return {
        "generation_config.json": {
            "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": [1, 106, 50], "do_sample": True, "temperature": 1.0,
            "top_k": 64, "top_p": 0.95, "suppress_tokens": [a.vocab + MEDIA["eoa"][0], a.vocab + MEDIA["eoi"][0]],
            "transformers_version": "5.10.0.dev0"},
        "tokenizer_config.json": {
            "tokenizer_class": "GemmaTokenizer", "processor_class": "Gemma4UnifiedProcessor", "backend": "tokenizers",
            "add_bos_token": False, "padding_side": "left", "clean_up_tokenization_spaces": False,
            "model_max_length": 1000000000000000019884624838656, "extra_special_tokens": ["<|video|>"],
            **{f"{k}_token": v for k, v in names.items()}},
        "processor_config.json": {
            "audio_ms_per_token": 40, "audio_seq_length": 750, "image_seq_length": 280,
            "processor_class": "Gemma4UnifiedProcessor",
            "feature_extractor": {
                "feature_extractor_type": "Gemma4UnifiedAudioFeatureExtractor", "feature_size": 640,
                "audio_samples_per_token": 640, "sampling_rate": 16000, "padding_side": "right", "padding_value": 0.0,
                "return_attention_mask": True},
            "image_processor": {**image, "image_processor_type": "Gemma4UnifiedImageProcessor", "do_normalize": False,
                                "max_soft_tokens": 280},
            "video_processor": {**image, "video_processor_type": "Gemma4UnifiedVideoProcessor", "do_normalize": True,
                                "max_soft_tokens": 70, "do_sample_frames": True, "num_frames": 32, "return_metadata": False}}}


CHAT_TEMPLATE = """{{ bos_token }}{% for m in messages %}<|turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<turn|>
{% endfor %}{% if add_generation_prompt %}<|turn>model
{% endif %}"""


def random_weights(shapes: dict[str, torch.Size], hidden: int, gen: torch.Generator) -> dict[str, torch.Tensor]:
    """Draws weights whose activations have sensible sizes at every stage, rounded to bf16."""
    def normal(shape, std, mean=0.0):
        return torch.randn(shape, generator=gen) * std + mean

    out = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("layer_scalar"):
            w = torch.rand(shape, generator=gen) * 0.9 + 0.3
        elif name.endswith("embed_tokens.weight"):
            w = normal(shape, 0.4 / math.sqrt(hidden))
        elif name.endswith("language_model.norm.weight"):
            w = normal(shape, 0.8, 5.0)          # keeps the logits a few units wide and exposes a stray "1 + w"
        elif name.endswith("k_norm.weight"):
            w = normal(shape, 0.03, 0.15)        # scores are not divided by sqrt(head_dim)
        elif "post_attention" in name or "post_feedforward" in name:
            w = normal(shape, 0.04, 0.25)        # small branches keep rounding noise from growing layer by layer
        elif name.endswith("norm.weight") or name.endswith("layernorm.weight") or "patch_ln" in name and name.endswith("weight"):
            w = normal(shape, 0.15, 1.0)
        elif name.endswith(".bias"):
            w = normal(shape, 0.1)
        elif name.endswith("pos_embedding"):
            w = normal(shape, 0.5)
        else:
            w = normal(shape, 1.0 / math.sqrt(shape[-1]))
        out[name] = w.to(torch.bfloat16)
    return out


@torch.no_grad()
def logits_of(model, ids) -> torch.Tensor:
    zeros = torch.zeros(1, len(ids), dtype=torch.long)
    return model(input_ids=torch.tensor([ids]), mm_token_type_ids=zeros, use_cache=False).logits[0].float().contiguous()


def vision_masks(types: list[int], window: int) -> dict[str, torch.Tensor]:
    """Gemma 4's masks with one image: full layers causal; sliding layers also see their own image ahead."""
    n = len(types)
    q, k = torch.arange(n)[:, None], torch.arange(n)[None]
    image = torch.tensor(types) == 1
    full = k <= q
    sliding = (k > q - window) & (full | image[:, None] & image[None])
    low = torch.finfo(torch.float32).min
    return {name: torch.where(allow, 0.0, low)[None, None]
            for name, allow in (("full_attention", full), ("sliding_attention", sliding))}


@torch.no_grad()
def media_reference(model, tokenizer, out: pathlib.Path, width: int, height: int, samples: int) -> None:
    """Writes image, sound, prompt and what the model makes of them. The image needs no resizing: its sides
    are multiples of 48, so that the numbers do not depend on anybody's resampling filter."""
    from transformers.models.gemma4_unified.image_processing_gemma4_unified import Gemma4UnifiedImageProcessor
    out.mkdir(exist_ok=True)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([(x * 7 + y * 3) % 256, x * y // 17 % 256, np.hypot(x - 200, y - 150) * 2 % 256], -1).astype(np.uint8)
    Image.fromarray(pixels).save(out / "image.png", optimize=True)
    t = np.arange(samples) / 16000
    pcm = np.round((0.4 * np.sin(2 * np.pi * (200 + 300 * t) * t) + 0.1 * np.sin(2 * np.pi * 1234 * t)) * 32767).astype(np.int16)
    with wave.open(str(out / "sound.wav"), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(16000)
        w.writeframes(pcm.tobytes())

    f = Gemma4UnifiedImageProcessor(max_soft_tokens=1120)(Image.open(out / "image.png"), do_resize=False, return_tensors="pt")
    frames = torch.zeros(-(-samples // 640) * 640)
    frames[:samples] = torch.from_numpy(pcm.astype(np.float32) / 32768)
    frames = frames.reshape(1, -1, 640)
    image = model.get_image_features(f["pixel_values"], f["image_position_ids"]).pooler_output[0]
    sound = model.model.get_audio_features(frames).pooler_output[0]

    prompt = "the statement <__media__> is a class and <__media__> is the name of it"
    (out / "prompt.json").write_text(json.dumps({"prompt": prompt, "files": ["image.png", "sound.wav"]}) + "\n")
    for kind, n in (("image", len(image)), ("audio", len(sound))):
        prompt = prompt.replace("<__media__>", f"<|{kind}>" + f"<|{kind}|>" * n + f"<{kind}|>", 1)
    ids = tokenizer("<bos>" + prompt, add_special_tokens=False)["input_ids"]
    c = model.config
    types = [1 if i == c.image_token_id else 3 if i == c.audio_token_id else 0 for i in ids]

    embedded = model.model.language_model.embed_tokens(torch.tensor([[0 if k else i for i, k in zip(ids, types)]]))
    embedded[0, torch.tensor(types) == 1] = image
    embedded[0, torch.tensor(types) == 3] = sound
    hidden = model.model.language_model(
        inputs_embeds=embedded, attention_mask=vision_masks(types, c.text_config.sliding_window),
        position_ids=torch.arange(len(ids))[None], use_cache=False).last_hidden_state
    logits = torch.tanh(model.lm_head(hidden)[0] / 30) * 30
    bare = model(input_ids=torch.tensor([ids]), pixel_values=f["pixel_values"], image_position_ids=f["image_position_ids"],
                 input_features=frames, input_features_mask=torch.ones(1, frames.shape[1], dtype=torch.bool),
                 mm_token_type_ids=torch.tensor([types]), use_cache=False).logits[0]
    save_file({"ids": torch.tensor(ids), "types": torch.tensor(types), "embeddings": torch.cat([image, sound]),
               "logits": logits, "logits_bare_forward": bare.contiguous()}, out / "expected.safetensors",
              metadata={"source": "transformers fp32; logits use Google's image mask, logits_bare_forward that of model.forward"})


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True, help="folder to create")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--vocab", type=int, default=1536)
    p.add_argument("--hidden", type=int, default=256)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--full-layers", type=int, nargs="+", default=[5], help="indices of the full-attention layers")
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--kv-heads", type=int, default=2)
    p.add_argument("--global-kv-heads", type=int, default=1)
    p.add_argument("--head-dim", type=int, default=64)
    p.add_argument("--global-head-dim", type=int, default=128)
    p.add_argument("--mlp", type=int, default=512)
    p.add_argument("--media-width", type=int, help="width of the vision embedder (default: --hidden)")
    p.add_argument("--window", type=int, default=24)
    p.add_argument("--context", type=int, default=4096)
    p.add_argument("--positions", type=int, default=160, help="rows of the image position table (1120 in the 12B)")
    p.add_argument("--tokens", type=int, default=61, help="length of the token sequence for the reference logits")
    p.add_argument("--image", default="432x384", metavar="WxH", help="test image; multiples of 48, 70 to 1120 patches")
    p.add_argument("--sound", type=int, default=8000, help="samples of the test sound (16 kHz)")
    p.add_argument("--lora-rank", type=int, default=4)
    p.add_argument("--lora-alpha", type=float, default=10.0)
    a = p.parse_args()

    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoTokenizer, Gemma4UnifiedForConditionalGeneration

    hf = a.out / "hf"
    hf.mkdir(parents=True, exist_ok=True)
    (hf / "config.json").write_text(json.dumps(build_config(a), indent=1) + "\n")
    (hf / "tokenizer.json").write_text(json.dumps(build_tokenizer(a.vocab), ensure_ascii=False, separators=(",", ":")) + "\n")
    for name, content in side_files(a).items():
        (hf / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (hf / "chat_template.jinja").write_text(CHAT_TEMPLATE)

    # Names and shapes come from transformers itself: save once, then replace every value.
    gen = torch.Generator().manual_seed(a.seed)
    model = Gemma4UnifiedForConditionalGeneration(AutoConfig.from_pretrained(hf))
    model.save_pretrained(a.out / "scratch")
    shapes = {k: v.shape for k, v in load_file(a.out / "scratch" / "model.safetensors").items()}
    for f in (a.out / "scratch").iterdir():
        f.unlink()
    (a.out / "scratch").rmdir()
    save_file(random_weights(shapes, a.hidden, gen), hf / "model.safetensors", metadata={"format": "pt"})

    model = Gemma4UnifiedForConditionalGeneration.from_pretrained(hf, dtype=torch.float32, attn_implementation="eager").eval()
    usable = torch.arange(FIRST_LEARNED, a.vocab - 16)
    body = usable[torch.randint(len(usable), (a.tokens - 1,), generator=gen)].tolist()
    ids = [2] + body
    (a.out / "tokens.json").write_text(json.dumps(ids) + "\n")
    base = logits_of(model, ids)
    width, height = map(int, a.image.split("x"))
    media_reference(model, AutoTokenizer.from_pretrained(hf), a.out / "media", width, height, a.sound)

    target = (r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)")
    peft_model = get_peft_model(model, LoraConfig(
        r=a.lora_rank, lora_alpha=a.lora_alpha, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=target))
    with torch.no_grad():
        for name, w in sorted(peft_model.named_parameters()):
            if "lora_A" in name:
                w.copy_((torch.randn(w.shape, generator=gen) / math.sqrt(w.shape[1])).to(torch.bfloat16))
            elif "lora_B" in name:
                w.copy_((torch.randn(w.shape, generator=gen) * 0.03).to(torch.bfloat16))
    peft_model.eval().save_pretrained(a.out / "lora")
    cfg_path = a.out / "lora" / "adapter_config.json"
    cfg = json.loads(cfg_path.read_text()) | {"base_model_name_or_path": "google/gemma-4-12B-it"}
    cfg_path.write_text(json.dumps(cfg, indent=1, sort_keys=True) + "\n")
    (a.out / "lora" / "README.md").unlink(missing_ok=True)
    adapted = logits_of(peft_model, ids)

    save_file({"logits": base, "logits_lora": adapted, "tokens": torch.tensor(ids, dtype=torch.int64)},
              a.out / "logits.safetensors", metadata={"source": "transformers fp32, eager attention"})

    for f in a.out.rglob("*"):
        if f.is_file():
            f.chmod(0o644)
    print(f"{len(shapes)} tensors; logits std {base.std():.3f}, largest {base.abs().max():.2f}; "
          f"LoRA moves them by {(adapted - base).abs().mean():.3f} on average")


if __name__ == "__main__":
    main()
