"""Published encoders: built as their cards say, loaded strictly under the published names, pooled as published.

With random weights; the published files are behind forms, so loading these was not tried.
"""

import dataclasses
import re

import pytest
import torch
from candidates import SIDE
from helpers import ROOT
from torch.nn.functional import scaled_dot_product_attention

from bundle.evaluation.encoders import ENCODERS, EncoderNetwork, from_conch
from bundle.evaluation.extractors import Extractors

# As their cards and papers give them, millions of numbers.
SIZES = {"uni2-h": 681, "phikon-v2": 303, "virchow2": 631, "h-optimus-0": 1135, "gigapath": 1135, "ctranspath": 27.5}
SIZES |= {"dinov2": 303, "conch": 87.4}
# Of each file what tells it from a file of another encoder.
PUBLISHED = {
    "uni2-h": {"reg_token": (1, 8, 1536), "pos_embed": (1, 256, 1536), "blocks.0.mlp.fc1.weight": (8192, 1536)},
    "virchow2": {"reg_token": (1, 4, 1280), "pos_embed": (1, 261, 1280), "blocks.0.mlp.fc1.weight": (6832, 1280)},
    "h-optimus-0": {"reg_token": (1, 4, 1536), "pos_embed": (1, 256, 1536), "blocks.0.ls1.gamma": (1536,)},
    "gigapath": {"pos_embed": (1, 197, 1536), "patch_embed.proj.weight": (1536, 3, 16, 16)},
    "conch": {
        "pos_embed": (1, 785, 768),
        "attention_pool.attn.k_proj_weight": (512, 768),
        "attention_pool.query": (1, 512),
    },
    "ctranspath": {"patch_embed.proj.6.weight": (96, 24, 1, 1), "layers.3.downsample.reduction.weight": (768, 1536)},
    "phikon-v2": {"pos_embed": (1, 197, 1024), "blocks.0.attn.qkv.bias": (3072,)},
    "dinov2": {"pos_embed": (1, 257, 1024), "patch_embed.proj.weight": (1024, 3, 14, 14)},
}
SMALL_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 4}
SMALL = {name: SMALL_VIT for name in ENCODERS} | {"ctranspath": {"embed_dim": 16, "depths": (1, 1, 1, 1)}}


def small(name):
    """A small network of the same kind with random weights."""
    torch.manual_seed(0)
    network = EncoderNetwork(name, **SMALL[name])
    network.trunk.to_empty(device="cpu") if name != "ctranspath" else None
    for tensor in network.trunk.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(0, 0.2)
    for part in network.trunk.modules():  # a variance is positive
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_var.abs_()
    return network.eval()


