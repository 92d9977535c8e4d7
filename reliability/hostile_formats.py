"""Good files of every format that the program reads, ways to damage each where it hurts, and pickles in disguise."""

import io
import json
import os
import pickle
import random
import struct
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import tomli_w
import torch

from aits_func.edge.checkpoint import with_digest
from aits_func.edge.initial_condition_files import save_system
from aits_func.physics.known_orbits import known_orbit

from .mutations import damage_bytes, damage_tree, nasty_value

MARKER = "executed"  # the folder that appears where a pickle's code is run
TINY = {
    "systems": [{"kind": "binaries", "count": 2, "label": "two"}, "good.json"],
    "hidden": [4],
    "epochs": 2,
    "steps_per_epoch": 3,
    "replay_steps": 2,
}
WITH_MEMORY = TINY | {
    "systems": [{"kind": "gaussian_cluster", "count": 2, "dimensions": 3}],
    "features": "rich",
    "history_len": 1,
    "policy": "mlp",
    "optimizer": "levenberg_marquardt",
}
SIMULATE = {"checkpoint": "run", "systems": ["figure_eight", {"kind": "binaries", "t_end": 0.2, "label": "a/b"}]}
RULES = [
    {"name": "η", "criterion": "p_norm", "p": 2.0, "scheme": "direct", "integrator": "yoshida4", "tolerances": [1.0]},
    {"checkpoint": "run", "order": 2},
]
FIELD = {"kind": "tidal", "mass": 1.0, "position": [50.0, 0.0], "velocity": [0.0, 0.1]}
CONFIGS: tuple[dict[str, Any], ...] = (
    {"train": TINY, "simulate": SIMULATE},
    {"train": WITH_MEMORY | {"fourier_features": 2, "normalize_inputs": "auto"}, "simulate": SIMULATE},
    {"G": 1.0, "softening": 0.01, "train": TINY | {"field": FIELD, "decay_steps": 5}, "compare": {"rules": RULES}},
    {"compare": {"rules": RULES, "systems": ["pythagorean"], "t_end": 1.0, "resamples": 10, "compile": "off"}},
)


NAMED = """\
# G = 1, time = 2.5, eps = 0.01
# id, x[au], y[au], vx (au/yr), vy (au/yr), mass_msun
1, 0, 0, 0, 0, 1.0D0
2, 1, 0, 0, "1.5", 1.5-003
"""
BODIES = [{"m": 1.0, "x": 0.0, "y": 0.0, "vx": 0.0, "vy": -0.5}, {"m": 1.0, "x": 1.0, "y": 0.0, "vx": 0.0, "vy": 0.5}]


class Bomb:
    """What makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARKER,)


def write_good_files(folder: Path) -> None:
    """Initial conditions and configurations, good ones, and paths that lead to no file."""
    for suffix in (".npy", ".txt", ".json"):
        save_system(folder / f"good{suffix}", known_orbit("pythagorean"))
    save_system(folder / "good_3d.npy", known_orbit("outer_solar_system"))
    (folder / "good_named.txt").write_text(NAMED, encoding="utf-8")
    (folder / "good_bodies.json").write_text(json.dumps({"softening": 0.0, "bodies": BODIES}), encoding="utf-8")
    records = [tuple(body.values()) for body in BODIES]
    numpy.save(folder / "good_records.npy", numpy.array(records, dtype=[(name, float) for name in BODIES[0]]))
    for number, tables in enumerate(CONFIGS):
        (folder / f"config{number}.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    for name in ("pipe", "pipe.txt"):
        os.mkfifo(folder / name)
    for name in ("loop", "loop.npy"):
        os.symlink(name, folder / name)
    for name in ("folder", "folder.json"):
        (folder / name).mkdir()


def read_good_files(folder: Path) -> dict[str, list[bytes]]:
    """By format: what `write_good_files` and two trainings left."""
    patterns = {
        "checkpoint": "run*/checkpoint.safetensors",
        "config": "config*.toml",
        "npy": "good*.npy",
        "txt": "good*.txt",
        "json": "good*.json",
        "metrics": "run/metrics.jsonl",
    }
    return {kind: [path.read_bytes() for path in sorted(folder.glob(to))] for kind, to in patterns.items()}


def pickles() -> list[bytes]:
    """Pickles that run code where they are loaded: bare, in torch's files old and new, in NumPy's, behind a header."""
    plain = [pickle.dumps(Bomb(), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    files = []
    for write in (
        lambda to: torch.save({"weight": torch.zeros(2), "bomb": Bomb()}, to),
        lambda to: torch.save({"bomb": Bomb()}, to, _use_new_zipfile_serialization=False),
        lambda to: numpy.save(to, numpy.array([[Bomb()] * 5] * 2), allow_pickle=True),
        lambda to: numpy.savez(to, rows=numpy.array([Bomb()])),
    ):
        write(buffer := io.BytesIO())
        files.append(buffer.getvalue())
    return plain + files + [struct.pack("<Q", len(each)) + each for each in plain]


def damaged(rng: random.Random, kind: str, good: Mapping[str, Sequence[bytes]], bombs: Sequence[bytes]) -> bytes:
    """One hostile file of a format: a pickle in disguise, a good file with damaged bytes, or with a damaged content."""
    if rng.random() < 0.02:
        return rng.choice(bombs)
    data = rng.choice(good[kind])
    if rng.random() < 0.55:
        try:
            return _BY_CONTENT[kind](rng, data)
        except (TypeError, ValueError, RecursionError, AttributeError):  # what the format cannot write
            pass
    return damage_bytes(rng, data, [each for files in good.values() for each in files])


def split_checkpoint(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and its tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_checkpoint(header: Any, tensors: bytes) -> bytes:
    """The file of that header and those tensors, with the digest of them: damage that was done on purpose."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return with_digest(struct.pack("<Q", len(text)) + text + tensors)


