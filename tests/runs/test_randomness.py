"""Seeds as functions of place."""

import torch

from bundle.runs.randomness import ImageNoise, mix_seed, seed_step


def test_mixed_seeds_differ_and_repeat():
    seeds = [mix_seed(0, stage, step) for stage in range(3) for step in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert mix_seed(1, 2, 3) == mix_seed(1, 2, 3) and 0 <= mix_seed(1, 2, 3) < 2**63


def test_an_images_noise_does_not_depend_on_its_batch():
    together, alone = ImageNoise([5, 6, 7]), ImageNoise([6])
    first, second = together((3, 2, 4, 4)), together((3, 2, 4, 4))
    assert torch.equal(first[1], alone((1, 2, 4, 4))[0]) and torch.equal(second[1], alone((1, 2, 4, 4))[0])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], second[1])
    assert abs(ImageNoise(list(range(64)))((64, 3, 8, 8)).std().item() - 1) < 0.05


def test_each_step_draws_anew():
    draws = []
    for step in (1, 2, 1):
        seed_step(0, 1, step)
        draws.append(torch.randn(4))
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1])
