"""ComfyUI in this process: its modules importable, and the pack as a package of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent


def enter_host(host: Path, cpu: bool) -> None:
    """Make the ComfyUI in the folder `host` importable, on the CPU if asked.

    The host comes first on the search path and the pack's own folder last, for both have a `nodes`.
    """
    others = [entry for entry in sys.path if Path(entry).resolve() != PACK]
    sys.path[:] = [str(host), *others, str(PACK)]

    import comfy.options
    import utils  # noqa: F401 - before the host's `nodes` puts a folder with another `utils` first

    comfy.options.enable_args_parsing(False)  # the command line belongs to the caller

    from comfy.cli_args import args

    args.cpu = cpu


def import_pack() -> None:
    """The pack as the package `bigain`: the host imports a folder of custom_nodes in this way."""
    spec = importlib.util.spec_from_file_location(
        "bigain", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["bigain"] = module
    spec.loader.exec_module(module)
