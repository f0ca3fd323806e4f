"""bigain_hybrid_and_presets.json: two nodes in a chain, presets, and every choice of a method."""

import pytest

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


def choices(object_info, node, name):
    kind, options = object_info[node]["input"]["required"][name]
    return kind if isinstance(kind, list) else options["options"]


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


@pytest.mark.parametrize(
    ("node", "count"), [("BiGainTokenMerging", 7), ("BiGainKVDownsampling", 10)]
)
def test_every_method_runs(reports, object_info, node, count):
    methods = choices(object_info, node, "method")
    assert len(methods) == count
    for method in methods:
        assert set(layers(reports(**{node: {"method": method}})[0])) == {1, 2, 3, 4}, method


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("BiGainTokenMerging", "scorer"),
        ("BiGainTokenMerging", "merge_mode"),
        ("BiGainTokenMerging", "cache_scope"),
        ("BiGainTokenMerging", "metric"),
        ("BiGainTokenMerging", "protect_mode"),
    ],
)
def test_every_choice_of_an_option_runs(reports, object_info, node, name):
    for choice in choices(object_info, node, name):
        changes = {name: choice, "protect": 0.2, "proportional": True}
        assert set(layers(reports(**{node: changes})[0])) == {1, 2, 3, 4}, choice


def test_every_preset_for_all_blocks_runs(reports, object_info):
    presets = choices(object_info, "BiGainAuto", "preset")
    everywhere = [p for p in presets if p.startswith("paper: Table") and "encoder" not in p]
    assert len(everywhere) > 20
    for preset in everywhere:
        assert set(layers(reports(BiGainAuto={"preset": preset})[1])) == set(range(BLOCKS)), preset


def test_the_preset_off_is_the_plain_model(reports):
    assert reports(BiGainAuto={"preset": "off"})[1] == ["BiGain: no compression on this model."]


def test_a_bad_curve_is_an_error_in_our_words(server, example, converted):
    prompt = converted(example(NAME), BiGainAlphaSchedule={"curve": "start 0.8"})
    message = server.run(prompt).message("execution_error")["exception_message"]
    assert message.startswith("BiGain: expected an alpha curve of `timestep: alpha` points")
