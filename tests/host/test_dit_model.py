"""DiT files in the host: what the network's output means."""

import pytest
import torch
from bigain.bigain_core.comfyui.dit_model import CLASS_LABEL, load_dit_model
from safetensors.torch import load_file, save_file

from benchmarks.dit_runner import DiTRunner, load_dit
from bigain_core.models.checkpoint import read_checkpoint


@pytest.mark.parametrize("metadata", [{}, {"predicts": "v"}])
def test_the_host_denoises_as_the_runner_does(dit_checkpoint, tmp_path, metadata):
    path = tmp_path / "dit.safetensors"
    save_file(load_file(dit_checkpoint), path, metadata=metadata)
    model = load_dit_model(path).model
    runner = DiTRunner(load_dit(read_checkpoint(path)))
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 1])
    for timestep in (5, 700):
        noise = runner.predict_noise(noisy, timestep, labels)
        level = runner.signal[timestep]
        expected = (noisy - (1 - level).sqrt() * noise) / level.sqrt()
        sigma = ((1 - level) / level).sqrt()
        condition = model.extra_conds(**{CLASS_LABEL: labels}, device="cpu")["y"].cond
        found = model.apply_model(noisy / level.sqrt(), sigma.expand(2), y=condition)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
