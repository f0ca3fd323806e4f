"""What CONTRIBUTING says of renaming a node: newer hosts can be told of it, older ones cannot."""

import pytest
from comfy_api.latest import io

from tests.server.conftest import local


@pytest.fixture
def saved_before(object_info):
    """A prompt with a node and an input by the names that family_nodes says they had."""
    _, options = object_info["FamilyModel"]["input"]["required"]["case"]
    inputs = {"name": options["options"][0]}
    old = {"class_type": "FamilyNetwork", "inputs": inputs, "_meta": {"title": "old"}}
    report = {"class_type": "BiGainReport", "inputs": {"model": ["1", 0], "after": ["1", 0]}}
    return {"1": old, "2": {**report, "_meta": {"title": "report"}}}


def test_a_workflow_with_the_old_name_runs_where_the_host_knows_of_replacements(
    server, saved_before
):
    answer = local().post(f"{server.url}/prompt", json={"prompt": saved_before}, timeout=60)
    if not hasattr(io, "NodeReplace"):
        assert "FamilyNetwork" in answer.json()["error"]["message"]
        return
    done = server.ended(answer.json()["prompt_id"])
    assert done.succeeded, done.entry
    assert done.text("2") == "BiGain: no compression on this model."
    (offered,) = server.get("/node_replacements").json()["FamilyNetwork"]
    assert offered["new_node_id"] == "FamilyModel"  # what a browser offers to replace it by