def published(name, weights):
    """Weights under the names that the publisher's file has, what it holds besides among them."""
    if name == "phikon-v2":
        found = {"embeddings.mask_token": torch.zeros(1, 32)}
        for own, tensor in weights.items():
            own = re.sub(r"^blocks\.", "encoder.layer.", own)
            own = own.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
            own = own.replace("pos_embed", "embeddings.position_embeddings").replace(
                "cls_token", "embeddings.cls_token"
            )
            own = own.replace("attn.proj", "attention.output.dense").replace("ls1.gamma", "layer_scale1.lambda1")
            own = re.sub(r"^norm\.", "layernorm.", own.replace("ls2.gamma", "layer_scale2.lambda1"))
            if "attn.qkv" in own:
                for part, third in zip(("query", "key", "value"), tensor.chunk(3)):
                    found[own.replace("attn.qkv", f"attention.attention.{part}")] = third
            else:
                found[own] = tensor
        return found
    if name == "conch":
        found = {"logit_scale": torch.tensor(1.0), "text.positional_embedding": torch.zeros(2, 3)}
        found |= {"visual.proj_contrast": torch.zeros(512, 512), "visual.ln_caption.bias": torch.zeros(768)}
        for own, tensor in weights.items():
            theirs = own.replace("attention_pool.norm.", "visual.ln_contrast.").replace(
                "attention_pool.", "visual.attn_pool_contrast."
            )
            found[theirs if theirs.startswith("visual") else f"visual.trunk.{own}"] = tensor
        return found
    if name == "ctranspath":  # downsampling at the end of a stage, and buffers that are no weights
        found = {
            re.sub(r"layers\.(\d)\.downsample", lambda at: f"layers.{int(at[1]) - 1}.downsample", own): tensor
            for own, tensor in weights.items()
        }
        return {"model": {**found, "layers.0.blocks.0.attn.relative_position_index": torch.zeros(2, 2)}}
    if name == "dinov2":
        return {**weights, "mask_token": torch.zeros(1, 32)}
    return dict(weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_each_has_the_size_that_is_published(name):
    """Whole, but without memory."""
    parameters = EncoderNetwork(name).trunk.parameters()
    assert sum(one.numel() for one in parameters) / 1e6 == pytest.approx(SIZES[name], rel=0.01)


@pytest.mark.parametrize("name", ENCODERS)
def test_each_has_the_shapes_that_are_published(name):
    """Of its first block; whole, but without memory."""
    trunk = EncoderNetwork(name, **({"depths": (1, 1, 1, 1)} if name == "ctranspath" else {"depth": 1})).trunk
    own = {tensor: tuple(value.shape) for tensor, value in trunk.state_dict().items()}
    assert PUBLISHED[name].items() <= own.items()
    assert ENCODERS[name].licence and ENCODERS[name].source.count("/") >= 2


@pytest.mark.parametrize("name", ENCODERS)
def test_a_file_of_the_published_names_is_taken_whole_and_no_other(name, tmp_path):
    made = small(name)
    path = tmp_path / "weights.pth"
    torch.save(published(name, made.trunk.state_dict()), path)
    loaded = EncoderNetwork(name, **SMALL[name]).load(path)
    for key, tensor in made.trunk.state_dict().items():
        assert torch.equal(loaded.trunk.state_dict()[key], tensor), key
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        found = loaded(images)
        assert torch.allclose(found, made(images), atol=1e-4) and found.isfinite().all() and found.std() > 0
    width = {"conch": 512, "virchow2": 64, "ctranspath": 128}.get(name, 32)
    assert found.shape == (2, width)
    lacking = published(name, dict(list(made.trunk.state_dict().items())[:-1]))
    torch.save(lacking, path)
    with pytest.raises(ValueError, match="made for another architecture: 1 tensors differ"):
        EncoderNetwork(name, **SMALL[name]).load(path)


def test_the_documents_list_what_the_code_has():
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", (ROOT / "docs" / "how-to" / "judge.md").read_text(), re.MULTILINE)
    assert dict(rows) == {
        name: f"{one.architecture} | {one.side} | {one.dimension} | {one.licence} | {one.source}"
        for name, one in ENCODERS.items()
    }


def test_tokens_are_pooled_as_published():
    images = torch.rand(1, 3, 224, 224) * 2 - 1
    network = small("virchow2")
    with torch.no_grad():
        tokens = network.trunk.forward_features((images * 0.5 + 0.5 - network.mean) / network.std)
        assert tokens.shape == (1, 5 + 256, 32)
        assert torch.allclose(network(images), torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1), atol=1e-5)
        network = small("conch")
        pool = network.trunk.attention_pool
        tokens = torch.randn(2, 7, 32)
        query, context = pool.ln_q(pool.query) @ pool.attn.q_proj_weight.T, pool.ln_k(tokens)
        bias = pool.attn.in_proj_bias.chunk(3)
        keys, values = context @ pool.attn.k_proj_weight.T + bias[1], context @ pool.attn.v_proj_weight.T + bias[2]
        heads = [one.reshape(*one.shape[:-1], 8, 64).transpose(-3, -2) for one in (query + bias[0], keys, values)]
        seen = scaled_dot_product_attention(heads[0].expand(2, -1, -1, -1), heads[1], heads[2])
        expected = pool.norm(pool.attn.out_proj(seen.transpose(1, 2).reshape(2, 512)))
    assert torch.allclose(pool(tokens), expected, atol=1e-4)


