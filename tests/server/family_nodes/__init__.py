"""A node pack for the tests alone: the small models of tests/host/families.py in a graph.

The tests copy this folder beside the pack's own and name their repository in BIGAIN_REPOSITORY.
"""

import os
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import torch
from comfy_api.latest import ComfyAPI, ComfyExtension, io

CATEGORY = "tests"


def imported(name: str, file: Path):
    """By its path: the host has a package `tests` of its own, and its custom nodes no names."""
    spec = spec_from_file_location(name, file)
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@cache
def cases() -> dict:
    """The cases that this host can run, by name."""
    imported("bigain", Path(__file__).parents[1] / "bigain" / "__init__.py")  # for families.py
    repository = Path(os.environ["BIGAIN_REPOSITORY"])
    families = imported("families", repository / "tests" / "host" / "families.py")
    return {case.name: case for case in families.CASES if not case.missing}


def which() -> io.Input:
    return io.Combo.Input("case", options=list(cases()))


class FamilyModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FamilyModel",
            category=CATEGORY,
            inputs=[which()],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, case) -> io.NodeOutput:
        return io.NodeOutput(cases()[case].model)


class FamilyInputs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FamilyInputs",
            category=CATEGORY,
            inputs=[which()],
            outputs=[
                io.Conditioning.Output("positive"),
                io.Conditioning.Output("negative"),
                io.Latent.Output("latent"),
            ],
        )

    @classmethod
    def execute(cls, case) -> io.NodeOutput:
        chosen = cases()[case]
        latent = {"samples": torch.zeros_like(chosen.noise())}
        return io.NodeOutput(chosen.conditioning(0), chosen.conditioning(1), latent)


class FamilyNodes(ComfyExtension):
    async def on_load(self) -> None:
        """Say that FamilyModel was called FamilyNetwork, and its input `name`."""
        renamed = io.NodeReplace(
            new_node_id="FamilyModel",
            old_node_id="FamilyNetwork",
            old_widget_ids=["name"],
            input_mapping=[{"new_id": "case", "old_id": "name"}],
        )
        await ComfyAPI().node_replacement.register(renamed)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [FamilyModel, FamilyInputs]


async def comfy_entrypoint() -> ComfyExtension:
    return FamilyNodes()
