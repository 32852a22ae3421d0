"""The forward process against MONAI's scheduler and by hand."""

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from bundle.diffusion.schedule import NoiseSchedule


@pytest.mark.parametrize("kind, monai_name", [("scaled_linear", "scaled_linear_beta"), ("linear", "linear_beta")])
def test_alpha_bar_is_monais(kind, monai_name):
    scheduler = DDPMScheduler(num_train_timesteps=1000, schedule=monai_name, beta_start=0.0015, beta_end=0.0155)
    torch.testing.assert_close(
        NoiseSchedule(beta_schedule=kind).alpha_bar.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7
    )


def test_terminal_signal_is_the_papers():
    # 0.0155 leaves alpha_bar_T = 6.69e-4, LDM-4's 0.0195 leaves 1.42e-4.
    assert NoiseSchedule().alpha_bar[-1].item() == pytest.approx(6.69e-4, rel=2e-3)
    assert NoiseSchedule(beta_end=0.0195).alpha_bar[-1].item() == pytest.approx(1.42e-4, rel=5e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
def test_perfect_prediction_gives_back_the_noise(prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    latents, noise = torch.randn(6, 3, 4, 4), torch.randn(6, 3, 4, 4)
    timesteps = torch.tensor([0, 1, 100, 500, 900, 999])
    noisy = schedule.add_noise(latents, noise, timesteps)
    recovered = schedule.epsilon(schedule.target(latents, noise, timesteps), noisy, timesteps)
    torch.testing.assert_close(recovered, noise, rtol=1e-4, atol=1e-4)


def test_v_target_is_salimans_and_ho():
    schedule = NoiseSchedule(prediction_type="v")
    latents, noise, timesteps = torch.full((1, 1), 2.0), torch.full((1, 1), 3.0), torch.tensor([250])
    alpha_bar = schedule.alpha_bar[250].item()
    expected = alpha_bar**0.5 * 3.0 - (1 - alpha_bar) ** 0.5 * 2.0
    assert schedule.target(latents, noise, timesteps).item() == pytest.approx(expected, rel=1e-5)


def test_min_snr_weights_by_hand():
    timesteps = torch.tensor([0, 999])
    schedule = NoiseSchedule()
    ratio = schedule.alpha_bar / (1 - schedule.alpha_bar)
    weights = schedule.loss_weight(timesteps, min_snr_gamma=5.0)
    assert weights[0].item() == pytest.approx(5.0 / ratio[0].item(), rel=1e-5)  # SNR of 666 is cut to 5
    assert weights[1].item() == pytest.approx(1.0)  # SNR far below 5 stays whole
    for_v = NoiseSchedule(prediction_type="v").loss_weight(timesteps, min_snr_gamma=5.0)
    assert for_v[1].item() == pytest.approx(ratio[999].item() / (ratio[999].item() + 1), rel=1e-5)
    assert schedule.loss_weight(timesteps, None).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"timesteps": 0}, "timesteps"),
        ({"beta_start": 0.02, "beta_end": 0.01}, "beta_start"),
        ({"beta_schedule": "cosine"}, "cosine"),
        ({"prediction_type": "x"}, "prediction_type"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        NoiseSchedule(**arguments)


def test_description_rebuilds_the_schedule():
    schedule = NoiseSchedule(500, 0.001, 0.02, "linear", "v")
    again = NoiseSchedule(**schedule.describe())
    assert torch.equal(again.alpha_bar, schedule.alpha_bar) and again.prediction_type == "v"
