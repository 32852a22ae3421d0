"""Published encoders by name: what each is built of, how it wants its images, and on what terms its weights are given.

The weights are their publishers' and mostly behind a form, so the user brings the file and nothing is downloaded. What
is built here follows the publishers' own loading code and cards, which `source` names. It was tried with random weights
of the published names and shapes; loading the published files themselves was not tried.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.layers import SwiGLUPacked
from torch import nn
from torch.nn.functional import interpolate

from bundle.models.artefacts import load_weights
from bundle.models.feature_classifier import read_state

State = dict[str, torch.Tensor]
NON_COMMERCIAL = "CC BY-NC-ND 4.0, after a form"
GATED = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}  # the feed-forward part of DINOv2's larger networks


class ConvStem(nn.Module):
    """The patch embedding of CTransPath: two strided convolutions and a pointwise one in place of one of stride 4.

    Images [B, 3, S, S] -> [B, S / 4, S / 4, embed_dim], as timm's Swin transformer takes them.
    """

    def __init__(self, img_size: int, embed_dim: int, norm_layer: Callable[[int], nn.Module], **_: Any) -> None:
        super().__init__()
        layers, channels = [], 3
        for width in (embed_dim // 8, embed_dim // 4):
            layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.proj = nn.Sequential(*layers, nn.Conv2d(channels, embed_dim, 1))
        self.norm = norm_layer(embed_dim)
        self.grid_size = (img_size // 4, img_size // 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class AttentionPool(nn.Module):
    """The contrastive pooling of CONCH: one learned query attends to all tokens [B, N, context] -> [B, width]."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, width))
        self.attn = nn.MultiheadAttention(width, 8, kdim=context, vdim=context, batch_first=True)
        self.ln_q, self.ln_k, self.norm = nn.LayerNorm(width), nn.LayerNorm(context), nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens, query = self.ln_k(tokens), self.ln_q(self.query).expand(len(tokens), -1, -1)
        return self.norm(self.attn(query, tokens, tokens, need_weights=False)[0][:, 0])


@dataclass(frozen=True)
class Encoder:
    """A published encoder.

    Attributes:
        architecture: in words.
        trunk, arguments: timm's name, and what its weights want different.
        dimension: D, of the features.
        licence: of the weights.
        source: where they are.
        file: their name there.
        side: pixels a side of the images it takes.
        mean, std: that these are normalised by, of values in [0, 1].
        pooling: "token" (timm's own: class token, or mean for Swin), "token and mean" (class token beside the mean of
            the patches' tokens) or "attention".
        convert: from the file's names to those here; None for timm's own conversion.
    """

    architecture: str
    trunk: str
    dimension: int
    licence: str
    source: str
    file: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    side: int = 224
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    pooling: str = "token"
    convert: Callable[[State], State] | None = None


