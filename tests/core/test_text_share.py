"""The table of docs/results.md on what text gains beside a pooled image."""

import pytest

from benchmarks import text_share


def test_weighing_gives_text_the_share_of_before(monkeypatch):
    monkeypatch.setattr(text_share, "SIDE", 16)
    _, _, *cells = text_share.row(16, 2)
    plain, pooled, _, weighed, _ = (float(cell.rstrip("%")) for cell in cells)
    # Of N + 16 keys alike on average, 16 are text; of N / 4 + 16 after pooling.
    assert plain == pytest.approx(100 * 16 / (256 + 16), rel=0.3)
    assert pooled == pytest.approx(100 * 16 / (64 + 16), rel=0.3)
    assert weighed == pytest.approx(plain, abs=1)
