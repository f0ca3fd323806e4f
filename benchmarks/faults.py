"""Random user files, interruptions, damage, shapes and options: what breaks, and with which seed.

    python -m benchmarks.faults [--cases 2000] [--seconds 60] [--seed 0] [--kinds tables images ...]

Case n of a kind has the seed SEED + n. The first fault of a kind ends it and is printed with the
command that repeats it, and the exit status is 1. Needs no host.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unicodedata import normalize

import numpy as np
import torch
from PIL import Image

from bigain_core import methods, schedules
from bigain_core.classification import Budget, TrialPlan
from bigain_core.classification.datasets.evaluation import Job, Summary, comparison
from bigain_core.classification.datasets.image_folder import (
    IMAGE_SUFFIXES,
    LabelledImage,
    LabelledSet,
    UnreadableImageError,
    read_folder,
)
from bigain_core.classification.datasets.labels import read_labels
from bigain_core.classification.datasets.result_files import ResultFile, Results, read_results
from bigain_core.classification.results.ranking import RANKINGS
from bigain_core.comfyui.image_files import read_image
from bigain_core.placement import PLACEMENTS, named_placement
from bigain_core.text import csv_table
from bigain_core.tokens.grid import TokenGrid
from bigain_core.tokens.matching import AGGREGATES, DESTINATION_RULES
from bigain_core.tokens.plans import MERGE_MODES
from bigain_core.tokens.scoring import SCORERS
from bigain_core.tokens.selection import CELL_MODES, SELECTION_MODES

LETTERS = (
    "abz 019._-+=@'\"#%&()[]{}~,;\t\u00e9e\u0301\u00fc\u304c\uac00\u0130\ufb01\u5b57\U0001f431"
)
SIDE = 16  # of the squares that images are cut to
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "PA")
ODD = (0, -1, 1, 2, 3, 0.5, 1e-9, 1e308, float("nan"), float("inf"), -float("inf"), 2**63, -0.0)
SETTINGS = {"folder": "set", "prompts": ["ant", "\u00e9", "=bee"], "probe": 0.5}


def refused(work: Callable[[], object]):
    """What `work` gives, or None where it refuses in the words of the pack."""
    try:
        return work()
    except ValueError as error:
        if not str(error).startswith("BiGain: expected"):
            raise
        return None


# Files of users


def name(random: Random, letters: str = LETTERS) -> str:
    """A name that a disk takes, and that no reader would trim."""
    text = "".join(random.choices(letters, k=random.randint(1, 12)))
    return normalize(random.choice(("NFC", "NFD")), text).strip(" .\t") or "x"


def folders(random: Random, root: Path) -> None:
    """Class folders of odd names are read as they are; other files do not count."""
    wanted = {}
    for _ in range(random.randint(1, 6)):
        folder, file = name(random), name(random) + random.choice(sorted(IMAGE_SUFFIXES)).upper()
        path = root / "set" / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(4))
        path.with_suffix(".txt").touch()
        wanted[f"{folder}/{file}"] = (normalize("NFC", folder),)
    _check_set(read_folder(root, "set"), wanted)


def tables(random: Random, root: Path) -> None:
    """Lists of files and labels in any spelling of a spreadsheet."""
    (root / "set").mkdir()
    wanted, rows = {}, [("File Name", "label")]
    for number in range(random.randint(1, 6)):
        file = f"{number}{name(random)}.png"
        (root / "set" / file).touch()
        # An apostrophe in front of a sign would be that of a spreadsheet.
        letters = LETTERS.replace(";", "").replace("'", "")
        labels = [name(random, letters) for _ in range(random.randint(1, 3))]
        wanted[file] = tuple(dict.fromkeys(normalize("NFC", label) for label in labels))
        spelled = normalize(random.choice(("NFC", "NFD")), file)
        rows.append((spelled, ";".join(labels)))
    text, separator = io.StringIO(), random.choice(",;\t")
    ends = random.choice(("\n", "\r\n"))
    csv.writer(text, delimiter=separator, lineterminator=ends, quoting=csv.QUOTE_ALL).writerows(
        rows
    )
    encoding = random.choice(("utf-8", "utf-8-sig", "utf-16"))
    told = f"sep={separator}{ends}" if random.random() < 0.3 else ""
    (root / "set" / "list.csv").write_bytes((told + text.getvalue()).encode(encoding))
    _check_set(read_folder(root, "set", "list.csv"), wanted)
    (root / "set" / "ours.csv").write_text(csv_table(("file", "label"), rows[1:]), "utf-8")
    _check_set(read_folder(root, "set", "ours.csv"), wanted)


def _check_set(found: LabelledSet, wanted: dict[str, tuple[str, ...]]) -> None:
    named = {normalize("NFC", image.file): image.labels for image in found.images}
    assert named == {normalize("NFC", file): labels for file, labels in wanted.items()}
    assert all(len(found.content(image)) == 16 for image in found.images)


def damaged_tables(random: Random, root: Path) -> None:
    """Bytes of any kind where a list should be."""
    (root / "set").mkdir()
    good = 'file,label\n"a.png","x;y"\nb.png,z\n'.encode(random.choice(("utf-8", "utf-16")))
    (root / "set" / "list.csv").write_bytes(_damage(random, good))
    refused(lambda: read_folder(root, "set", "list.csv"))


def images(random: Random, root: Path) -> None:
    """Images of every kind and shape: the right colour, or unreadable; never anything else."""
    mode, size = random.choice(MODES), random.choices((1, 2, 7, 40, 3000), k=2)
    suffixes = {".png", ".tif", ".jpg", ".gif", ".bmp", ".webp", ".jp2", ".ico", ".tga", ".ppm"}
    path = root / f"image{random.choice(sorted(suffixes))}"
    pixels = np.full((min(size[1], 400), size[0], 3), random.randrange(256), np.uint8)
    try:
        image = Image.fromarray(pixels).convert("L").convert(mode)
        image.save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    except (OSError, ValueError, KeyError):  # not every format has every mode and size
        return
    found = read_image(path, SIDE)
    assert found.shape == (1, SIDE, SIDE, 3) and found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1
    if mode in ("L", "RGB", "RGBA") and path.suffix in (".png", ".tif", ".bmp", ".webp"):
        assert (found * 255 - float(pixels[0, 0, 0])).abs().max() < 1
    path.write_bytes(_damage(random, path.read_bytes()))
    try:
        assert read_image(path, SIDE).shape == (1, SIDE, SIDE, 3)
    except UnreadableImageError:
        pass


def _damage(random: Random, data: bytes) -> bytes:
    """Some bytes cut off, changed, put in or repeated."""
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(data) + 1)
        new = random.randbytes(random.randint(0, 5))
        rest = random.choice((data[place:], data[place + len(new) :], b"", data))
        data = data[:place] + new + rest
    return data


# Results that are interrupted


def _records(random: Random) -> list[dict]:
    files = dict.fromkeys(name(random) for _ in range(random.randint(1, 8)))
    return [{"file": file, "best": name(random), "margin": random.random()} for file in files]


def _write(path: Path, records: Iterable[dict]) -> None:
    with ResultFile(path, SETTINGS) as results:
        for record in records:
            if record["file"] not in results.records:
                results.add(record)


def truncations(random: Random, root: Path) -> None:
    """A run that is cut at any byte, again and again, ends like one that was not."""
    records, path = _records(random), root / "run.jsonl"
    _write(path, records)
    whole = path.read_bytes()
    for cut in random.choices(range(len(whole)), k=8):
        path.write_bytes(whole[:cut])
        _write(path, records)
        assert path.read_bytes() == whole, f"cut at byte {cut}"


def damaged_results(random: Random, root: Path) -> None:
    """Damage in a result file is named, or leaves records that are records."""
    path = root / "run.jsonl"
    _write(path, _records(random))
    data = _damage(random, path.read_bytes())
    path.write_bytes(data)
    found = refused(lambda: read_results(path))
    assert found is None or all(r["file"] == file for file, r in found.records.items())
    if refused(lambda: _write(path, ())) is None and not isinstance(found, Results):
        assert path.read_bytes() == data or path.read_bytes().count(b"\n") == 1


def odd_records(random: Random, root: Path) -> None:
    """A record with a field that is missing or of any kind counts whole or not at all."""
    files = [f"{number}.png" for number in range(3)]
    contents = dict.fromkeys(files, "0" * 16)
    found = {
        file: {
            "file": file, "content": contents[file], "labels": [label], "best": "ant",
            "right": label == "ant", "margin": 1.5, "confidence": 0.5, "calls": 20,
            "precision": dict.fromkeys(RANKINGS, 1.0), "ranked": [0, 1],
        }
        for file, label in zip(files, ("ant", "bee", "ant"), strict=True)
    }  # fmt: skip
    labelled = [LabelledImage(n, f, tuple(found[f]["labels"])) for n, f in enumerate(files)]
    field = random.choice([name for name in found["1.png"] if name != "file"])
    found["1.png"][field] = random.choice((None, True, 7, -0.5, "x", [], ["bee"], {}, {"a": 1}))
    if random.random() < 0.3:
        del found["1.png"][field]
    job = Job(LabelledSet(root, "set", tuple(labelled), contents=contents), ("ant", "bee"))
    whole = Summary(job, found)
    assert str(whole) and whole.class_table() and whole.image_table()
    assert len(whole.finished) + len(job.pending(found)) == 3
    assert "2 images" in comparison(whole.counted, {f: found[f] for f in ("0.png", "2.png")})


def kills(random: Random, root: Path) -> None:
    """A process that is killed while it writes leaves whole records, and the run goes on."""
    if not hasattr(os, "fork"):
        return
    records, path = [{"file": f"{n}.png", "best": "x" * 200} for n in range(400)], root / "r.jsonl"
    child = os.fork()
    if not child:
        _write(path, records)
        os._exit(0)
    time.sleep(random.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    _write(path, records)
    assert list(read_results(path).records.values()) == records


# Options and shapes


def options(random: Random, root: Path) -> None:
    """Whatever a saved workflow holds is taken or refused in words."""
    odd = [
        random.choice(ODD) if random.random() < 0.5 else random.randint(-3, 30) for _ in range(6)
    ]
    text = "".join(random.choices('0123456789-,.: \n;x=+\u00e9\ufeff"', k=random.randint(0, 20)))
    whole = [int(number) for number in odd if isinstance(number, int)] or [1]
    numbers = tuple(random.choices(whole, k=random.randint(0, 3)))
    keep = numbers[::-1] if random.random() < 0.5 else None
    for work in (
        lambda: named_placement(random.choice(list(PLACEMENTS)), whole[0], text, whole[-1]),
        lambda: schedules.AlphaCurve.from_text(text).at(500.0),
        lambda: schedules.ActiveRange(odd[0], odd[1]),
        lambda: read_labels(f"prompt,class\n{text}" if random.random() < 0.5 else text),
        lambda: TrialPlan(numbers, keep, budget=Budget(odd[2], odd[3]), seed=whole[0]).calls(5),
        lambda: methods.TokenMerging(odd[4]).is_identity,
        lambda: methods.KVSelection(ratio=odd[4]).is_identity,
        lambda: methods.KVDownsampling(whole[0]).is_identity,
        lambda: methods.Sharing(text, whole[0]),
    ):
        refused(work)


def some_method(random: Random) -> methods.Method:
    ratio, cell, scorer = random.random(), random.randint(1, 4), random.choice(list(SCORERS))
    mode = random.choice(MERGE_MODES)
    return random.choice(
        [
            methods.TokenMerging(
                ratio, random.choice(list(DESTINATION_RULES)), cell, mode=mode, scorer=scorer,
                protection=methods.Protection(random.random(), random.choice(SELECTION_MODES)),
            ),
            methods.BlockMerging(ratio, random.choice(list(AGGREGATES)), cell, mode, scorer=scorer),
            methods.SimilarityPruning(ratio, noise=random.random(), cell=cell),
            methods.KVDownsampling(cell, schedules.AlphaSchedule(random.random(), 1.2)),
            methods.KVSelection(random.choice(SELECTION_MODES), 0.99 * ratio, scorer=scorer),
            methods.KVCellSelection(random.choice(CELL_MODES), cell, random.random()),
        ]
    )  # fmt: skip


def plans(random: Random, root: Path) -> None:
    """A plan has the shapes it tells, and is linear: a matrix for each sample does the same."""
    method, grid = some_method(random), TokenGrid(random.randint(1, 12), random.randint(1, 12))
    batch, channels = random.randint(1, 3), random.randint(1, 5)
    generator = torch.Generator().manual_seed(random.randrange(2**32))
    x = torch.randn(batch, grid.tokens, channels, generator=generator)
    plan = method.plan(x, grid, schedules.DenoisingProgress(random.random()), 3)
    queries, context = plan.queries(x), plan.context(x)
    restored = plan.restore(queries)
    assert queries.shape == (batch, plan.query_tokens, channels) and restored.shape == x.shape
    assert context.shape == (batch, plan.context_tokens, channels)
    assert all(part.isfinite().all() for part in (queries, context, restored))
    if getattr(method, "mode", "mean") == "mlerp":  # keeps lengths: not linear
        return
    basis = torch.eye(grid.tokens).expand(batch, -1, -1)
    for step, found in ((plan.queries, queries), (plan.context, context)):
        torch.testing.assert_close(step(basis) @ x, found, rtol=1e-4, atol=1e-5)
    constant = torch.ones(batch, grid.tokens, 1)
    torch.testing.assert_close(plan.restore(plan.queries(constant)), constant)
    torch.testing.assert_close(plan.context(constant), torch.ones(batch, plan.context_tokens, 1))


KINDS: dict[str, Callable[[Random, Path], None]] = {
    work.__name__: work
    for work in (
        folders, tables, damaged_tables, images, truncations, damaged_results, odd_records,
        kills, options, plans
    )
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    kind: str
    cases: int
    seconds: float
    fault: str = ""
    seed: int = 0

    def __str__(self) -> str:
        result = f"seed {self.seed}: {self.fault}" if self.fault else "none"
        return f"| {self.kind} | {self.cases} | {self.seconds:.1f} | {result} |"


def run(kind: str, cases: int, seconds: float, seed: int = 0) -> Outcome:
    """So many cases of a kind, or those of so many seconds."""
    start = time.monotonic()
    for number in range(cases):
        if time.monotonic() - start > seconds:
            return Outcome(kind, number, time.monotonic() - start)
        try:
            with tempfile.TemporaryDirectory(prefix="faults") as folder:
                KINDS[kind](Random(seed + number), Path(folder))
        except Exception as error:
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
            return Outcome(kind, number + 1, time.monotonic() - start, text, seed + number)
    return Outcome(kind, cases, time.monotonic() - start)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000, help="of each kind at most")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each kind at most")
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| kind | cases | seconds | fault |\n| --- | --- | --- | --- |", flush=True)
    faults = []
    for kind in given.kinds:
        found = run(kind, given.cases, given.seconds, given.seed)
        print(found, flush=True)
        faults += [found] * bool(found.fault)
    for one in faults:
        print(f"python -m benchmarks.faults --kinds {one.kind} --seed {one.seed} --cases 1")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
