"""The report of a run in words."""

import pytest

from bigain_core.compression import RunLog, SiteRecord
from bigain_core.placement import Site
from bigain_core.report import report, summary

ENCODER = SiteRecord("L-GTM 0.7", 20, 20, 4096, 1229, 1229, int(8e9), int(1e9))
DECODER = SiteRecord("IE-KVD factor 2, alpha 0.9", 20, 10, 4096, 4096, 1024, int(4e9), int(2e9))


@pytest.fixture
def log():
    sites = {Site(0, "encoder"): ENCODER, Site(1, "middle", 2): SiteRecord(calls=20)}
    return RunLog(sites | {Site(2, "decoder"): DECODER})


def test_the_summary_counts_layers_and_operations(log):
    text = summary(log)
    assert "2 of 3 self-attention layers compressed" in text
    assert "12 -> 3 GFLOP" in text and "75% saved" in text


def test_a_run_that_compressed_nothing_says_so():
    text = summary(RunLog({Site(0, "encoder"): SiteRecord(calls=3)}))
    assert "CHANGED NOTHING" in text and "0 of 1" in text


def test_a_run_that_never_called_the_network_says_what_to_do():
    assert "no network call was seen" in report(RunLog())
    assert "connect the report behind the sampler" in report(RunLog())


def test_the_report_has_a_line_per_compressed_layer_and_per_reason(log):
    log.left_alone["65 tokens where the image has 8 x 8"] += 4
    lines = report(log).splitlines()
    assert lines[0] == summary(log)
    assert len(lines) == 4
    assert "layer 0 (encoder, level 1): L-GTM 0.7" in lines[1]
    assert "4096 tokens -> 1229 queries, 1229 keys" in lines[1]
    assert "in 10 of 20 calls" in lines[2]
    assert lines[3] == "left alone 4 times: 65 tokens where the image has 8 x 8"
