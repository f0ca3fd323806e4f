"""bigain_hybrid_and_presets.json: two nodes in a chain, and a preset."""

import pytest

from tests.server.conftest import local

NAME = "bigain_hybrid_and_presets"
FEW_STEPS = {"KSampler": {"steps": 2}}
BLOCKS = 6  # of the bundled model


@pytest.fixture(scope="module")
def reports(server, example, converted, node_ids):
    """Runs the workflow with changes: the lines of the hybrid's and of the preset's report."""

    def run(**changes):
        prompt = converted(example(NAME), **FEW_STEPS, **changes)
        done = server.run(prompt)
        assert done.succeeded, done.entry
        return [done.text(number).splitlines() for number in node_ids(prompt, "BiGainReport")]

    return run


@pytest.fixture(scope="module")
def as_shipped(reports):
    return reports()


def layers(report):
    """{layer: what was done there}"""
    pairs = (line.split(": ", 1) for line in report[1:])
    return {int(place.split()[1]): done.split(", ")[0] for place, done in pairs}


def test_each_operator_of_the_hybrid_has_its_own_blocks(as_shipped):
    merged, pooled = "L-GTM 0.7", "IE-KVD factor 2"
    assert layers(as_shipped[0]) == {1: merged, 2: merged, 3: pooled, 4: pooled}
    assert sum("alpha curve of 2 points" in line for line in as_shipped[0]) == 2


def test_the_preset_acts_everywhere(as_shipped):
    assert layers(as_shipped[1]) == dict.fromkeys(range(BLOCKS), "IE-KVD factor 2")


def test_an_option_that_does_not_exist_is_an_error_in_our_words(server, example, converted):
    """A prompt without the choice is one that the host takes as well."""
    for method in ("another", None):
        prompt = converted(example(NAME), **FEW_STEPS, BiGainTokenMerging={"method": method})
        message = server.run(prompt).message("execution_error")["exception_message"]
        assert message.startswith("BiGain: expected one of L-GTM, ToMe, ")


def test_inputs_by_their_names_of_before_are_refused_by_the_host(server, example, converted):
    """They would be left out, and the defaults taken in their place."""
    flat = {"method": "L-GTM", "scorer": "variance", "padding": "zeros", "metric": "normed"}
    prompt = converted(example(NAME), **FEW_STEPS, BiGainTokenMerging=flat)
    refused = local().post(f"{server.url}/prompt", json={"prompt": prompt}).json()["node_errors"]
    missing = [e["details"] for node in refused.values() for e in node["errors"]]
    assert any(name.endswith("metric") for name in missing)


def test_the_preset_off_is_the_plain_model(reports):
    assert reports(BiGainAuto={"preset": "off"})[1] == ["BiGain: no compression on this model."]


def test_a_reused_model_is_reported_on_afresh(server, example, converted, node_ids):
    """Only the samplers run again, with the patched models of the run before."""
    server.run(converted(example(NAME), **FEW_STEPS))
    prompt = converted(example(NAME), KSampler={"steps": 3})
    done = server.run(prompt)
    patched = node_ids(prompt, "BiGainKVDownsampling") + node_ids(prompt, "BiGainAuto")
    assert set(patched) <= set(done.message("execution_cached")["nodes"])
    for number in node_ids(prompt, "BiGainReport"):
        lines = done.text(number).splitlines()[1:]
        assert lines and all(line.endswith(" in 3 of 3 calls") for line in lines)


def test_a_bad_curve_is_an_error_in_our_words(server, example, converted):
    prompt = converted(example(NAME), **FEW_STEPS, BiGainAlphaSchedule={"curve": "start 0.8"})
    message = server.run(prompt).message("execution_error")["exception_message"]
    assert message.startswith("BiGain: expected an alpha curve of `timestep: alpha` points")
