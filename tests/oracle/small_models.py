"""Small random Gemma 4 Unified models: shapes, weights, batches, and the ways a checkpoint can be written.

Used by make_model_golden.py. Needs torch, transformers >= 5.23, safetensors.
"""
import json
import math
import pathlib

import torch
from safetensors.torch import load_file, save_file
from transformers import (Gemma4UnifiedConfig, Gemma4UnifiedForCausalLM,
                          Gemma4UnifiedForConditionalGeneration)
from transformers.models.gemma4_unified.modeling_gemma4_unified import (
    create_masks_for_vision_model, get_block_sequence_ids_for_mask)

SPECIAL = ["image", "video", "audio", "boi", "eoi", "boa", "eoa"]
NAMES = {"image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>", "boi": "<|image>",
         "eoi": "<image|>", "boa": "<|audio>", "eoa": "<audio|>"}

# full: indices of the full-attention layers. ghead, gkv: head width and key/value heads of those.
# first: smallest ordinary token id that batches use (the last 8 ids are the media markers).
SHAPES = {
    # the shape of the 12B in small: five sliding layers and a full one, one global key/value head
    "tiny": dict(vocab=128, first=20, hidden=64, mlp=72, layers=6, full=[5], heads=4, kv=2, head=16, ghead=32, gkv=1,
                 window=24, patch=4, pool=2, posemb=16, audio=32),
    # awkward: hidden not a power of two (the embedding scale rounds), 3 query heads a key/value head, 2 global
    # key/value heads, odd window, vocabulary and patch size, every fourth layer full
    "odd": dict(vocab=107, first=20, hidden=56, mlp=72, layers=4, full=[3], heads=6, kv=2, head=16, ghead=40, gkv=2,
                window=17, patch=3, pool=2, posemb=12, audio=50),
    # layers in no regular order, first and last but one full; the vision embedder is narrower than the model
    "mixed-order": dict(vocab=83, first=12, hidden=48, mlp=80, layers=5, full=[0, 3], heads=3, kv=1, head=16, ghead=48,
                        gkv=1, window=9, patch=2, pool=2, posemb=8, audio=20, media=40),
    # a few kilobytes, for the name variants
    "speck": dict(vocab=64, first=10, hidden=32, mlp=64, layers=3, full=[2], heads=2, kv=1, head=16, ghead=32, gkv=1,
                  window=12, patch=2, pool=2, posemb=8, audio=16),
    # the shapes of the bigger sets, made elsewhere: widths are multiples of 256, so that every block format fits
    "wide": dict(vocab=2048, first=300, hidden=256, mlp=512, layers=6, full=[5], heads=4, kv=2, head=64, ghead=128, gkv=1,
                 window=24, patch=4, pool=2, posemb=64, audio=64),
    "wide-odd": dict(vocab=2048, first=300, hidden=160, mlp=416, layers=8, full=[3, 7], heads=6, kv=2, head=32, ghead=96,
                     gkv=2, window=17, patch=3, pool=3, posemb=40, audio=96),
}


def special_ids(tokenizer_file, vocab):
    """Ids of the media markers: those of a tokenizer, else the end of the vocabulary."""
    if tokenizer_file is None:
        return {n: vocab - 8 + i for i, n in enumerate(SPECIAL)}
    added = {t["content"]: t["id"] for t in json.load(open(tokenizer_file))["added_tokens"]}
    return {k: added[v] for k, v in NAMES.items()}


def config(s, ids, tied=True):
    types = ["full_attention" if i in s["full"] else "sliding_attention" for i in range(s["layers"])]
    cfg = Gemma4UnifiedConfig(
        text_config=dict(
            vocab_size=s["vocab"], hidden_size=s["hidden"], intermediate_size=s["mlp"], num_hidden_layers=s["layers"],
            num_attention_heads=s["heads"], num_key_value_heads=s["kv"], head_dim=s["head"], global_head_dim=s["ghead"],
            num_global_key_value_heads=s["gkv"], attention_k_eq_v=True, sliding_window=s["window"], layer_types=types,
            final_logit_softcapping=30.0, use_bidirectional_attention="vision", max_position_embeddings=8192,
            tie_word_embeddings=tied),
        vision_config=dict(patch_size=s["patch"], pooling_kernel_size=s["pool"], mm_embed_dim=s.get("media", s["hidden"]),
                           mm_posemb_size=s["posemb"], output_proj_dims=s.get("media", s["hidden"])),
        audio_config=dict(audio_embed_dim=s["audio"]), tie_word_embeddings=tied,
        boi_token_id=ids["boi"], eoi_token_id=ids["eoi"], image_token_id=ids["image"], video_token_id=ids["video"],
        boa_token_id=ids["boa"], eoa_token_index=ids["eoa"], audio_token_id=ids["audio"])
    cfg._attn_implementation = "eager"
    return cfg


