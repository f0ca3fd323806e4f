"""Key pairs where queries, keys and values are at hand: wired as written down."""

import pytest
from bigain.bigain_core.methods import KeyPairs
from bigain.bigain_core.schedules import DenoisingProgress
from bigain.bigain_core.tokens.centred_keys import keys_with_values
from bigain.bigain_core.tokens.grid import TokenGrid

from tests.host.compressing import pool, report
from tests.host.families import NAMED
from tests.host.families.case import sample
from tests.host.recording import OVERRIDE, Recorder, grid, layer_of
from tests.host.test_families import NOT_ROTARY, family_of


class WrittenOut(Recorder):
    """Attention of a case's layers with centred keys, by no kernel of the host's."""

    def __init__(self, case, size):
        super().__init__(case)
        self.case, self.size = case, size

    def record(self, function, args, kwargs, options):
        plain = super().record(function, args, kwargs, options)
        layer = layer_of(self.case, self.calls[-1].module)
        if layer not in self.case.layers:
            return plain
        q, k, v, heads = args[:4]
        if kwargs.get("skip_reshape"):
            q, k, v = (x.transpose(1, 2).flatten(2) for x in (q, k, v))
        _, rows, columns = grid(self.case, layer, self.size)
        found = keys_with_values(k, v)
        method = KeyPairs(0.75, centred=True)
        plan = method.plan(found, TokenGrid(rows, columns), DenoisingProgress(0.5), 0)
        k, v, bias = plan.attended(q, k, v, heads)
        q, k, v = (x.double().unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        logits = q @ k.mT * q.shape[-1] ** -0.5 + bias.double()[:, :, None]
        return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2).to(plain.dtype)


@pytest.mark.parametrize("name", ["dit", "pixart_alpha", "pixart_sigma"])
def test_keys_are_centred_on_the_queries_of_each_head(name):
    case = NAMED[name]
    assert family_of(case).name in NOT_ROTARY
    size = case.sizes[0]
    reference, plain = case.model.clone(), sample(case, case.model, size, steps=1)
    with WrittenOut(case, size) as recorder:
        reference.model_options["transformer_options"][OVERRIDE] = recorder.override
        expected = sample(case, reference, size, steps=1)
    model = pool(case.model, method="key pairs")
    found = sample(case, model, size, steps=1)
    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert (found - expected).norm() < 0.01 * (plain - expected).norm()
    assert "key pairs 0.75" in report(model)
