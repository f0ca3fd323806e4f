"""Where in the denoising process a noise level of the host lies."""

import comfy.model_sampling as host
import pytest
import torch
from bigain.bigain_core.comfyui.patching.progress import NoiseLevel, progress_at_sigma

from tests.devices import DEVICE, StandIn

KINDS = (
    host.ModelSamplingDiscrete,
    host.ModelSamplingContinuousEDM,
    host.ModelSamplingContinuousV,
    host.ModelSamplingDiscreteFlow,
    host.ModelSamplingFlux,
    host.StableCascadeSampling,
)


@pytest.mark.parametrize("kind", KINDS)
def test_progress_is_the_percent_of_a_sigma_and_never_waits_for_the_models_device(kind):
    asked = []

    class Sampling(kind):
        def percent_to_sigma(self, percent):
            asked.append(self)
            return super().percent_to_sigma(percent)

    sampling = Sampling()
    for percent in (0.0, 0.05, 0.2, 0.25, 0.5, 0.777, 0.95, 1.0):
        sigma = float(sampling.percent_to_sigma(percent))
        asked.clear()
        assert progress_at_sigma(sampling, sigma).fraction == pytest.approx(percent, abs=2e-6)
        assert asked and sampling not in asked
        asked.clear()
        progress_at_sigma(sampling, sigma)
        assert not asked, "a level that comes again is not searched again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_noise_level_and_the_first_flag_are_read_in_one_wait(dtype):
    sampling = host.ModelSamplingDiscreteFlow()
    for flags in ((True, False), (False, True)):
        with StandIn() as device:
            level = NoiseLevel(sampling, torch.full((2,), 0.75, dtype=dtype).to(DEVICE))
            first, second = (torch.tensor(flag).to(DEVICE) for flag in flags)
            device.waits.clear()
            assert level.confirms(first) is flags[0]
            assert level.progress() == progress_at_sigma(sampling, 0.75)
            assert len(device.waits) == 1
            assert level.confirms(second) is flags[1]
        assert len(device.waits) == 2