def from_transformers(weights: State) -> State:
    """The names of DINOv2 in Hugging Face's transformers, as timm has them; query, key and value become one."""
    names = (
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
        ("encoder.layer.", "blocks."),
        ("attention.output.dense.", "attn.proj."),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
    )
    found: State = {}
    parts: dict[str, State] = {}
    for name, tensor in weights.items():
        if match := re.fullmatch(r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", name):
            parts.setdefault(f"blocks.{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = tensor
        elif name != "embeddings.mask_token":
            for theirs, ours in names:
                name = name.replace(theirs, ours)
            found[re.sub(r"^layernorm\.", "norm.", name)] = tensor
    for name, three in parts.items():
        if len(three) == 3:
            found[name] = torch.cat([three[part] for part in ("query", "key", "value")])
    return found


def from_conch(weights: State) -> State:
    """The image side of CONCH, without what captions and texts need."""
    names = {
        "visual.trunk.": "",
        "visual.attn_pool_contrast.": "attention_pool.",
        "visual.ln_contrast.": "attention_pool.norm.",
    }
    return {
        ours + name.removeprefix(theirs): tensor
        for name, tensor in weights.items()
        for theirs, ours in names.items()
        if name.startswith(theirs)
    }


ENCODERS = {
    "uni2-h": Encoder(
        "ViT-H/14 with 8 registers, DINOv2",
        "vit_giant_patch14_224",
        1536,
        NON_COMMERCIAL,
        "huggingface.co/MahmoodLab/UNI2-h",
        "pytorch_model.bin",
        {**GATED, "depth": 24, "num_heads": 24, "embed_dim": 1536, "mlp_ratio": 5.33334, "init_values": 1e-5}
        | {"no_embed_class": True, "reg_tokens": 8},
    ),
    "phikon-v2": Encoder(
        "ViT-L/16, DINOv2",
        "vit_large_patch16_224",
        1024,
        "Owkin's non-commercial licence",
        "huggingface.co/owkin/phikon-v2",
        "model.safetensors",
        {"init_values": 1.0},
        convert=from_transformers,
    ),
    "virchow2": Encoder(
        "ViT-H/14 with 4 registers, DINOv2; class token beside the mean of the patches",
        "vit_huge_patch14_224",
        2560,
        NON_COMMERCIAL,
        "huggingface.co/paige-ai/Virchow2",
        "pytorch_model.bin or model.safetensors",
        {**GATED, "mlp_ratio": 5.3375, "init_values": 1e-5, "reg_tokens": 4},
        pooling="token and mean",
    ),
    "h-optimus-0": Encoder(
        "ViT-g/14 with 4 registers, DINOv2",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        "Apache-2.0, after a form",
        "huggingface.co/bioptimus/H-optimus-0",
        "pytorch_model.bin or model.safetensors",
        mean=(0.707223, 0.578729, 0.703617),
        std=(0.211883, 0.230117, 0.177517),
    ),
    "conch": Encoder(
        "ViT-B/16 of a CoCa, with its contrastive attention pooling before the projection",
        "vit_base_patch16_224",
        512,
        NON_COMMERCIAL,
        "huggingface.co/MahmoodLab/conch",
        "pytorch_model.bin",
        side=448,
        mean=OPENAI_CLIP_MEAN,
        std=OPENAI_CLIP_STD,
        pooling="attention",
        convert=from_conch,
    ),
    "gigapath": Encoder(
        "ViT-g/16, DINOv2; the tile encoder of Prov-GigaPath",
        "vit_giant_patch14_dinov2",
        1536,
        "Apache-2.0, after a form",
        "huggingface.co/prov-gigapath/prov-gigapath",
        "pytorch_model.bin",
        {"patch_size": 16},
    ),
    "ctranspath": Encoder(
        "Swin-T with a convolutional stem, contrastive",
        "swin_tiny_patch4_window7_224",
        768,
        "GPL-3.0",
        "github.com/Xiyue-Wang/TransPath",
        "ctranspath.pth",
        {"embed_layer": ConvStem},
    ),
    "dinov2": Encoder(
        "ViT-L/14, DINOv2, of natural images",
        "vit_large_patch14_dinov2",
        1024,
        "Apache-2.0",
        "github.com/facebookresearch/dinov2",
        "dinov2_vitl14_pretrain.pth",
    ),
}


class EncoderNetwork(nn.Module):
    """RGB images [B, 3, S, S] in [-1, 1] to features [B, D] of a published encoder.

    Without weights until :meth:`load`: it is built without memory of its own, as the largest has 1.1 * 10^9 numbers.

    Args:
        name: a key of `ENCODERS`.
        smaller: arguments of timm that make another network of it, for tests.
    """

    def __init__(self, name: str, **smaller: Any) -> None:
        super().__init__()
        self.known = known = ENCODERS[name]
        arguments = {"img_size": known.side, **known.arguments, **smaller}
        # A Swin transformer has buffers that no file holds, and is small.
        with torch.device("cpu" if known.trunk.startswith("swin") else "meta"):
            self.trunk = timm.create_model(known.trunk, pretrained=False, num_classes=0, **arguments)
            if known.pooling == "attention":
                self.trunk.attention_pool = AttentionPool(self.trunk.num_features, known.dimension)
        for role in ("mean", "std"):
            colours = torch.tensor(getattr(known, role)).view(1, 3, 1, 1)
            self.register_buffer(role, colours, persistent=False)

    def converted(self, weights: State) -> State:
        """Weights of the published names by those of the trunk."""
        if self.known.convert is not None:
            return self.known.convert(weights)
        return sys.modules[type(self.trunk).__module__].checkpoint_filter_fn(weights, self.trunk)

    def load(self, path: str | Path) -> EncoderNetwork:
        """Takes the weights of a file, all of them.

        Raises:
            FileNotFoundError, ValueError: no such file, unreadable, or of another architecture; names tensors.
        """
        load_weights(self.trunk, self.converted(read_state(path)), path, assign=True)
        return self.float().eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        side = (self.known.side,) * 2
        if images.shape[-2:] != side:
            images = interpolate(images, side, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        images = (images * 0.5 + 0.5 - self.mean) / self.std
        if self.known.pooling == "token":
            return self.trunk(images)
        tokens = self.trunk.forward_features(images)
        if self.known.pooling == "attention":
            return self.trunk.attention_pool(tokens)
        return torch.cat([tokens[:, 0], tokens[:, self.trunk.num_prefix_tokens :].mean(1)], dim=1)

    def describe(self) -> dict[str, str]:
        """Plain facts: "architecture", "licence" and "source"."""
        known = self.known
        return {"architecture": known.architecture, "licence": known.licence, "source": known.source}
