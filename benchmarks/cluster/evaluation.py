"""One worker: ComfyUI in its process, and a workflow whose BiGain Evaluate does one shard."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from benchmarks.host import enter_host, import_pack

KIND, SUFFIX = "BiGainEvaluate", ".jsonl"
LOADED = ("ckpt_name", "unet_name", "model_name")  # inputs of loaders that name a checkpoint
MODEL_FOLDERS = ("checkpoints", "diffusion_models")
LABELLED = ("BiGainPrompts", "BiGainDiTLabels")
UNLIMITED = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}  # what the executor is told of its cache


@dataclass(frozen=True)
class Task:
    """What the command line says; all paths are absolute."""

    workflow: Path
    host: Path
    folder: Path
    out: Path
    prompts: Path | None = None
    checkpoint: Path | None = None
    shards: int = 1
    cpu: bool = False

    def __post_init__(self):
        if self.out.suffix != SUFFIX:
            raise ValueError(f"expected results in a file NAME{SUFFIX}, got {self.out.name}.")

    @property
    def name(self) -> str:
        return self.out.stem

    @property
    def table(self) -> str:
        """The CSV file in the folder, as the saved workflow names it."""
        saved = json.loads(self.workflow.read_text("utf-8"))
        if "nodes" not in saved:
            (node,) = (node for node in saved.values() if node["class_type"] == KIND)
            return node["inputs"]["csv"]
        (node,) = (node for node in saved["nodes"] if node["type"] == KIND)
        return node["widgets_values"][1]


class Evaluation:
    """Does shards of a task; models stay loaded from one to the next."""

    def __init__(self, task: Task):
        self.task = task
        enter_host(task.host, task.cpu)
        import_pack()
        import folder_paths
        from bigain.nodes import BiGainExtension

        import nodes

        offered = asyncio.run(BiGainExtension().get_node_list())
        nodes.NODE_CLASS_MAPPINGS.update({one.GET_SCHEMA().node_id: one for one in offered})
        folder_paths.set_input_directory(str(task.folder.parent))
        folder_paths.set_output_directory(str(task.out.parent))
        task.out.parent.mkdir(parents=True, exist_ok=True)
        if task.checkpoint:
            for folder in MODEL_FOLDERS:
                folder_paths.add_model_folder_path(folder, str(task.checkpoint.parent))
        saved = json.loads(task.workflow.read_text("utf-8"))
        kinds = {one["type"] for one in saved["nodes"]} if "nodes" in saved else set()
        kinds |= {one["class_type"] for one in saved.values()} if "nodes" not in saved else set()
        if kinds - nodes.NODE_CLASS_MAPPINGS.keys():  # those that take long to import
            asyncio.run(nodes.init_extra_nodes(init_api_nodes=False))
        self.prompt = self._changed(_converted(saved, nodes.NODE_CLASS_MAPPINGS, kinds))
        (self.node,) = (n for n, one in self.prompt.items() if one["class_type"] == KIND)
        self.executor = _executor()

    def _changed(self, prompt: dict) -> dict:
        """With what the command line says in place of what was saved."""
        task = self.task
        for one in prompt.values():
            inputs = one["inputs"]
            if one["class_type"] == KIND:
                inputs |= {"folder": task.folder.name, "output": task.name, "shards": task.shards}
            if task.prompts and one["class_type"] in LABELLED:
                inputs["labels"] = task.prompts.read_text("utf-8")
            if task.checkpoint:
                inputs |= {name: task.checkpoint.name for name in LOADED if name in inputs}
        return prompt

    def __call__(self, shard: int) -> str:
        """Do a shard, from 1; the summary of all that is done so far."""
        self.prompt[self.node]["inputs"]["shard"] = shard
        named = {"client_id": "cluster"}  # to others ComfyUI 0.8.0 gives no texts of nodes
        self.executor.execute(self.prompt, f"shard {shard}", named, [self.node])
        if not self.executor.success:
            (message,) = (m for kind, m in self.executor.status_messages if "error" in kind)
            raise RuntimeError(message["exception_message"].strip())
        (text,) = self.executor.history_result["outputs"][self.node]["text"]
        return text


def _executor():
    """ComfyUI's own, without a server: what it has to tell goes nowhere."""
    from execution import CacheType, PromptExecutor

    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *message: None)
    return PromptExecutor(server, CacheType.CLASSIC, UNLIMITED)


def _converted(saved: dict, classes: dict, kinds: set[str]) -> dict:
    """A saved workflow, or one exported for the API, as a prompt."""
    if "nodes" not in saved:
        return saved
    from comfy_cli.workflow_to_api import convert_ui_to_api

    return convert_ui_to_api(
        saved, {kind: _info(kind, classes[kind]) for kind in kinds & {*classes}}
    )


def _info(kind: str, one) -> dict:
    """What the converter reads of a node's entry in the host's /object_info."""
    if hasattr(one, "GET_NODE_INFO_V1"):
        return one.GET_NODE_INFO_V1()
    inputs = one.INPUT_TYPES()
    order = {group: list(names) for group, names in inputs.items()}
    names = getattr(one, "RETURN_NAMES", one.RETURN_TYPES)
    output = {"output": one.RETURN_TYPES, "output_name": names}
    return {"name": kind, "input": inputs, "input_order": order, **output}
