"""Who may import whom: contracts in pyproject.toml; and each module has a name of its own."""

import sys
from collections import Counter
from pathlib import Path

from importlinter.cli import lint_imports

PACK = Path(__file__).resolve().parents[2]


def test_imports_keep_to_the_layers(monkeypatch, capsys):
    monkeypatch.chdir(PACK)
    monkeypatch.setattr(sys, "path", [str(PACK), *sys.path])
    code = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert code == 0, capsys.readouterr().out


def test_no_module_name_stands_twice_in_what_ships(shipped_files):
    names = Counter(path.stem for path in shipped_files if path.suffix == ".py")
    del names["__init__"]
    assert [name for name, count in names.items() if count > 1] == []
