"""Mutated input files: saved networks, transitions, logs of Dopamine, image files, and small files of a run."""

import gzip
import io
import json
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from flax.serialization import to_bytes
from safetensors.numpy import save_file

from campaign.damage import DAMAGES, of_another
from campaign.outcomes import Outcome, Tally
from dormant.cli.saved import saved, state_dict
from dormant.cli.scan import arrays
from dormant.experiments.comparison import GROUNDS, read_record
from dormant.experiments.methods import PLAIN, candidates
from dormant.lab.runs.folder import RunFolder, RunRefused
from dormant.lab.runs.lease import held_by_another_machine
from dormant.rl.data import dopamine, transitions
from dormant.supervised.images import FashionMNIST


class Input(NamedTuple):
    """A kind of input: functions that write and read its files, and whether its format has checksums."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    checked: bool


def _arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"dense/kernel": draw.normal(size=(4, 3)), "dense/bias": draw.normal(size=3)}


def _transitions(folder: Path) -> None:
    steps, flags = np.zeros((6, 2), bool), np.array([False, False, True] * 2)
    actions, rewards = np.arange(6) % 3, np.ones(6, np.float32)
    transitions.write(folder / "seed0.npz", transitions.Transitions(steps, actions, rewards, flags, flags, ~steps))


def _dopamine(folder: Path) -> None:
    columns = {
        "$store$_observation": np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2),
        "$store$_action": np.arange(20, dtype=np.int32) % 3,
        "$store$_reward": np.ones(20, np.float32),
        "$store$_terminal": (np.arange(20) % 7 == 6).astype(np.uint8),
        "add_count": np.array(19),
    }
    for name, column in columns.items():
        with gzip.open(folder / f"{name}_ckpt.0.gz", "wb") as stream:
            np.save(stream, column)


def _images(folder: Path) -> None:
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (folder / name).write_bytes(gzip.compress(struct.pack(">IIII", 2051, 2, 2, 2) + bytes(8)))


def _run(folder: Path) -> None:
    (folder / "timing.json").write_text(json.dumps({"agent_steps": 5, "seconds": 1.5}))
    holder = {"held": True, "count": 3, "machine": "another", "host": "a", "pid": 5}
    (folder / "lease-1").write_text(json.dumps(holder))


def _small_files(folder: Path) -> Any:
    held_by_another_machine(folder)
    return RunFolder(folder).timing


def _record(folder: Path) -> None:
    (folder / "smoke").mkdir()
    bench = GROUNDS["minatar"]["smoke"].bench
    chosen = {name: next(iter(candidates(name, bench, 1))) for name in (PLAIN, "redo")}
    record = {"suite": "minatar", "chosen": chosen, "cost": {"redo": 1.0}}
    (folder / "smoke" / "comparison.json").write_text(json.dumps(record))


def _pytorch(folder: Path) -> None:
    torch.save({name: torch.from_numpy(values) for name, values in _arrays().items()}, folder / "net.pt")


def _sb3(folder: Path) -> None:
    stream = io.BytesIO()
    torch.save({name: torch.from_numpy(values) for name, values in _arrays().items()}, stream)
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        archive.writestr("policy.pth", stream.getvalue())


INPUTS = {
    "scan, .npz": Input(
        lambda folder: np.savez(folder / "net.npz", **_arrays()), lambda folder: saved(folder / "net.npz"), True
    ),
    "scan, .npy": Input(
        lambda folder: np.save(folder / "x.npy", np.ones((5, 4))), lambda folder: arrays(folder / "x.npy"), False
    ),
    "scan, .safetensors": Input(
        lambda folder: save_file(_arrays(), folder / "net.safetensors"),
        lambda folder: saved(folder / "net.safetensors"),
        False,
    ),
    "scan, .msgpack": Input(
        lambda folder: (folder / "net.msgpack").write_bytes(to_bytes({"dense": _arrays()})),
        lambda folder: saved(folder / "net.msgpack"),
        False,
    ),
    "scan, .pt": Input(_pytorch, lambda folder: state_dict(folder / "net.pt"), False),
    "scan, .zip of SB3": Input(_sb3, lambda folder: state_dict(folder / "model.zip"), False),
    "transitions": Input(_transitions, lambda folder: transitions.read(folder / "seed0.npz"), True),
    "Dopamine's log": Input(_dopamine, lambda folder: dopamine.read(folder, 0, 0.99), True),
    "images": Input(_images, lambda folder: FashionMNIST(folder).load(1), True),
    "lease, timing": Input(_run, _small_files, False),
    "comparison": Input(_record, lambda folder: read_record(folder, "smoke"), False),
}


def hostile(draw: random.Random, file: Path) -> None:
    """Overwrites the file with a malicious header or content."""
    content = draw.choice((_huge_header, _objects, _encrypted, _unknown_method, _bomb, _deep, _same_names))(draw)
    if file.suffix == ".gz":
        content = gzip.compress(content)
    file.write_bytes(content)


def _header(shape: str, kind: str = "<f8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def _huge_header(draw: random.Random) -> bytes:
    shapes = ("(1000000000000,)", "(4294967296, 4294967296)", "(-1,)", "(9" + "9" * 30 + ",)", "('a',)", "(True,)", "5")
    return _header(draw.choice(shapes)) + bytes(64)


def _objects(draw: random.Random) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _archive(content: bytes, name: str = "dense/kernel.npy") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def _encrypted(draw: random.Random) -> bytes:
    content = bytearray(_archive(_header("(1,)") + bytes(8)))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def _unknown_method(draw: random.Random) -> bytes:
    content = bytearray(_archive(_header("(1,)") + bytes(8)))
    content[content.index(b"PK\x01\x02") + 10] = draw.choice((1, 9, 12, 98))
    return bytes(content)


def _bomb(draw: random.Random) -> bytes:
    return _archive(_header("(100000000000,)") + bytes(10_000_000))


def _deep(draw: random.Random) -> bytes:
    return _header("(" * 5_000 + "1" + ")" * 5_000)


def _same_names(draw: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("dense.npy", "other.npy"):
            archive.writestr(name, _header("(1,)") + bytes(8))
    return stream.getvalue().replace(b"other.npy", b"dense.npy")


def campaign(tally: Tally, number: int, seed: int) -> None:
    kinds = list(INPUTS)
    for case in range(number):
        if tally.takes("input", case):
            name = kinds[case % len(kinds)]
            with tempfile.TemporaryDirectory() as folder:
                one(tally, name, random.Random(f"{seed} {case}"), Path(folder), case)


def one(tally: Tally, name: str, draw: random.Random, folder: Path, case: int) -> None:
    kind, whole, damaged = INPUTS[name], folder / "whole", folder / "damaged"
    whole.mkdir()
    kind.write(whole)
    shutil.copytree(whole, damaged)
    files = sorted(file for file in damaged.rglob("*") if file.is_file())
    file = draw.choice(files)
    damage = draw.choice((*DAMAGES, None, None, None))
    if damage is None:
        hostile(draw, file)
    else:
        damage(draw, file, draw.choice(files))
    outcome, said = compared(kind, whole, damaged, swapped=damage is of_another)
    tally.add(name, outcome, f"{case}: {damage.__name__ if damage else 'hostile'} {file.name}", said)


def compared(kind: Input, whole: Path, damaged: Path, swapped: bool) -> tuple[Outcome, str]:
    try:
        found = kind.read(damaged)
    except (ValueError, OSError, RunRefused) as error:
        return ("refused", "") if str(error) and "Traceback" not in str(error) else ("traceback", repr(error))
    except Exception as error:
        return "traceback", repr(error)
    try:
        same = _bytes(found) == _bytes(kind.read(whole))
    except ValueError:  # the right outcome, because only the genuine images may be read
        return "wrong", "a damaged file was read"
    if same:
        return "recovered", ""
    # Accepts a swapped file, because a reader cannot know which of two valid files is intended.
    return ("wrong", "other numbers") if kind.checked and not swapped else ("accepted", "")


def _bytes(found: Any) -> bytes:
    if isinstance(found, dict):
        return b"".join(name.encode() + _bytes(value) for name, value in found.items())
    if isinstance(found, list | tuple):
        return b"".join(map(_bytes, found))
    return np.asarray(found).tobytes() if hasattr(found, "shape") else repr(found).encode()
