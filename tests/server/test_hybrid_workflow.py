"""bigain_hybrid_and_presets.json: two nodes in a chain, and a preset, beside the plain images."""

import pytest

from tests.server.conftest import FEW_TOKENS, local

NAME = "bigain_hybrid_and_presets"
SMALL = {"BiGainDiTLoader": {"model_name": FEW_TOKENS}}
PUBLISHED = range(1, 6)  # of the six blocks of the bundled model


@pytest.fixture(scope="module")
def small(example, converted, node_ids):
    """The workflow with changes, and a report on the preset as well."""

    def make(steps=2, **changes):
        prompt = converted(example(NAME), **SMALL, **changes)
        (compare,), (preset,) = (node_ids(prompt, kind) for kind in ("BiGainCompare", "BiGainAuto"))
        prompt[compare]["inputs"]["steps"] = steps
        inputs = {"model": [preset, 0], "after": [compare, 2]}
        prompt["preset"] = {"class_type": "BiGainReport", "inputs": inputs}
        return prompt

    return make


@pytest.fixture(scope="module")
def reports(server, small, node_ids):
    """Runs the workflow with changes: the lines of the hybrid's and of the preset's report."""

    def run(**changes):
        prompt = small(**changes)
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


def test_the_preset_acts_in_the_published_blocks(as_shipped):
    assert layers(as_shipped[1]) == dict.fromkeys(PUBLISHED, "L-GTM 0.7")


def test_an_option_that_does_not_exist_is_an_error_in_our_words(server, small):
    """A prompt without the choice is one that the host takes as well."""
    for method in ("another", None):
        prompt = small(BiGainTokenMerging={"method": method})
        message = server.run(prompt).message("execution_error")["exception_message"]
        assert message.startswith("BiGain: expected one of L-GTM, ToMe, ")


def test_inputs_by_their_names_of_before_are_refused_by_the_host(server, small):
    """They would be left out, and the defaults taken in their place."""
    flat = {"method": "L-GTM", "scorer": "variance", "padding": "zeros", "metric": "normed"}
    prompt = small(BiGainTokenMerging=flat)
    refused = local().post(f"{server.url}/prompt", json={"prompt": prompt}).json()["node_errors"]
    missing = [e["details"] for node in refused.values() for e in node["errors"]]
    assert any(name.endswith("metric") for name in missing)


def test_the_preset_off_is_the_plain_model(reports):
    assert reports(BiGainAuto={"preset": "off"})[1] == ["BiGain: no compression on this model."]


def test_a_reused_model_is_reported_on_afresh(server, small, node_ids):
    """Only sampling runs again, with the patched models of the run before."""
    server.run(small())
    prompt = small(steps=3)
    done = server.run(prompt)
    patched = node_ids(prompt, "BiGainKVDownsampling") + node_ids(prompt, "BiGainAuto")
    assert set(patched) <= set(done.message("execution_cached")["nodes"])
    for number in node_ids(prompt, "BiGainReport"):
        lines = done.text(number).splitlines()[1:]
        assert lines and all(line.endswith(" in 3 of 3 calls") for line in lines)


def test_a_bad_curve_is_an_error_in_our_words(server, small):
    prompt = small(BiGainAlphaSchedule={"curve": "start 0.8"})
    message = server.run(prompt).message("execution_error")["exception_message"]
    assert message.startswith("BiGain: expected an alpha curve of `timestep: alpha` points")