def test_query_key_and_value_stay_in_their_order():
    """By what transformers computes of them, written out."""
    made = small("phikon-v2")
    theirs = published("phikon-v2", made.trunk.state_dict())
    ours = made.converted(theirs)
    tokens = torch.randn(1, 3, 32)
    attention = made.trunk.blocks[1].attn
    attention.load_state_dict({key.removeprefix("blocks.1.attn."): ours[key] for key in ours if "s.1.attn." in key})
    place = "encoder.layer.1.attention.attention."
    of = [
        tokens @ theirs[f"{place}{part}.weight"].T + theirs[f"{place}{part}.bias"] for part in ("query", "key", "value")
    ]
    heads = [one.reshape(1, 3, 4, 8).transpose(1, 2) for one in of]
    seen = scaled_dot_product_attention(*heads).transpose(1, 2).reshape(1, 3, 32)
    dense = "encoder.layer.1.attention.output.dense"
    expected = seen @ theirs[f"{dense}.weight"].T + theirs[f"{dense}.bias"]
    assert torch.allclose(attention(tokens), expected, atol=1e-4)


def test_texts_and_captions_are_left_out():
    kept = from_conch({"visual.trunk.norm.bias": 0, "visual.attn_pool_caption.query": 0, "text.cls_emb": 0})
    assert kept == {"norm.bias": 0}


def test_by_name_and_file_it_is_an_extractor(monkeypatch, tmp_path):
    known = ENCODERS["uni2-h"]
    smaller = dataclasses.replace(known, arguments={**known.arguments, **SMALL_VIT}, side=28)
    monkeypatch.setitem(ENCODERS, "uni2-h", smaller)
    network = EncoderNetwork("uni2-h").trunk.to_empty(device="cpu")
    path = tmp_path / "file.bin"
    torch.save({key: torch.randn_like(tensor) * 0.1 for key, tensor in network.state_dict().items()}, path)
    made = Extractors([{"name": "uni2-h", "weights": str(path)}], SIDE, "adapted").networks
    facts = made[0].describe()
    assert facts["licence"].startswith("CC BY-NC-ND") and facts["source"].endswith("UNI2-h")
    assert facts["dimension"] == 32 and "to 28, mean [0.485" in facts["resize"].replace("(", "[")
    given = Extractors("judge_grey", SIDE, "adapted", extractor="uni2-h", extractor_weights=path)
    assert given.names == ["judge_grey", "uni2-h"]
    images = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    assert torch.equal(given._make(given.settings[1])(images), made[0](images))


@pytest.mark.parametrize(
    "name, weights, message",
    [
        ("uni2-h", None, "--extractor uni2-h lacks its weights: give --extractor_weights FILE, pytorch_model.bin of"),
        ("uni3", "a", "--extractor is 'uni3', which is no encoder known here: name one of uni2-h, phikon-v2"),
        (None, "a", "--extractor_weights is 'a' without --extractor: name one of uni2-h"),
    ],
)
def test_what_lacks_is_said(name, weights, message):
    with pytest.raises(ValueError, match=message):
        Extractors("judge_grey", SIDE, "adapted", extractor=name, extractor_weights=weights)


def test_a_missing_file_is_named_with_its_source():
    made = Extractors("judge_grey", SIDE, "adapted", extractor="conch", extractor_weights="none.bin")
    with pytest.raises(
        FileNotFoundError, match="none.bin.*pytorch_model.bin of huggingface.co/MahmoodLab/conch.*--ext"
    ):
        made._make(made.settings[1])