def draw(name, shape, g):
    """Random values of one parameter, exact in bf16 and in fp16."""
    if name.endswith("layer_scalar"):
        w = torch.rand(shape, generator=g) * 0.8 + 0.3
    elif "k_norm" in name:  # scores are not divided by sqrt(head width): keep their deviation near 1.5
        w = (torch.rand(shape, generator=g) * 0.4 + 0.8) * 1.5 / math.sqrt(shape[-1])
    elif "norm" in name or "_ln" in name:
        w = torch.randn(shape, generator=g) * 0.2 + (0.0 if name.endswith("bias") else 1.0)
    elif name.endswith("bias"):
        w = torch.randn(shape, generator=g) * 0.05
    elif "embed_tokens" in name or "pos_embedding" in name or "lm_head" in name:
        w = torch.randn(shape, generator=g) * (0.9 / math.sqrt(shape[-1]))
    else:
        w = torch.randn(shape, generator=g) / math.sqrt(shape[-1])
    return w.half().bfloat16().float()


def build(shape, ids, seed, tied=True, text_only=False):
    """A model in float32 and evaluation mode with every weight drawn from `seed`."""
    cfg = config(SHAPES[shape], ids, tied)
    torch.manual_seed(seed)
    if text_only:
        text = cfg.text_config
        text._attn_implementation = "eager"
        model = Gemma4UnifiedForCausalLM(text).float().eval()
    else:
        model = Gemma4UnifiedForConditionalGeneration(cfg).float().eval()
    g = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if "inv_freq" in name or "embed_scale" in name or (tied and name.startswith("lm_head")):
                continue
            p.copy_(draw(name, p.shape, g))
    return model


# ------------------------------------------------------------------ batches

class Row:
    """Builds one sequence with its media."""

    def __init__(self, s, ids, g):
        self.s, self.ids, self.g = s, ids, g
        self.seq, self.types = [2], [0]
        self.images, self.frames, self.frame_counts, self.sounds = [], [], [], []
        self.dim = (s["patch"] * s["pool"]) ** 2 * 3

    def words(self, n):
        self._put(torch.randint(self.s["first"], self.s["vocab"] - 8, (n,), generator=self.g).tolist(), 0)

    def _put(self, tokens, kind):
        self.seq += tokens
        self.types += [kind] * len(tokens)

    def _patches(self, w, h):
        pixels = torch.randint(0, 256, (w * h, self.dim), generator=self.g).float() * (1 / 255)
        return pixels, torch.tensor([[x, y] for y in range(h) for x in range(w)])

    def image(self, w, h):
        self.images.append(self._patches(w, h))
        self._put([self.ids["boi"]], 0)
        self._put([self.ids["image"]] * (w * h), 1)
        self._put([self.ids["eoi"]], 0)

    def video(self, w, h, frames, words=2):
        self.frame_counts.append(frames)
        for _ in range(frames):
            self.frames.append(self._patches(w, h))
            self.words(words)
            self._put([self.ids["boi"]], 0)
            self._put([self.ids["video"]] * (w * h), 2)
            self._put([self.ids["eoi"]], 0)

    def audio(self, n):
        self.sounds.append(torch.randn(n, self.s["audio"], generator=self.g) * 0.1)
        self._put([self.ids["boa"]], 0)
        self._put([self.ids["audio"]] * n, 3)
        self._put([self.ids["eoa"]], 0)


def pad_rows(t, n, value):
    return torch.cat([t, torch.full((n - t.shape[0], *t.shape[1:]), value, dtype=t.dtype)])


def media_tensors(rows):
    """The media of several rows as the processor stacks them (media padding: zero pixels, positions -1)."""
    out = {}
    images = [i for r in rows for i in r.images]
    frames = [f for r in rows for f in r.frames]
    sounds = [a for r in rows for a in r.sounds]
    for items, pixels, positions in ((images, "pixel_values", "image_position_ids"),
                                     (frames, "pixel_values_videos", "video_position_ids")):
        if items:
            n = max(p.shape[0] for p, _ in items) + 2
            out[pixels] = torch.stack([pad_rows(p, n, 0) for p, _ in items])
            out[positions] = torch.stack([pad_rows(q, n, -1) for _, q in items])
    if frames:
        out["num_frames_per_video"] = torch.tensor([c for r in rows for c in r.frame_counts])
    if sounds:
        n = max(len(a) for a in sounds)
        out["input_features"] = torch.stack([pad_rows(a, n, 0) for a in sounds])
        out["input_features_mask"] = torch.tensor([[i < len(a) for i in range(n)] for a in sounds])
    return out


def single(row, trained):
    """A batch of one row whose last `trained` tokens are targets."""
    input_ids = torch.tensor([row.seq])
    labels = input_ids.clone()
    labels[:, :len(row.seq) - trained] = -100
    return dict(input_ids=input_ids, mm_token_type_ids=torch.tensor([row.types]), labels=labels) | media_tensors([row])


def plain(s, ids, g, rows, tokens, untrained):
    made = [Row(s, ids, g) for _ in range(rows)]
    for r in made:
        r.words(tokens - 1)
    input_ids = torch.tensor([r.seq for r in made])
    labels = input_ids.clone()
    labels[:, :untrained] = -100
    return dict(input_ids=input_ids, mm_token_type_ids=torch.zeros_like(input_ids), labels=labels)


