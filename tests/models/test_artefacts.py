"""Weights that carry their architecture, and refuse what doesn't fit."""

import functools

import pytest
import torch
from monai.networks.nets import PatchDiscriminator

from bundle.models.artefacts import (
    build,
    build_from_definition,
    fingerprint,
    load_artefact,
    load_weights,
    read_artefact,
    require_same,
    save_artefact,
)
from bundle.models.classifiers import EncoderClassifier, HalfUNetClassifier

SMALL = functools.partial(
    PatchDiscriminator, spatial_dims=2, in_channels=3, out_channels=1, channels=4, num_layers_d=1, norm="BATCH"
)


def test_round_trip_gives_the_same_output_without_repeating_the_architecture(tmp_path):
    network = build(SMALL).eval()
    path = save_artefact(tmp_path / "d.pt", "discriminator", network, latent_scale=0.25, names=["a", "b"])
    again, facts = load_artefact(path, "discriminator")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(network(images)[-1], again(images)[-1]) and not again.training
    assert facts["latent_scale"] == 0.25 and facts["names"] == ["a", "b"]
    assert facts["definition"]["_target_"] == "PatchDiscriminator" and facts["definition"]["channels"] == 4


def test_a_definition_can_only_name_a_network(tmp_path):
    for target in ("os.system", "system", "spectral_norm", "Path", "HoVerNet"):
        with pytest.raises(ValueError, match="is not one of the networks that can be built"):
            build_from_definition({"_target_": target, "command": "true"})
    with pytest.raises(ValueError, match="refuses its arguments"):
        build_from_definition({"_target_": "PatchDiscriminator", "chanels": 4})


def test_classifiers_are_rebuilt_and_nothing_else_of_their_module(tmp_path):
    autoencoder = {"_target_": "AutoencoderKL", "spatial_dims": 2, "in_channels": 3, "channels": [8, 8]}
    autoencoder |= {"num_res_blocks": 1, "attention_levels": [False, False], "norm_num_groups": 4}
    pool = {"num_classes": 2, "side": 16, "head_channels": 8, "norm_groups": 4}
    levels = {"in_channels": 3, "channels": [8, 8], "attention_levels": [False, True], "num_res_blocks": 1}
    definitions = [functools.partial(HalfUNetClassifier, **levels, **pool)]
    definitions += [functools.partial(EncoderClassifier, autoencoder=autoencoder, extra_channels=[8], **pool)]
    images = torch.rand(2, 3, 16, 16)
    for definition, inputs in zip(definitions, [(images, torch.tensor([3, 700])), (images,)]):
        network = build(definition, seed=1).eval()
        again, _ = load_artefact(save_artefact(tmp_path / "c.pt", "classifier", network), "classifier")
        assert type(again) is definition.func and torch.equal(network(*inputs), again(*inputs))
    for target in ("AttentionPool", "TimeEmbedding", "AEKLResBlock", "nn"):
        with pytest.raises(ValueError, match="not one of the networks that can be built: .*EncoderClassifier"):
            build_from_definition({"_target_": target})


def test_other_architecture_is_refused_with_both_sides(tmp_path):
    weights = build(SMALL).state_dict()
    wider = build(functools.partial(SMALL, channels=8))
    with pytest.raises(ValueError, match=r"some\.pt was made for another architecture.*file \(8,\), network \(16,\)"):
        load_weights(wider, weights, "some.pt")


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        read_artefact(tmp_path / "nothing.pt", "autoencoder")
    truncated = tmp_path / "truncated.pt"
    save_artefact(truncated, "autoencoder", build(SMALL))
    truncated.write_bytes(truncated.read_bytes()[:500])
    with pytest.raises(ValueError, match="truncated.pt can't be read"):
        read_artefact(truncated, "autoencoder")
    other = tmp_path / "other.pt"
    torch.save({"state_dict": {}}, other)
    with pytest.raises(ValueError, match="other.pt is not an artefact"):
        read_artefact(other, "autoencoder")
    kind = save_artefact(tmp_path / "kind.pt", "diffusion", build(SMALL))
    with pytest.raises(ValueError, match="holds a diffusion, expected a autoencoder"):
        read_artefact(kind, "autoencoder")


def cyclic():
    found = {"_target_": "PatchDiscriminator"}
    found["channels"] = found
    return found


@pytest.mark.parametrize(
    "change, message",
    [
        ({"definition": None}, "None does not define a network"),
        ({"definition": [1, 2]}, "does not define a network"),
        ({"definition": {"channels": 4}}, "does not define a network: it has no class"),
        ({"definition": {"_target_": ["PatchDiscriminator"]}}, "is not one of the networks"),
        ({"definition": cyclic()}, "PatchDiscriminator refuses its arguments"),
        (
            {"definition": {**SMALL.keywords, "_target_": "PatchDiscriminator", "channels": "x"}},
            "refuses its arguments",
        ),
        ({"definition": {**SMALL.keywords, "_target_": "PatchDiscriminator", "channels": -1}}, "refuses its arguments"),
        ({"weights": [1, 2]}, "a.pt: its weights are no names with a tensor each"),
        ({"weights": {"a": 3}}, "a.pt: its weights are no names"),
        ({"weights": {"a": torch.zeros(2)}}, "a.pt was made for another architecture"),
        ({"fingerprint": ...}, "a.pt lacks its fingerprint: it is incomplete"),
        ({"kind": ...}, "a.pt lacks its kind"),
    ],
)
def test_incomplete_and_foreign_content_ends_in_a_sentence(tmp_path, change, message):
    content = torch.load(save_artefact(tmp_path / "a.pt", "discriminator", build(SMALL)), weights_only=True)
    content = {name: value for name, value in {**content, **change}.items() if value is not ...}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_artefact(tmp_path / "a.pt", "discriminator")
    assert "\n" not in str(caught.value)


def test_a_file_with_code_in_it_is_not_executed(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    path = tmp_path / "attack.pt"
    torch.save({"format": "histodiffusion/1", "kind": "autoencoder", "weights": Attack()}, path)
    with pytest.raises(ValueError, match="attack.pt"):
        read_artefact(path, "autoencoder")
    assert not (tmp_path / "harm").exists()


def test_fingerprint_tells_weights_apart():
    weights = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    same = {"b": torch.ones(1), "a": torch.zeros(2, 3)}
    assert fingerprint(weights) == fingerprint(same)
    changed = [{**weights, "a": torch.full((2, 3), 1e-30)}, {**weights, "a": torch.zeros(3, 2)}]
    changed += [{**weights, "a": torch.zeros(2, 3, dtype=torch.float16)}, {"c": weights["a"], "b": weights["b"]}]
    assert len({fingerprint(item) for item in [weights, *changed]}) == 5


def test_things_that_do_not_belong_together():
    require_same("scale", "one", 0.5, "other", 0.5)
    with pytest.raises(ValueError, match="scale differs: one has 0.5, other has 0.6"):
        require_same("scale", "one", 0.5, "other", 0.6)


def test_initial_weights_follow_the_seed_and_leave_torchs_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = build(SMALL, seed=1), build(SMALL, seed=1), build(SMALL, seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert fingerprint(one.state_dict()) == fingerprint(same.state_dict()) != fingerprint(other.state_dict())
