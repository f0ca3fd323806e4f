"""Sampling from several seeds with the host, of which only the best are finished."""

from __future__ import annotations

from dataclasses import replace

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..classification import Denoiser, ErrorSource, NoiseSchedule, SpreadGrid, TrialPlan, TrialSpec
from ..classification.evidence.seed_selection import (
    BestOfN,
    DropRules,
    JudgedFinalists,
    Prediction,
    best_first,
    expected_gains,
    gains_on_the_way,
    judge_finalists,
    time_shares,
)
from ..classification.trials.timesteps import spread_timesteps
from ..listener import SILENT, Listener
from .classifying.denoiser import check_latents, uncached, with_denoiser
from .classifying.noise_levels import host_levels
from .classifying.prompts import Prompts, check_prompts
from .interruption import interruptible
from .model_comparison import Sampling

KEY = "bigain_best_of_n"
USUAL_RULES = DropRules()


class _PausedError(Exception):
    """Leaves a sampling run that may be taken up again."""


class _Candidate:
    """One seed, sampled by the host as if it were alone.

    A run that is taken up again is begun anew and hears what the network answered before, so that
    it comes to the same image under any sampler.
    """

    def __init__(
        self, model: ModelPatcher, sampling: Sampling, levels: tuple[Tensor, NoiseSchedule],
        listener: Listener,
    ):  # fmt: skip
        self.model, self.sampling, self.listener = model, sampling, listener
        self.sigmas, self.schedule = levels
        self.answers: list[list[Tensor]] = []
        self.calls = 0

    def run(self, until: int | None = None, **options) -> Tensor | None:
        """The finished latent (1, C, ...), or None where it paused.

        It pauses at the first prediction for a timestep not above `until`. `timesteps` and `gains`
        are those of all predictions so far.
        """
        self.heard, predictions = 0, []
        self.predictions = predictions

        def on_step(step: int, clean: Tensor, *_) -> None:
            self.clean = clean
            if until is not None and predictions[-1].timestep <= until:
                raise _PausedError

        model = self.model.clone()
        model.set_model_sampler_post_cfg_function(self._note)
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, self._with_negative)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, self._ask)
        try:
            finished = self.sampling.run(model, on_step, **options)
        except _PausedError:
            finished = None
        self.timesteps = [one.timestep for one in predictions]
        self.gains = gains_on_the_way(predictions, self.clean[0], self.schedule)
        self.predictions = []
        return finished

    @property
    def score(self) -> float:
        return (time_shares(self.timesteps) * self.gains).sum().item()

    def _ask(self, executor, model, conds, x, timestep, options):
        """CALC_COND_BATCH wrapper: what was answered is not asked again."""
        if self.heard == len(self.answers):
            found = executor(model, conds, x, timestep, options)
            self.answers.append([one.to("cpu", copy=True) for one in found])
            calls = sum(len(cond) for cond in conds if cond is not None)
            self.calls += calls
            self.listener.on_calls(calls)
        found = self.answers[self.heard]
        self.heard += 1
        return [one.to(x.device, copy=True) for one in found]

    def _note(self, args: dict) -> Tensor:
        without = args["uncond_denoised"] if args["uncond"] is not None else None
        self._predicted(args["sigma"], args["cond_denoised"], without)
        return args["denoised"]

    def _predicted(self, sigma: Tensor, prompted: Tensor, unprompted: Tensor | None) -> None:
        distance = (self.sigmas.log() - sigma[0].cpu().log()).abs()
        pair = (None if one is None else one[0].cpu() for one in (prompted, unprompted))
        self.predictions.append(Prediction(int(distance.argmin()), *pair))

    def _with_negative(self, executor, x, timestep, model_options=None, seed=None):
        """PREDICT_NOISE wrapper: without guidance the host leaves the negative prompt out."""
        options = model_options or {}
        found = executor(x, timestep, options, seed)
        last, guider = self.predictions[-1], executor.class_obj
        if last.unprompted is None:
            conds = [None, guider.conds["negative"]]
            asked = comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, timestep, options)
            self.predictions[-1] = replace(last, unprompted=asked[1][0].cpu())
        return found


@torch.no_grad()
def best_of_n(
    model: ModelPatcher,
    sampling: Sampling,
    count: int,
    keep: int,
    trials: int,
    trial_seed: int = 0,
    listener: Listener = SILENT,
    *,
    rules: DropRules = USUAL_RULES,
    **options,
) -> tuple[BestOfN, Tensor]:
    """Which of `count` seeds, from that of `sampling` on, fit its positive prompt best.

    And the latents (keep, C, ...) of these, best first, each as the host's KSampler makes it.
    Scores are those of `rank_for_prompt` against the negative prompt. `options` go to the host's
    `sample`.

    Raises ValueError as `classify_latents` does, and for a latent of several images.
    """
    pair = Prompts(("positive", "negative"), (sampling.positive, sampling.negative))
    check_prompts(pair)
    latent = comfy.sample.fix_empty_latent_channels(model, sampling.latent["samples"])
    check_latents(model, latent)
    if len(latent) != 1:
        raise ValueError(
            f"BiGain: expected a latent of one image, got {len(latent)}. Each seed makes one "
            "image; to have more of them, raise `candidates`."
        )
    if keep >= count:
        raise ValueError(
            f"BiGain: expected to keep fewer seeds than are tried, got {keep} of {count}. Try more "
            "seeds or keep fewer."
        )
    model, plan = uncached(model), TrialPlan((trials,), seed=trial_seed, sampler=SpreadGrid())
    levels = host_levels(model)
    candidates = [
        _Candidate(model, replace(sampling, seed=(sampling.seed + k) % 2**64), levels, listener)
        for k in range(count)
    ]
    network, finished = model.get_model_object("diffusion_model"), {}
    with interruptible(network, model.load_device):
        alive, on_the_way = list(range(count)), [0.0] * count
        for timestep, share in rules.stages:
            for number in alive:
                candidates[number].run(timestep, **options)
                on_the_way[number] = candidates[number].score
            scores = [on_the_way[number] for number in alive]
            chosen = best_first(scores)[: rules.going_on(share, count, keep)]
            for row in {*range(len(alive))} - {*chosen}:
                candidates[alive[row]].answers = []
            alive = sorted(alive[row] for row in chosen)
        for number in alive:
            finished[number] = candidates[number].run(**options)
            candidates[number].answers = []
    going_on = [candidates[number] for number in finished]
    times = plan.sampler.timesteps(plan.trials)
    expected = torch.stack([expected_gains(one.timesteps, one.gains, times) for one in going_on])
    specs = [TrialSpec(*spread) for spread in spread_timesteps()[:trials]]

    def judge(denoiser: Denoiser, latents: Tensor) -> JudgedFinalists:
        sources = [ErrorSource(denoiser, latent, pair.labels, plan) for latent in latents]

        def gain(row: int, trial: int) -> float:
            positive, negative = sources[row].errors(specs[trial], [0, 1]).tolist()
            return negative - positive

        return judge_finalists(expected, gain, keep, rules.delta)

    latents = torch.cat(list(finished.values()))
    judged = with_denoiser(model, latents, pair, plan, listener, judge)
    found = BestOfN(
        seeds=tuple(candidate.sampling.seed for candidate in candidates),
        on_the_way=tuple(on_the_way),
        finalists=tuple(finished),
        judged=judged,
        keep=keep,
        sampling_calls=tuple(candidate.calls for candidate in candidates),
    )
    return found, torch.cat([finished[number] for number in found.best])
