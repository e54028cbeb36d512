#!/usr/bin/env python3
"""The forward pass of Gemma 4 Unified in numpy and double precision, written from the description of the model alone.

usage: reference_forward.py MODEL_GOLDEN_DIR ...     prints the largest difference to every golden logits tensor
                                                     (about 2e-5: the rounding of float32)

Slow and plain on purpose, to be read beside the C++; no cache, no padding. Needs numpy, torch (for bf16), safetensors.
"""
import json
import pathlib
import sys

import numpy as np
from safetensors.torch import load_file


def rms(x, w=None):
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return y if w is None else y * w


def layer_norm(x, w, b):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * w + b


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def rope(x, positions, full):
    """x [T, heads, D]. Full layers rotate the first quarter of the pairs, with wavelengths spread over the whole width."""
    d = x.shape[-1]
    inv = np.zeros(d // 2)
    n = int(0.25 * d // 2) if full else d // 2
    inv[:n] = (1e6 if full else 1e4) ** (-2 * np.arange(n) / d)
    angle = np.concatenate([positions[:, None] * inv] * 2, -1)[:, None]
    turned = np.concatenate([-x[..., d // 2:], x[..., :d // 2]], -1)
    return x * np.cos(angle) + turned * np.sin(angle)


def plain_name(name):
    """Any of the known spellings -> the name inside Transformers."""
    name = name.removeprefix("model.")
    name = name.replace("language_model.model.", "language_model.")
    if name.startswith(("layers.", "embed_tokens.", "norm.")):
        name = "language_model." + name
    name = name.replace("vision_embedder.", "embed_vision.")
    return name.replace("embed_vision.embedding_projection", "embed_vision.multimodal_embedder.embedding_projection")


class Model:
    def __init__(self, folder):
        self.cfg = json.loads((folder / "config.json").read_text())
        self.text = self.cfg.get("text_config", self.cfg)
        self.w = {}
        for file in folder.glob("*.safetensors"):
            self.w |= {plain_name(k): v.double().numpy() for k, v in load_file(file).items()}
        self.embed = self.w["language_model.embed_tokens.weight"]
        self.head = self.w.get("lm_head.weight", self.embed)

    def geometry(self, layer):
        """(is full, head width, key/value heads)"""
        t = self.text
        if t["layer_types"][layer] != "full_attention":
            return False, t["head_dim"], t["num_key_value_heads"]
        if "per_layer_config" in t:
            o = t["per_layer_config"][str(layer)]
            return True, o.get("head_dim", t["head_dim"]), o.get("num_key_value_heads", t["num_key_value_heads"])
        return True, t["global_head_dim"], t["num_global_key_value_heads"]

    def vision(self, pixels, positions):
        p = "embed_vision."
        ln = lambda x, n: layer_norm(x, self.w[p + n + ".weight"], self.w[p + n + ".bias"])
        u = ln(pixels, "patch_ln1") @ self.w[p + "patch_dense.weight"].T + self.w[p + "patch_dense.bias"]
        table = self.w[p + "pos_embedding"]
        u = ln(u, "patch_ln2") + table[positions[:, 0], 0] + table[positions[:, 1], 1]
        return rms(ln(u, "pos_norm")) @ self.w[p + "multimodal_embedder.embedding_projection.weight"].T

    def embeddings(self, ids, media):
        kinds = [k for k in ("image_token_id", "video_token_id", "audio_token_id") if k in self.cfg]
        soft = np.isin(ids, [self.cfg[k] for k in kinds])
        h = self.embed[np.where(soft, 0, ids)] * np.float32(np.sqrt(np.float32(self.embed.shape[1])))
        for kind, pixels, places in (("image_token_id", "pixel_values", "image_position_ids"),
                                     ("video_token_id", "pixel_values_videos", "video_position_ids")):
            if pixels in media:
                valid = (media[places] != -1).all(-1)
                h[ids == self.cfg[kind]] = self.vision(media[pixels][valid], media[places][valid])
        if "input_features" in media:
            sound = media["input_features"][media["input_features_mask"].astype(bool)]
            h[ids == self.cfg["audio_token_id"]] = rms(sound) @ self.w["embed_audio.embedding_projection.weight"].T
        return h

    def attention(self, x, layer, positions, allow):
        p = f"language_model.layers.{layer}.self_attn."
        full, d, kv = self.geometry(layer)
        heads, t = self.text["num_attention_heads"], len(x)
        project = lambda name, n: (x @ self.w[p + name + ".weight"].T).reshape(t, n, d)
        q, k = project("q_proj", heads), project("k_proj", kv)
        v = rms(k if full else project("v_proj", kv))  # full layers: the values are the keys
        q = rope(rms(q, self.w[p + "q_norm.weight"]), positions, full)
        k = rope(rms(k, self.w[p + "k_norm.weight"]), positions, full)
        k, v = np.repeat(k, heads // kv, 1), np.repeat(v, heads // kv, 1)
        s = np.where(allow[full], np.einsum("thd,shd->hts", q, k), -np.inf)
        s = np.exp(s - s.max(-1, keepdims=True))
        s /= s.sum(-1, keepdims=True)
        return np.einsum("hts,shd->thd", s, v).reshape(t, -1) @ self.w[p + "o_proj.weight"].T

    def logits(self, ids, types, media):
        t = len(ids)
        positions = np.arange(t)
        q, k = positions[:, None], positions[None]
        vision = (types == 1) | (types == 2)
        block = np.where(vision, np.cumsum(vision & ~np.concatenate([[False], vision[:-1]])), -1)
        same = (block[:, None] == block[None]) & (block[:, None] >= 0)
        allow = {True: k <= q, False: (k > q - self.text["sliding_window"]) & ((k <= q) | same)}
        h = self.embeddings(ids, media)
        for layer in range(self.text["num_hidden_layers"]):
            p = f"language_model.layers.{layer}."
            norm = lambda x, name: rms(x, self.w[p + name + "layernorm.weight"])
            h = h + norm(self.attention(norm(h, "input_"), layer, positions, allow), "post_attention_")
            m = norm(h, "pre_feedforward_")
            m = gelu(m @ self.w[p + "mlp.gate_proj.weight"].T) * (m @ self.w[p + "mlp.up_proj.weight"].T)
            h = (h + norm(m @ self.w[p + "mlp.down_proj.weight"].T, "post_feedforward_")) * self.w[p + "layer_scalar"]
        z = rms(h, self.w["language_model.norm.weight"]) @ self.head.T
        cap = self.text["final_logit_softcapping"]
        return cap * np.tanh(z / cap)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for folder in map(pathlib.Path, sys.argv[1:]):
        model = Model(folder / "model")
        data = {k: v.double().numpy() if v.is_floating_point() else v.numpy()
                for k, v in load_file(folder / "forward.safetensors").items()}
        for name in sorted(k for k in data if k.endswith(".logits")):
            prefix = name.removesuffix("logits")
            batch = {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}
            worst = 0.0
            for row, ids in enumerate(batch["input_ids"]):
                got = model.logits(ids, batch["mm_token_type_ids"][row], batch)
                worst = max(worst, np.abs(got - batch["logits"][row]).max())
            print(f"{folder.name} {name}: {worst:.2e}")


if __name__ == "__main__":
    main()
