"""The report of a run in words."""

from collections import Counter

import pytest

from bigain_core.compression.report import NOT_CALLED, headline_data, report, report_data, summary
from bigain_core.compression.run_log import LayerRecord, RunLog
from bigain_core.placement import LayerId

ENCODER = LayerRecord("L-GTM 0.7", 20, 20, 4096, 1229, 1229, int(8e9), int(1e9))
MIDDLE = LayerRecord(calls=20, flops_before=int(2e9), flops_after=int(2e9))
DECODER = LayerRecord(
    "IE-KVD factor 2, alpha 0.9", 20, 10, 4095, 4095, 1023, int(4e9), int(2e9), 77, int(2e9)
)


@pytest.fixture
def log():
    layers = {
        LayerId(0, "encoder"): ENCODER,
        LayerId(1, "middle", 2): MIDDLE,
        LayerId(2, "decoder"): DECODER,
    }
    return RunLog("a UNet", layers)


def test_the_summary_counts_layers_and_operations(log):
    text = summary(log)
    assert text.startswith("BiGain on a UNet: 2 of 3 self-attention layers compressed")
    assert "4096 tokens -> 1229 queries and 1229 keys" in text
    assert "14 GFLOP -> 5 GFLOP per sample" in text and "64% saved" in text


def test_the_summary_bounds_the_gain_by_the_work_of_the_whole_network(log):
    log.networks[4, 64, 64] = (int(2e9), 10)  # 20 GFLOP in the run, of which 9 are saved
    assert "about 20 GFLOP, of which 55% remain" in summary(log)
    ceiling = 20 / (20 - 14 + 2)  # what is fixed in the decoder stays
    assert "at most 1.82x as fast" in summary(log)
    assert f"no tokens left in self-attention: {ceiling:.2f}x" in summary(log)
    assert "NO GAIN" not in summary(log)


def test_a_gain_too_small_to_notice_is_called_none(log):
    log.networks[4, 64, 64] = (int(30e9), 10)
    assert "Expect NO GAIN in speed at this size" in summary(log)


def test_a_run_that_compressed_nothing_says_so():
    text = summary(RunLog("a DiT", {LayerId(0, "encoder"): LayerRecord(calls=3)}))
    assert text.startswith("BiGain CHANGED NOTHING on a DiT: 0 of 1")


def test_a_run_that_compressed_nothing_gives_the_commonest_reason():
    log = RunLog(skipped=Counter({"rare": 1, "a mask": 3}))
    assert summary(log).endswith("Reason: a mask.")


def test_layers_that_another_patch_computes_are_counted(log):
    log.expect(LayerId(3, "decoder"), covered=True, found=True)
    assert "2 of 4 self-attention layers" in summary(log)
    last = report(log).splitlines()[-1]
    assert last.startswith("skipped 1 layers: another node computes their attention or leaves out")
    assert "TeaCache" in last and "PAG" in last and last.endswith("(3)")
    nothing = RunLog("a UNet")
    for number in (0, 1, 2, 5):
        nothing.expect(LayerId(number, "encoder"), covered=True, found=True)
    assert "Reason: another node computes" in summary(nothing)
    assert summary(nothing).endswith("(0-2, 5).")


def test_layers_that_were_replaced_are_told_from_those_that_were_not_called(log):
    log.expect(LayerId(3, "decoder"), covered=True, found=False)
    log.expect(LayerId(4, "decoder"), covered=True, found=True)
    log.expect(LayerId(5, "decoder"), covered=False, found=True)  # no rule asks for it
    called, replaced = report(log).splitlines()[-2:]
    assert called.startswith("skipped 1 layers: another node computes") and "(4)" in called
    expected = "skipped 1 layers: another node has put modules of its own in their place (3)"
    assert replaced == expected


def test_the_headline_is_the_gain_in_operations_of_the_whole_network(log):
    log.networks[4, 64, 64] = (int(2e9), 10)  # 20 GFLOP in the run, of which 9 are saved
    assert headline_data(log) == {
        "headline": f"{20 / 11:.2f}x fewer operations", "badge": "2 of 3 layers", "note": "",
        "verdict": "good",
    }  # fmt: skip


def test_without_the_whole_network_the_headline_says_what_it_counts(log):
    assert headline_data(log)["headline"] == f"{14 / 5:.2f}x fewer operations in self-attention"


def test_the_headline_is_poor_where_no_speed_is_gained(log):
    log.networks[4, 64, 64] = (int(30e9), 10)
    assert headline_data(log)["verdict"] == "poor"
    assert headline_data(log)["note"] == "Expect no gain in speed at this size."
    log.networks[4, 64, 64] = (int(2e9), 10)
    log.slower = {LayerId(0, "encoder"): "too small", LayerId(2, "decoder"): ""}
    assert headline_data(log)["verdict"] == "poor"
    assert headline_data(log)["note"].startswith("1 of these layers")


def test_the_headline_of_a_run_in_vain_has_the_reason():
    log = RunLog(skipped=Counter({"a mask": 3}), layers={LayerId(0, "encoder"): LayerRecord()})
    assert headline_data(log) == {
        "headline": "nothing changed", "badge": "0 of 1 layers", "note": "Reason: a mask.",
        "verdict": "none",
    }  # fmt: skip


def test_a_run_that_never_called_the_network_says_what_to_do():
    assert "no network call was seen" in report(RunLog())
    assert "Connect `after` to an output of the sampler" in report(RunLog())


def test_the_report_has_a_line_per_compressed_layer_and_per_reason(log):
    log.skipped["65 tokens where the image has 8 x 8"] += 4
    lines = report(log).splitlines()
    assert lines[0] == summary(log)
    assert len(lines) == 4
    assert "layer 0 (encoder, level 1): L-GTM 0.7" in lines[1]
    assert "4096 tokens -> 1229 queries, 1229 keys" in lines[1]
    assert "4095 tokens + 77 of text or references -> 4095 queries, 1023 keys" in lines[2]
    assert "in 10 of 20 calls" in lines[2]
    assert lines[3] == "skipped 4 calls: 65 tokens where the image has 8 x 8"


def test_the_data_of_the_report_say_what_its_text_says(log):
    log.skipped["an attention mask is in use"] = 3
    log.expect(LayerId(3, "decoder"), covered=True, found=True)  # never reached
    data = report_data(log)
    assert data["summary"] == summary(log)
    assert data.items() >= headline_data(log).items()
    first, second = data["layers"]
    assert first == {
        "layer": 0, "stage": "encoder", "level": 1, "method": "L-GTM 0.7", "tokens": 4096,
        "text_tokens": 0, "queries": 1229, "keys": 1229, "compressed": 20, "calls": 20,
    }  # fmt: skip
    assert (second["layer"], second["text_tokens"], second["keys"]) == (2, 77, 1023)
    assert (second["compressed"], second["calls"]) == (10, 20)
    assert data["skipped"] == [
        {"reason": "an attention mask is in use", "calls": 3},
        {"reason": f"{NOT_CALLED} (3)", "layers": 1},
    ]
    lines = report(log).splitlines()
    assert len(lines) == 1 + len(data["layers"]) + len(data["skipped"])
