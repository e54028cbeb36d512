#!/usr/bin/env python3
"""Golden data for image, audio and video preprocessing of Gemma 4 12B (gemma4_unified),
made with the real Hugging Face processors.

  make_media_golden.py --inputs inputs.json --tokenizer small-tokenizer.json \
      --template gemma4-12b-it.jinja --out DIR

The inputs file lists what to generate (sizes, formats, seeds, sentences); everything else follows
from it.  Writes into DIR: the media files (images/, audio/, video/), images.json + .safetensors,
audio.json + .safetensors, video.json + .safetensors and processor.json.

Needs transformers, torchvision, torchcodec, soundfile, soxr, pillow, and the programs ffmpeg and
espeak-ng.  `resize_u8` below is the resize rule in plain numpy; the script asserts that it gives
the bits of torchvision for every image and video frame.
"""
import argparse
import hashlib
import json
import math
import os
import struct
import subprocess
import warnings
import zlib

import numpy as np

warnings.filterwarnings("ignore")
SCALE = np.float32(0.00392156862745098)  # 1/255 as stored in the processor configuration


# ---------------------------------------------------------------- reference rules in numpy

def target_size(h, w, budget):
    px = 2304 * budget
    f = math.sqrt(9 * budget * 256 / (h * w))
    th, tw = math.floor(f * h / 48) * 48, math.floor(f * w / 48) * 48
    assert th or tw
    if th == 0:
        th, tw = 48, min(math.floor(w / h) * 48, budget * 48)
    elif tw == 0:
        tw, th = 48, min(math.floor(h / w) * 48, budget * 48)
    assert th * tw <= px
    return th, tw


def axis_weights(n, m):
    """int16 weights of the antialiased bicubic filter from n to m samples: (start, W, shift)."""
    scale = n / m
    support = 2.0 * scale if scale >= 1 else 2.0
    inv = 1.0 / scale if scale >= 1 else 1.0
    size = math.ceil(support) * 2 + 1
    a = -0.5
    start, rows, wmax = [], [], 0.0
    for i in range(m):
        c = scale * (i + 0.5)
        lo = max(int(c - support + 0.5), 0)
        cnt = min(max(min(int(c + support + 0.5), n) - lo, 0), size)
        w = []
        for j in range(cnt):
            t = abs((j + lo - c + 0.5) * inv)
            if t < 1:
                v = ((a + 2) * t - (a + 3)) * t * t + 1
            elif t < 2:
                v = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
            else:
                v = 0.0
            w.append(v)
        s = sum(w)
        w = [v / s for v in w] if s else w
        wmax = max([wmax] + w)
        start.append(lo)
        rows.append(w)
    p = 0
    while p < 22 and int(0.5 + wmax * (1 << (p + 1))) < (1 << 15):
        p += 1
    table = np.zeros((m, size), np.int64)
    for i, w in enumerate(rows):
        for j, v in enumerate(w):
            table[i, j] = int(v * (1 << p) - 0.5) if v < 0 else int(v * (1 << p) + 0.5)
    return np.array(start), table, p


def resize_axis(img, m):
    """img [..., n, C] uint8 -> [..., m, C]."""
    n = img.shape[-2]
    if n == m:
        return img
    start, table, p = axis_weights(n, m)
    acc = np.full(img.shape[:-2] + (m, img.shape[-1]), 1 << (p - 1), np.int64)
    for j in range(table.shape[1]):
        idx = np.minimum(start + j, n - 1)
        acc += img[..., idx, :].astype(np.int64) * table[:, j, None]
    return np.clip(acc >> p, 0, 255).astype(np.uint8)


def resize_u8(img, th, tw):
    """[H, W, 3] uint8, width first, then height, uint8 in between."""
    out = resize_axis(img, tw)
    return np.swapaxes(resize_axis(np.swapaxes(out, 0, 1), th), 0, 1)


