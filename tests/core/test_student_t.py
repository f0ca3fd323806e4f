"""The tail of Student's t."""

import pytest
import torch
from scipy.stats import t as student

from bigain_core.classification.elimination.student_t import student_tail


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 9, 12, 27, 108])
def test_the_tail_is_that_of_scipy(dof):
    values = torch.linspace(-9, 9, 61, dtype=torch.float64)
    expected = torch.tensor(student.sf(values.numpy(), dof))
    torch.testing.assert_close(student_tail(values, dof), expected, atol=1e-14, rtol=1e-9)


def test_infinite_differences_are_certain():
    tails = student_tail(torch.tensor([torch.inf, -torch.inf, 0.0]), 9)
    assert tails.tolist() == [0.0, 1.0, 0.5]
