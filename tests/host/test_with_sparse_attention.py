"""Beside the sparse attention of ComfyUI 0.38 and later, by a stand-in: what runs sparse.

The host's node puts an override into the options of every step, on top of what is there; ours comes
in with the network call, whatever the order of the nodes. It is dense before its start, with a
mask, and where queries and keys differ in shape; in MiniMax H3 it takes the place of a block's
attention, and no override is asked.
"""

from functools import partial

import pytest
import torch
from comfy.patcher_extension import WrappersMP

from tests.host.compressing import merge, pool, report
from tests.host.families import NAMED, for_cases, parametrized
from tests.host.families.case import sample
from tests.host.recording import OVERRIDE

SAID = "Sparse attention of another node cannot be sparse in layers "
CASES = for_cases([NAMED["wan"], NAMED["flux"]])
with_h3 = parametrized("case", {"minimax_h3": (NAMED["minimax_h3"],)})
WEIGHED = partial(merge, proportional=True)


class BlockSparseAttention:
    """Sparse from a share of the process on; `ran` are the calls: kind, number of queries."""

    def __init__(self, start=0.0):
        self.start, self.ran = start, []

    def on(self, model):
        model = model.clone()
        sampling = model.get_model_object("model_sampling")
        self.sigma = float(sampling.percent_to_sigma(self.start))
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "sparse", self.each_step)
        return model

    def each_step(self, executor, model, conds, x, sigma, options):
        previous = options.get("transformer_options", {}).get(OVERRIDE)

        def override(function, q, k, v, heads, *args, **kwargs):
            mask = args[0] if args else kwargs.get("mask")
            early = float(sigma.flatten()[0]) > self.sigma
            kind = "dense" if early or mask is not None or q.shape != k.shape else "sparse"
            self.ran.append((kind, q.shape[2 if kwargs.get("skip_reshape") else 1]))
            if previous is not None:
                return previous(function, q, k, v, heads, *args, **kwargs)
            return function(q, k, v, heads, *args, **kwargs)

        inner = {**options.get("transformer_options", {}), OVERRIDE: override}
        return executor(model, conds, x, sigma, {**options, "transformer_options": inner})

    def sparse_queries(self):
        return [tokens for kind, tokens in self.ran if kind == "sparse"]

    def sparse(self):
        return len(self.sparse_queries())


def run(case, ours, before=True, steps=1, **options):
    """A run with both nodes: the stand-in, and our report."""
    node = BlockSparseAttention(**options)
    model = ours(node.on(case.model)) if before else node.on(ours(case.model))
    sample(case, model, steps=steps, cfg=1.0)
    return node, report(model)


def alone(case, steps=1, **options):
    node = BlockSparseAttention(**options)
    sample(case, node.on(case.model), steps=steps, cfg=1.0)
    return node


@pytest.mark.parametrize("before", [True, False], ids=["before ours", "behind ours"])
@pytest.mark.parametrize("ours", [pool, WEIGHED], ids=["fewer keys", "weighed keys"])
@CASES
def test_layers_that_run_dense_because_of_us_are_named(case, ours, before):
    node, text = run(case, ours, before)
    layers = alone(case).sparse()
    assert node.sparse() == 0 and layers > 1
    assert (
        f"{SAID}0-{layers - 1}, in the calls" in text
        and "the order of the two nodes makes no" in text
    )


@CASES
def test_layers_without_us_stay_sparse(case):
    node, text = run(case, partial(pool, blocks="1"))
    assert node.sparse() == alone(case).sparse() - 1
    assert f"{SAID}1, in the calls" in text


@CASES
def test_merged_tokens_run_sparse_and_nothing_is_said(case):
    """The advice of the report holds: queries and keys are as many, and no mask is there."""
    node, text = run(case, merge)
    plain = alone(case)
    assert node.sparse() == plain.sparse() and SAID not in text
    assert max(node.sparse_queries()) < min(plain.sparse_queries())


@CASES
def test_steps_after_ours_run_sparse(case):
    """Start and end meet, as in the advice of the help page."""
    node, text = run(case, partial(pool, end_percent=0.5), steps=3, start=0.5)
    plain = alone(case, steps=3, start=0.5)
    assert node.sparse() == plain.sparse() > 0
    assert "layers compressed" in text and "CHANGED NOTHING" not in text


@with_h3
def test_where_it_has_the_attention_of_the_blocks_nothing_was_changed(case, monkeypatch):
    kind = type(case.model.model.diffusion_model.blocks[0].attn)

    def in_its_place(self, x, transformer_options, **kwargs):
        return kind.forward(self, x, transformer_options={}, **kwargs)

    model = pool(case.model)
    plain = sample(case, case.model, steps=1, cfg=1.0)
    monkeypatch.setattr(kind, "__call__", in_its_place)
    assert torch.equal(sample(case, model, steps=1, cfg=1.0), plain)
    text = report(model)
    assert "CHANGED NOTHING" in text and "sparse attention do" in text