def patchify(img):
    """[h, w, 3] -> [n, 6912], token index ty * (w/48) + tx, features row, column, channel."""
    h, w, c = img.shape
    p = img.reshape(h // 48, 48, w // 48, 48, c).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(p.reshape(-1, 48 * 48 * c))


def over_white(rgba):
    """PIL's alpha_composite on an opaque white background."""
    s, a = rgba[..., :3].astype(np.int64), rgba[..., 3:].astype(np.int64)
    t = s * a + 255 * (255 - a) + 128
    return ((t + (t >> 8)) >> 8).astype(np.uint8)


# ---------------------------------------------------------------- helpers

def sha(x):
    data = x if isinstance(x, bytes) else np.ascontiguousarray(x).tobytes()
    return hashlib.sha256(data).hexdigest()


def save_tensors(tensors, path):
    from safetensors.numpy import save_file
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    os.chmod(path, 0o644)


def versions():
    import PIL
    import safetensors
    import soundfile
    import soxr
    import torch
    import torchcodec
    import torchvision
    import transformers
    ff = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split()[2]
    return {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
            "torchvision": torchvision.__version__.split("+")[0], "torchcodec": torchcodec.__version__.split("+")[0],
            "pillow": PIL.__version__, "soundfile": soundfile.__version__, "soxr": soxr.__version__,
            "numpy": np.__version__, "safetensors": safetensors.__version__, "ffmpeg": ff}


def write_json(path, obj, lists=()):
    """One line per entry of the named lists, so that diffs stay readable."""
    parts = []
    for k, v in obj.items():
        if k in lists:
            body = ",\n".join(json.dumps(e, ensure_ascii=True) for e in v)
            parts.append(json.dumps(k) + ": [\n" + body + "\n]")
        else:
            parts.append(json.dumps(k) + ": " + json.dumps(v, ensure_ascii=True))
    with open(path, "w") as f:
        f.write("{\n" + ",\n".join(parts) + "\n}\n")


# ---------------------------------------------------------------- images

def picture(h, w, rng, noise=6):
    """A smooth colour field with edges, lines and a little noise."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    u, v = x / max(w - 1, 1), y / max(h - 1, 1)
    ch = []
    for _ in range(3):
        a, b, c, d = rng.uniform(0.5, 5, 4)
        ch.append(127 + 70 * np.sin(a * 6.28 * u + c) * np.cos(b * 6.28 * v + d))
    img = np.stack(ch, -1)
    for _ in range(6):
        cx, cy, r = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0.05, 0.3) * min(h, w)
        img[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    step = max(3, min(h, w) // 16)
    img[:, ::step * 4][: h // 3] = rng.uniform(0, 255, 3)
    if noise:
        img += rng.normal(0, noise, img.shape)
    return np.clip(img + 0.5, 0, 255).astype(np.uint8)


def write_png(path, w, h, depth, colour, rows, interlace=False):
    """Minimal PNG writer for what PIL cannot write; rows: [h, w, samples]."""
    def chunk(tag, data):
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))
    be = rows.astype(">u2" if depth == 16 else "u1")
    raw = b""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    for y0, x0, dy, dx in passes if interlace else [(0, 0, 1, 1)]:
        part = be[y0::dy, x0::dx]
        if part.shape[0] and part.shape[1]:
            for r in part:
                raw += b"\0" + r.tobytes()
    head = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, int(interlace))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))


def make_image(path, spec, rng):
    from PIL import Image
    h, w, kind = spec["h"], spec["w"], spec["kind"]
    img = picture(h, w, rng, spec.get("noise", 6))
    alpha = np.clip(picture(h, w, rng, 0)[..., :1].astype(int) * 2 - 128, 0, 255).astype(np.uint8)
    save = dict(spec.get("save", {}))
    if "exif" in spec:
        exif = Image.Exif()
        exif[0x112] = spec["exif"]
        save["exif"] = exif
    if kind in ("rgb16", "rgba16", "grey16"):
        base = {"rgb16": img, "rgba16": np.concatenate([img, alpha], 2), "grey16": img[..., :1]}[kind]
        wide = base.astype(np.uint16) * 256 + rng.integers(0, 256, base.shape).astype(np.uint16)
        write_png(path, w, h, 16, {"rgb16": 2, "rgba16": 6, "grey16": 0}[kind], wide)
        return
    if kind == "interlaced":
        write_png(path, w, h, 8, 2, img, True)
        return
    if kind == "rgb":
        pil = Image.fromarray(img)
    elif kind == "rgba":
        pil = Image.fromarray(np.concatenate([img, alpha], 2))
    elif kind == "grey":
        pil = Image.fromarray(img[..., 0])
    elif kind == "la":
        pil = Image.fromarray(np.concatenate([img[..., :1], alpha], 2))
    elif kind == "bilevel":
        pil = Image.fromarray(img[..., 0] > 127)
    elif kind == "cmyk":
        pil = Image.fromarray(img).convert("CMYK")
    elif kind in ("palette", "palette_alpha"):
        pil = Image.fromarray(img).quantize(spec.get("colours", 32), dither=0)
        if kind == "palette_alpha":
            save["transparency"] = bytes(int(x) for x in rng.integers(0, 256, spec.get("colours", 32)))
    elif kind == "rgb_key":
        img[: h // 2, : w // 2] = (10, 200, 30)
        pil, save["transparency"] = Image.fromarray(img), (10, 200, 30)
    else:
        raise ValueError(kind)
    pil.save(path, **save)


def images(inputs, out):
    import torch
    import torchvision.io as tio
    from PIL import Image
    from transformers import Gemma4UnifiedImageProcessor
    from transformers.image_utils import load_image, load_image_as_tensor
    folder = os.path.join(out, "images")
    os.makedirs(folder, exist_ok=True)
    tensors, records, checked = {}, [], 0
    for k, spec in enumerate(inputs["images"]):
        name = spec["name"]
        path = os.path.join(folder, name)
        make_image(path, spec, np.random.default_rng(inputs["seed"] * 1000 + k))
        chw = lambda t: t.permute(1, 2, 0).contiguous().numpy()
        by_path = chw(load_image_as_tensor(path))  # what a path or URL in a message gives
        assert by_path.dtype == np.uint8
        probe = Gemma4UnifiedImageProcessor()
        pil_obj = chw(probe.process_image(Image.open(path), do_convert_rgb=True))
        loaded = np.array(load_image(path))
        tv = chw(tio.decode_image(path, mode=tio.ImageReadMode.RGB, apply_exif_orientation=True))
        mode = Image.open(path).mode
        if mode == "RGBA":
            plain = np.array(Image.open(path))
            assert np.array_equal(over_white(plain), pil_obj)
        rec = {"file": name, "pil_mode": mode, "bytes": os.path.getsize(path), "variants": {}}
        for v, arr in (("path", by_path), ("pil", pil_obj), ("load_image", loaded), ("torchvision", tv)):
            e = {"h": arr.shape[0], "w": arr.shape[1], "sha256": sha(arr)}
            if arr.dtype != np.uint8:
                e["dtype"] = str(arr.dtype)
            e["same_as_path"] = arr.dtype == np.uint8 and np.array_equal(arr, by_path)
            rec["variants"][v] = e
        use = {"path": by_path}
        if not rec["variants"]["pil"]["same_as_path"]:
            use["pil"] = pil_obj
        for v, arr in use.items():
            if arr.size <= spec.get("store_limit", 200000):
                tensors[f"decoded/{name}/{v}"] = arr
        cases = []
        for budget in spec.get("budgets", [70, 280]):
            proc = Gemma4UnifiedImageProcessor(max_soft_tokens=budget)
            for v, arr in use.items():
                source = path if v == "path" else Image.open(path)
                got = proc(proc.fetch_images([source]), return_tensors="pt")
                px = got["pixel_values"][0].numpy()
                pos = got["image_position_ids"][0].numpy()
                n = int(got["num_soft_tokens_per_image"][0])
                th, tw = target_size(arr.shape[0], arr.shape[1], budget)
                assert n == th // 48 * (tw // 48) and px.shape == (budget, 6912) and px.dtype == np.float32
                u8 = np.rint(px[:n] * 255).astype(np.uint8)
                assert np.array_equal(u8.astype(np.float32) * SCALE, px[:n])  # multiplication, exactly
                assert not px[n:].any() and (pos[n:] == -1).all()
                want = np.stack([np.arange(n) % (tw // 48), np.arange(n) // (tw // 48)], 1)
                assert np.array_equal(pos[:n], want)
                mine = resize_u8(arr, th, tw)
                assert np.array_equal(patchify(mine), u8), (name, budget, v)  # bit exact
                checked += 1
                pick = sorted({0, n // 2, n - 1} if spec.get("all_rows") else {n // 2})
                key = f"tokens/{name}/{v}/{budget}"
                tensors[key] = u8[pick]
                c = {"variant": v, "budget": budget, "h": th, "w": tw, "n": n,
                     "resized": (th, tw) != arr.shape[:2], "resized_sha256": sha(mine),
                     "pixel_values_sha256": sha(px[:n]), "position_ids_sha256": sha(pos),
                     "token_rows": pick, "tokens": key}
                if spec.get("store_resized") and budget == spec["store_resized"]:
                    c["resized_tensor"] = f"resized/{name}/{v}/{budget}"
                    tensors[c["resized_tensor"]] = mine
                cases.append(c)
        rec["cases"] = cases
        records.append(rec)
    # the size rule alone
    from transformers.models.gemma4_unified.image_processing_gemma4_unified import get_aspect_ratio_preserving_size
    rng = np.random.default_rng(inputs["seed"])
    sizes = [(h, w) for h, w in inputs["sizes"]]
    while len(sizes) < inputs["n_sizes"]:
        top = int(rng.choice([8, 64, 600, 5000, 20000]))
        sizes.append((int(rng.integers(1, top + 1)), int(rng.integers(1, top + 1))))
    table = []
    for h, w in sizes:
        row = [h, w]
        for budget in (70, 140, 280, 560, 1120):
            t = get_aspect_ratio_preserving_size(h, w, 16, budget * 9, 3)
            assert t == target_size(h, w, budget)
            row += list(t)
        table.append(row)
    # one-dimensional vectors of the resize rule, straight from torchvision
    from torchvision.transforms.v2 import functional as F
    vectors = []
    for row, outs in inputs["resize_rows"]:
        src = np.array(row, np.uint8)
        for m in outs:
            t = F.resize(torch.from_numpy(src)[None, None, :].repeat(3, 1, 1), [1, m],
                         interpolation=F.InterpolationMode.BICUBIC, antialias=True)
            got = t[0, 0].numpy()
            s, w, p = axis_weights(len(row), m)
            vectors.append({"in": row, "out": got.tolist(), "shift": p, "start": s.tolist(), "weights": w.tolist()})
            assert np.array_equal(resize_axis(src[:, None], m)[:, 0], got)
    grids = []
    for img, outs in inputs["resize_grids"]:
        src = np.array(img, np.uint8)
        for th, tw in outs:
            t = F.resize(torch.from_numpy(src)[None].repeat(3, 1, 1), [th, tw],
                         interpolation=F.InterpolationMode.BICUBIC, antialias=True)[0].numpy()
            assert np.array_equal(resize_u8(src[..., None].repeat(3, 2), th, tw)[..., 0], t)
            grids.append({"in": img, "out": t.tolist()})
    write_json(os.path.join(out, "images.json"),
               {"made_with": versions(), "images": records, "size_columns":
                "H W then h w for budgets 70 140 280 560 1120", "sizes": table,
                "resize_rows": vectors, "resize_grids": grids},
               ("images", "sizes", "resize_rows", "resize_grids"))
    save_tensors(tensors, os.path.join(out, "images.safetensors"))
    print(f"images: {len(records)} files, {checked} processor cases, resize rule bit exact in all")


# ---------------------------------------------------------------- audio

def make_audio(path, spec, rng):
    import soundfile as sf
    import soxr
    rate, ch = spec["rate"], spec.get("channels", 1)
    if spec["kind"] == "speech":
        tmp = path + ".tmp.wav"
        subprocess.run(["espeak-ng", "-v", spec.get("voice", "en"), "-w", tmp, spec["text"]], check=True)
        x, sr = sf.read(tmp, dtype="float64")
        os.remove(tmp)
        x = soxr.resample(x, sr, rate) if sr != rate else x
        if "samples" in spec:
            x = np.resize(x, spec["samples"])
    else:
        n = spec["samples"]
        t = np.arange(n) / rate
        if spec["kind"] == "tones":
            x = sum(a * np.sin(2 * np.pi * f * t + i) for i, (f, a) in enumerate(spec["tones"]))
        elif spec["kind"] == "chirp":
            f0, f1 = spec["range"]
            x = 0.7 * np.sin(2 * np.pi * (f0 * t + (f1 - f0) * t * t / (2 * max(t[-1], 1e-9))))
        elif spec["kind"] == "noise":
            x = np.clip(rng.normal(0, 0.2, n), -1, 1)
        else:
            x = np.zeros(n)
    if ch > 1:
        x = np.stack([x * (0.9 if c == 0 else 0.5) * (1 if c % 2 == 0 else -0.7) if c else x
                      for c in range(ch)], 1)
        x[:, 1] = np.roll(x[:, 1], 37)
    sf.write(path, x, rate, subtype=spec.get("subtype"), format=spec.get("format"))


def band_error(a, b, rate, edge=800):
    """Relative L2 distance of two 16 kHz signals, without the edges, below min(7000, 0.42 rate) Hz."""
    top = min(7000, 0.42 * rate)
    n = min(len(a), len(b))
    if n < 4 * edge:
        return None
    a, b = a[edge:n - edge].astype(np.float64), b[edge:n - edge].astype(np.float64)
    w = np.hanning(len(a))
    k = int(top * len(a) / 16000)
    fa, fb = np.fft.rfft(a * w)[:k], np.fft.rfft(b * w)[:k]
    norm = np.linalg.norm(fa)
    return float(np.linalg.norm(fa - fb) / norm) if norm else None


def audio(inputs, out):
    from transformers import Gemma4UnifiedAudioFeatureExtractor
    from transformers.audio_utils import load_audio
    import soundfile as sf
    folder = os.path.join(out, "audio")
    os.makedirs(folder, exist_ok=True)
    fe = Gemma4UnifiedAudioFeatureExtractor()
    tensors, records, waves = {}, [], {}
    for k, spec in enumerate(inputs["audio"]):
        name = spec["name"]
        path = os.path.join(folder, name)
        make_audio(path, spec, np.random.default_rng(inputs["seed"] * 1000 + 500 + k))
        info = sf.info(path)
        wave = load_audio(path, sampling_rate=16000, backend="soundfile")
        alt = load_audio(path, sampling_rate=16000, backend="torchcodec")
        waves[name] = wave
        got = fe(wave, return_tensors="np")
        feat, mask = got["input_features"][0], got["input_features_mask"][0]
        n = math.ceil(len(wave) / 640)
        assert feat.shape == (n, 640) and feat.dtype == np.float32 and mask.all() and len(mask) == n
        assert np.array_equal(feat.reshape(-1)[:len(wave)], wave) and not feat.reshape(-1)[len(wave):].any()
        lossy = info.subtype in ("VORBIS", "OPUS", "MPEG_LAYER_III")
        rec = {"file": name, "rate": info.samplerate, "channels": info.channels, "frames": info.frames,
               "subtype": info.subtype, "samples_16k": len(wave), "n_tokens": n,
               "exact": info.samplerate == 16000 and not lossy, "waveform_sha256": sha(wave),
               "features_sha256": sha(feat), "peak": float(np.abs(wave).max()) if len(wave) else 0.0}
        m = min(len(wave), len(alt))
        norm = float(np.linalg.norm(wave[:m]))
        rec["torchcodec"] = {
            "samples_16k": len(alt), "equal": len(alt) == len(wave) and bool(np.array_equal(alt, wave)),
            "gain": float(np.dot(alt[:m], wave[:m]) / norm ** 2) if norm else None}
        g = rec["torchcodec"]["gain"] or 1.0
        rec["torchcodec"]["rel_l2_after_gain"] = float(np.linalg.norm(alt[:m] / g - wave[:m]) / norm) if norm else None
        rec["torchcodec"]["rel_in_band"] = band_error(wave, alt / g, info.samplerate)
        if len(wave) <= 80000:
            rec["waveform"] = f"wave/{name}"
            tensors[rec["waveform"]] = wave
        records.append(rec)
    batch = [r["file"] for r in records if r["n_tokens"] < 200][:4]
    got = fe([waves[b] for b in batch], return_tensors="np")
    f, m = got["input_features"], got["input_features_mask"]
    assert all(not f[i][~m[i]].any() for i in range(len(batch)))
    cut = fe([waves[b] for b in batch], max_length=3, padding="max_length", return_tensors="np")
    rows = {"files": batch, "shape": list(f.shape), "mask_sums": m.sum(1).tolist(), "features_sha256": sha(f),
            "max_length_3": {"shape": list(cut["input_features"].shape),
                             "mask_sums": cut["input_features_mask"].sum(1).tolist(),
                             "features_sha256": sha(cut["input_features"])}}
    write_json(os.path.join(out, "audio.json"), {"made_with": versions(), "clips": records, "batch": rows}, ("clips",))
    save_tensors(tensors, os.path.join(out, "audio.safetensors"))
    print(f"audio: {len(records)} clips")
    for r in records:
        print("   ", r["file"], r["samples_16k"], r["n_tokens"], r["torchcodec"])


# ---------------------------------------------------------------- video

def video(inputs, out):
    import torch
    from PIL import Image
    from transformers import Gemma4UnifiedVideoProcessor
    folder = os.path.join(out, "video")
    os.makedirs(folder, exist_ok=True)
    tensors, records = {}, []
    for spec in inputs["videos"]:
        name = spec["name"]
        path = os.path.join(folder, name)
        subprocess.run(["ffmpeg", "-y", "-v", "error", "-f", "lavfi", "-i", spec["source"], *spec["args"],
                        "-bitexact", "-map_metadata", "-1", path], check=True)
        rec = {"file": name, "bytes": os.path.getsize(path), "cases": []}
        proc = Gemma4UnifiedVideoProcessor()
        for case in spec["cases"]:
            c = {"options": case}
            try:
                got = proc([path], return_tensors="pt", return_metadata=True, **case)
            except Exception as e:
                c["error"] = f"{type(e).__name__}: {e}"
                rec["cases"].append(c)
                continue
            meta = got["video_metadata"][0]
            idx = [int(i) for i in meta.frames_indices]
            total = meta.total_num_frames
            nf = case.get("num_frames") or 32
            assert idx == [i * total // nf for i in range(nf)]
            raw = proc.fetch_videos(path, sample_indices_fn=lambda metadata, **k: np.array(idx))[0].numpy()
            frames = np.ascontiguousarray(raw.transpose(0, 2, 3, 1))  # [T, H, W, 3]
            budget = case.get("max_soft_tokens", 70)
            px = got["pixel_values_videos"].numpy()
            pos = got["video_position_ids"].numpy()
            n = int(got["num_soft_tokens_per_video"][0])
            th, tw = target_size(frames.shape[1], frames.shape[2], budget)
            assert px.shape == (len(idx), budget, 6912) and n == th // 48 * (tw // 48)
            mine = np.stack([patchify(resize_u8(f, th, tw)) for f in frames])
            assert np.array_equal(mine.astype(np.float32) / np.float32(255), px[:, :n])  # division, exactly
            want = np.stack([np.arange(n) % (tw // 48), np.arange(n) // (tw // 48)], 1)
            assert all(np.array_equal(p[:n], want) and (p[n:] == -1).all() for p in pos)
            stamps = [f"{int(s // 60):02d}:{int(s % 60):02d}" for s in meta.timestamps]
            c.update({"fps": float(meta.fps), "total_frames": total, "indices": idx, "timestamps": stamps,
                      "height": frames.shape[1], "width": frames.shape[2], "h": th, "w": tw, "n_per_frame": n,
                      "decoded_sha256": sha(frames), "resized_tokens_sha256": sha(mine),
                      "pixel_values_sha256": sha(px[:, :n]), "position_ids_sha256": sha(pos),
                      "token_rows": [[0, 0], [len(idx) // 2, n // 2], [len(idx) - 1, n - 1]]})
            key = f"tokens/{name}/{len(rec['cases'])}"
            tensors[key] = np.stack([mine[a, b] for a, b in c["token_rows"]])
            c["tokens"] = key
            strip = f"{os.path.splitext(name)[0]}.{len(rec['cases'])}.frames.png"
            Image.fromarray(frames.reshape(-1, frames.shape[2], 3)).save(os.path.join(folder, strip), optimize=True)
            c["frames_png"] = strip
            rec["cases"].append(c)
        records.append(rec)
    # frame indices alone
    from transformers.video_utils import VideoMetadata
    rng = np.random.default_rng(inputs["seed"] + 9)
    proc = Gemma4UnifiedVideoProcessor()
    rows = []
    for _ in range(inputs["n_index_rows"]):
        total, nf = int(rng.integers(1, rng.choice([40, 400, 100000]))), int(rng.integers(1, 65))
        if total >= nf:
            got = proc.sample_frames(VideoMetadata(total_num_frames=total, fps=25.0), num_frames=nf)
            rows.append([total, nf, [int(i) for i in got]])
    write_json(os.path.join(out, "video.json"),
               {"made_with": versions(), "videos": records, "index_columns": "total, num_frames, indices",
                "indices": rows}, ("videos", "indices"))
    save_tensors(tensors, os.path.join(out, "video.safetensors"))
    print(f"video: {len(records)} files,", [(r["file"], r["bytes"], [c.get("error", c.get("n_per_frame")) for c in r["cases"]]) for r in records])


# ---------------------------------------------------------------- full processor

def processor(inputs, out, tokenizer_path, template_path):
    from transformers import (Gemma4UnifiedAudioFeatureExtractor, Gemma4UnifiedImageProcessor,
                              Gemma4UnifiedProcessor, Gemma4UnifiedVideoProcessor, PreTrainedTokenizerFast)
    tok = PreTrainedTokenizerFast(
        tokenizer_file=tokenizer_path, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        unk_token="<unk>", padding_side="left", extra_special_tokens={
            "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
            "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"})
    proc = Gemma4UnifiedProcessor(
        feature_extractor=Gemma4UnifiedAudioFeatureExtractor(), image_processor=Gemma4UnifiedImageProcessor(),
        tokenizer=tok, video_processor=Gemma4UnifiedVideoProcessor(),
        chat_template=open(template_path, encoding="utf-8").read())
    cases = []
    for spec in inputs["prompts"]:
        c = {"name": spec["name"], "messages": spec["messages"], "options": spec.get("options", {})}
        real = json.loads(json.dumps(spec["messages"]))
        for conv in real if isinstance(real[0], list) else [real]:
            for m in conv:
                for part in m["content"] if isinstance(m["content"], list) else []:
                    for key, sub in (("image", "images"), ("audio", "audio"), ("video", "video")):
                        if key in part:
                            part[key] = os.path.join(out, sub, part[key])
        opts = dict(c["options"])
        opts["processor_kwargs"] = {"load_audio_backend": "soundfile", **opts.get("processor_kwargs", {})}
        try:
            got = proc.apply_chat_template(real, tokenize=True, return_dict=True, return_tensors="np", **opts)
        except Exception as e:
            c["error"] = f"{type(e).__name__}: {e}".replace(out, "")
            cases.append(c)
            continue
        c["input_ids"] = got["input_ids"].tolist()
        c["mm_token_type_ids"] = got["mm_token_type_ids"].tolist()
        c["attention_mask"] = got["attention_mask"].tolist()
        for key in ("pixel_values", "image_position_ids", "pixel_values_videos", "video_position_ids",
                    "input_features", "input_features_mask"):
            if key in got:
                c[key] = {"shape": list(np.array(got[key]).shape), "sha256": sha(np.array(got[key]))}
        cases.append(c)
    write_json(os.path.join(out, "processor.json"), {"made_with": versions(), "cases": cases}, ("cases",))
    print("processor:", [(c["name"], c.get("error", np.array(c.get("input_ids", [])).shape)) for c in cases])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--inputs", required=True)
    ap.add_argument("--tokenizer", required=True, help="small-tokenizer.json")
    ap.add_argument("--template", required=True, help="gemma4-12b-it.jinja")
    ap.add_argument("--out", required=True)
    ap.add_argument("--only", nargs="*", default=["images", "audio", "video", "processor"])
    args = ap.parse_args()
    with open(args.inputs, encoding="utf-8") as f:
        inputs = json.load(f)
    os.makedirs(args.out, exist_ok=True)
    if "images" in args.only:
        images(inputs, args.out)
    if "audio" in args.only:
        audio(inputs, args.out)
    if "video" in args.only:
        video(inputs, args.out)
    if "processor" in args.only:
        processor(inputs, args.out, args.tokenizer, args.template)


if __name__ == "__main__":
    main()