def _damage_checkpoint(rng: random.Random, data: bytes) -> bytes:
    header, tensors = split_checkpoint(data)
    where = rng.random()
    if where < 0.1:  # the length of the header
        return struct.pack("<Q", rng.choice((0, 1, 7, 2**31, 10**8, 2**63, 2**64 - 1, len(data)))) + data[8:]
    if where < 0.3:
        return join_checkpoint(header, _damage_numbers(rng, tensors))
    if where < 0.6:  # the configuration, within the metadata
        metadata = header["__metadata__"]
        config = damage_tree(rng, json.loads(metadata["config"]))
        return join_checkpoint(header | {"__metadata__": metadata | {"config": json.dumps(config)}}, tensors)
    if where < 0.8:  # dtype, shape or place of one tensor
        name = rng.choice([each for each in header if each != "__metadata__"])
        return join_checkpoint(header | {name: damage_tree(rng, header[name])}, tensors)
    return join_checkpoint(damage_tree(rng, header), tensors)


def _damage_numbers(rng: random.Random, data: bytes) -> bytes:
    """Doubles, replaced by those of which arithmetic makes nothing good."""
    for _ in range(rng.randint(1, 4)):
        place = 8 * rng.randrange(len(data) // 8)
        value = rng.choice((float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 5e-324, -0.0, 0.0, -1.0))
        data = data[:place] + struct.pack("<d", value) + data[place + 8 :]
    return data


def _damage_array(rng: random.Random, data: bytes) -> bytes:
    (length,) = struct.unpack("<H", data[8:10])
    header, rows = data[10 : 10 + length], data[10 + length :]
    if rng.random() < 0.4:
        return data[: 10 + length] + _damage_numbers(rng, rows)
    descr = rng.choice(("|O", "<U0", "|V0", "<f2", ">i8", "<c16", "|b1", "<M8[s]", "<f16", "\x1b[2J", "(10000000,)<f8"))
    shape = rng.choice(((25 * 10**12, 5), (10**8, 5), (-2, 5), (2**63, 5), (0, 5), (), (2, 10**6), (10**400, 5), None))
    table: dict[str, Any] = {
        "descr": descr if rng.random() < 0.5 else "<f8",
        "fortran_order": rng.choice((True, False)),
        "shape": shape,
    }
    if rng.random() < 0.2:
        table["descr"] = [("a\n\x1b", "<f8"), ("b", "|O", (2, 2))]
    text = repr(table).encode() if rng.random() < 0.8 else damage_bytes(rng, header, [data])
    size = len(text) if rng.random() < 0.9 else rng.choice((0, 1, 65535))
    return data[:8] + struct.pack("<H", min(size, 65535)) + text + b"\n" + rows


def _damage_json(rng: random.Random, data: bytes) -> bytes:
    return json.dumps(damage_tree(rng, json.loads(data) | {"G": 1.0, "period": 3.0})).encode()


def _damage_toml(rng: random.Random, data: bytes) -> bytes:
    tables = tomllib.loads(data.decode())
    for _ in range(rng.choice((1, 1, 2))):
        tables = damage_tree(rng, tables)
    return tomli_w.dumps(tables).encode()


def _damage_metrics(rng: random.Random, data: bytes) -> bytes:
    lines = [json.loads(line) for line in data.splitlines()]
    number = rng.randrange(len(lines))
    key = rng.choice(list(lines[number]))
    lines[number] |= {key: nasty_value(rng, lines[number][key])}
    if rng.random() < 0.3:
        lines[number] = damage_tree(rng, lines[number])
    return "".join(json.dumps(line) + "\n" for line in lines * rng.choice((1, 2))).encode()


def _damage_text(rng: random.Random, data: bytes) -> bytes:
    words = data.decode().split(" ")
    words[rng.randrange(len(words))] = str(nasty_value(rng, 1.0))
    return " ".join(words).encode()


_BY_CONTENT: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "checkpoint": _damage_checkpoint,
    "config": _damage_toml,
    "npy": _damage_array,
    "txt": _damage_text,
    "json": _damage_json,
    "metrics": _damage_metrics,
}