def make_batch(s, ids, seed, kind):
    g = torch.Generator().manual_seed(seed)
    if kind == "text":
        return plain(s, ids, g, 2, 70, 20)
    if kind == "scattered":  # three short rows, every third target off
        b = plain(s, ids, g, 3, 33, 1)
        b["labels"][:, ::3] = -100
        return b
    row = Row(s, ids, g)
    if kind == "mixed":  # text between all media; the first image is wider than the window
        row.words(4); row.image(5, 6); row.words(5); row.image(3, 2); row.words(3); row.audio(9); row.words(2)
        row.video(2, 2, 3); row.audio(5); row.words(20)
        return single(row, 20)
    assert kind == "crowded"  # media right after <bos> and right after each other, one-token media, two clips
    row.image(2, 3); row.image(1, 1); row.image(6, 5); row.audio(1); row.audio(7); row.audio(3)
    row.video(3, 1, 2, words=0); row.video(2, 3, 3, words=1); row.image(7, 4); row.words(9); row.audio(4)
    return single(row, 22)


# ------------------------------------------------------------------ running

def masks(text_cfg, batch, dtype, attention_mask=None, position_ids=None):
    """Both masks as `generate` builds them: image blocks are bidirectional in sliding layers only, inside the window."""
    t = batch["input_ids"].shape[1]
    if position_ids is None:
        position_ids = torch.arange(t)[None]
    return create_masks_for_vision_model(
        config=text_cfg, inputs_embeds=torch.zeros(*batch["input_ids"].shape, 1, dtype=dtype),
        attention_mask=attention_mask, past_key_values=None, position_ids=position_ids,
        block_sequence_ids=get_block_sequence_ids_for_mask(batch["mm_token_type_ids"], device="cpu"))


def run(model, batch, rule="intended", **kw):
    """Forward. rule "intended": see masks(). "bare": what calling model.forward directly does (the image block is
    OR-ed into every layer). "given": the batch brings both masks. A batch may bring attention_mask (1 = token, 0 = padding) and position_ids."""
    b = dict(batch)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if rule == "intended":
        t = b["input_ids"].shape[1]
        positions = b.get("position_ids", torch.arange(t)[None])
        b["attention_mask"] = masks(base.config.get_text_config(), b, next(model.parameters()).dtype,
                                    b.get("attention_mask"), positions)
        b["position_ids"] = positions
    if isinstance(base, Gemma4UnifiedForCausalLM):
        b.pop("mm_token_type_ids")
    return model(**b, use_cache=False, **kw)


def cast(batch, dtype):
    return {k: (v.to(dtype) if v.is_floating_point() else v) for k, v in batch.items()}


def flat(batch, prefix):
    small = lambda v: v.to(torch.uint8) if v.dtype == torch.bool else v.to(torch.int32) if v.dtype == torch.int64 else v
    return {f"{prefix}.{k}": small(v).contiguous() for k, v in batch.items()}


# ------------------------------------------------------------------ checkpoints

def flat_spelling(path):
    """Rewrites config.json with global_head_dim and num_global_key_value_heads instead of per_layer_config."""
    cfg = json.loads(path.read_text())
    t = cfg["text_config"]
    table = t.pop("per_layer_config")
    entry = next(iter(table.values()))
    assert all(e == entry for e in table.values()), table
    t["global_head_dim"] = entry.get("head_dim", t["head_dim"])
    t["num_global_key_value_heads"] = entry.get("num_key_value_heads", t["num_key_value_heads"])
    t["attention_k_eq_v"] = True
    path.write_text(json.dumps(cfg, indent=2) + "\n")
    again = Gemma4UnifiedConfig.from_pretrained(path.parent).get_text_config()
    assert {int(k): v for k, v in again.to_dict()["per_layer_config"].items()} == {int(k): v for k, v in table.items()}


def rename(folder, change, extra=None):
    """Rewrites model.safetensors with other tensor names."""
    file = folder / "model.safetensors"
    tensors = {change(k): v for k, v in load_file(file).items()} | (extra or {})
    save_file(tensors, file, metadata={"format": "pt"})


def memory_name(name):
    """On-disk name -> the name that the tensor has inside Transformers."""
    name = name.replace("model.embed_vision.embedding_projection", "model.embed_vision.multimodal_embedder.embedding_projection")
    return name.replace("model.vision_embedder.", "model.embed_vision.")


def mlx_name(name):
    """On-disk name -> without the leading "model.", and "language_model.model.layers" as MLX writes it."""
    name = name.removeprefix("model.")
    return name.replace("language_model.", "language_model.model.") if name.startswith("language_model.") else name


def save_checkpoint(model, folder, variant="plain", dtype=torch.bfloat16, shard=None):
    """variant: plain | memory (in-memory names and an lm_head equal to the embedding) | mlx. shard: bytes a file."""
    folder = pathlib.Path(folder)
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    if variant == "memory":
        w = load_file(folder / "model.safetensors")
        rename(folder, memory_name, {"lm_head.weight": w["model.language_model.embed_tokens.weight"].clone()})
    elif variant == "mlx":
        rename(folder, mlx_name)
    for f in folder.iterdir():
        f.chmod(0o644)
