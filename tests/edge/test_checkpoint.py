"""Checkpoints: whole or not there at all, every leaf that does not fit named, and nothing in them executed."""

import json
import math
import os
import pickle
import re
import stat
import struct

import pytest
import torch

from aits_func.base.tree import named_leaves
from aits_func.base.types import Population, TrainState
from aits_func.edge.checkpoint import (
    FORMAT,
    MAX_HEADER,
    Metadata,
    load_checkpoint,
    other_dtypes,
    read_metadata,
    save_checkpoint,
    with_digest,
    write_atomically,
)
from aits_func.edge.config import InputError
from aits_func.learning.optimizers import adam
from aits_func.loops.collect import init_population, init_train_state
from aits_func.physics.gravity import build_gravity
from aits_func.physics.initial_conditions import binaries, free_fall_triple

safetensors = pytest.importorskip("safetensors.torch")

W = torch.ones(2)
CONFIG = {"epochs": 3, "systems": [{"kind": "binaries"}], "eta": 0.02}


def tree():
    """All the shapes of tree that a state has, in several dtypes."""
    return {
        "weight": torch.arange(6.0, dtype=torch.float64).reshape(2, 3),
        "layers": (torch.tensor([0.5, -0.0]), torch.tensor(3, dtype=torch.int64)),
        "state": {"empty": torch.zeros(0, 2, dtype=torch.float64), "mask": torch.tensor([True, False])},
        "nothing": (),
    }


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def save(path, it=None, epoch=2):
    save_checkpoint(path, tree() if it is None else it, config=CONFIG, seed=11, epoch=epoch)
    return path


@pytest.fixture
def path(tmp_path):
    return save(tmp_path / "a.safetensors")


def bits(tensor):
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).tolist() if tensor.ndim else tensor.item()


def assert_same(loaded, expected):
    left, right = named_leaves(loaded), named_leaves(expected)
    assert list(left) == list(right)
    for name, leaf in right.items():
        assert left[name].dtype == leaf.dtype, name
        assert left[name].shape == leaf.shape, name
        assert bits(left[name]) == bits(leaf), name


def refused(call, *arguments, **options):
    """The one-line message of an InputError, which must not be any other exception."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def rewrite(path, change):
    """Apply a function to the JSON header of a checkpoint, leaving its tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    new = change(header)
    text = json.dumps(header if new is None else new).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


# --- round trip


def test_a_tree_comes_back_bit_for_bit_with_its_structure(path):
    like = dict(reversed(tree().items()))
    loaded = load_checkpoint(path, like)
    assert_same(loaded, tree())
    assert loaded["nothing"] == ()
    assert isinstance(loaded["layers"], tuple)


def test_a_train_state_comes_back_as_one(tmp_path):
    population = init_population([binaries(1, 2), free_fall_triple(2, 3)], gravity=build_gravity(), history_len=2)
    params = {"w": torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    state = init_train_state(params, adam(1e-3), population)
    save(tmp_path / "a", state)
    loaded = load_checkpoint(tmp_path / "a", state)
    assert isinstance(loaded, TrainState)
    assert isinstance(loaded.population[1], Population)
    assert_same(loaded, state)


def test_views_and_shared_memory_are_saved_as_what_they_show(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    views = {"transposed": base.T, "row": base[1], "expanded": base[0, 0].expand(2, 2), "whole": base}
    assert_same(load_checkpoint(save(tmp_path / "a", views), views), views)


def test_a_part_of_a_checkpoint_is_loaded_by_its_prefix(path):
    assert_same(load_checkpoint(path, tree()["state"], prefix="state."), tree()["state"])


def test_the_tree_that_it_is_loaded_into_gives_names_and_shapes_only(path):
    like = tree()
    like["weight"] = torch.full((2, 3), float("nan"), dtype=torch.float64)
    before = like["weight"].clone()
    loaded = load_checkpoint(path, like)
    assert torch.equal(loaded["weight"], tree()["weight"])
    assert bits(like["weight"]) == bits(before)


# --- metadata


def test_metadata_says_what_it_was_made_of(tmp_path):
    population = init_population([binaries(1, 2), free_fall_triple(2, 3, dimensions=3)], gravity=build_gravity())
    save(tmp_path / "a", init_train_state({"w": torch.zeros(1)}, adam(1e-3), population), epoch=5)
    assert read_metadata(tmp_path / "a") == Metadata(CONFIG, 11, 5, torch.__version__, ((2, 2), (3, 3)))


def test_metadata_is_read_without_the_tensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    path.write_bytes(data[: 8 + length])
    assert read_metadata(path).epoch == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"config": "{"},
        {"config": "3"},
        {"config": "[1]"},
        {"config": None},
        {"seed": "x"},
        {"epoch": "1.5"},
        {"config": "[" * 100_000},
        {"config": '[["epochs", 1]]'},
        {"epoch": "-1"},
        {"seed": "9" * 5000},
    ],
)
def test_damaged_metadata_is_an_input_error(path, damage):
    def change(header):
        header["__metadata__"] |= {key: value for key, value in damage.items() if value}
        for key in [key for key, value in damage.items() if not value]:
            del header["__metadata__"][key]

    rewrite(path, change)
    assert refused(read_metadata, path).startswith(f"{path}: the checkpoint's metadata is damaged")


@pytest.mark.parametrize("config", [{"a": 2**63}, {"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}])
def test_a_configuration_that_cannot_be_ours_is_an_input_error(path, config):
    rewrite(path, lambda header: header["__metadata__"].update(config=json.dumps(config)))
    message = refused(read_metadata, path)
    assert message.startswith((f"{path}: holds an integer of more than 64 bits", f"{path}: is nested more than 16"))


@pytest.mark.parametrize("shape", [5, [], ["x", "y"], None, [math.inf, 2], [True, 2], [2.5, 2]])
def test_a_damaged_shape_is_an_input_error(path, shape):
    rewrite(path, lambda header: header.update({"p.sample.system.position": {"shape": shape}}))
    assert "metadata is damaged" in refused(read_metadata, path)


def test_another_version_of_the_format_is_refused_with_both_numbers(path):
    rewrite(path, lambda header: header["__metadata__"].update(format_version="9"))
    message = refused(load_checkpoint, path, tree())
    assert message == f"{path}: checkpoint format version 9, this program reads 2; use the release that wrote it"


@pytest.mark.parametrize("header", [[], {}, {"__metadata__": 3}, {"__metadata__": {"format": "pt"}}, 7])
def test_a_safetensors_file_that_is_not_ours_is_refused(path, header):
    rewrite(path, lambda old: header)
    assert refused(read_metadata, path).startswith(f"{path}: not a checkpoint of aits_func")


def test_a_plain_safetensors_file_is_refused(tmp_path):
    safetensors.save_file({"weight": torch.zeros(2)}, tmp_path / "a")
    assert "not a checkpoint of aits_func" in refused(load_checkpoint, tmp_path / "a", {"weight": torch.zeros(2)})


# --- leaves that do not fit


def test_a_missing_leaf_is_named(path):
    like = tree() | {"more": {"bias": torch.zeros(1)}}
    assert refused(load_checkpoint, path, like).startswith(f"{path}: lacks more.bias, which this configuration has")


def test_a_superfluous_leaf_is_named(path):
    like = {key: value for key, value in tree().items() if key != "state"}
    assert refused(load_checkpoint, path, like).startswith(
        f"{path}: holds state.empty, which this configuration has not"
    )


def test_a_leaf_of_another_shape_is_named_with_both(path):
    like = tree() | {"layers": (torch.zeros(2, 1), tree()["layers"][1])}
    message = refused(load_checkpoint, path, like)
    assert message.startswith(f"{path}: layers.0 is (2,) torch.float32, this configuration wants (2, 1) torch.float32")


def test_a_leaf_of_another_dtype_is_named_with_both(path):
    like = tree() | {"weight": tree()["weight"].float()}
    message = refused(load_checkpoint, path, like)
    assert message.startswith(f"{path}: weight is (2, 3) torch.float64, this configuration wants (2, 3) torch.float32")


def test_leaves_of_another_precision_are_cast_where_that_is_asked_for(path):
    like = tree() | {"weight": tree()["weight"].float(), "layers": (torch.zeros(2).double(), tree()["layers"][1])}
    loaded = load_checkpoint(path, like, cast=True)
    assert_same(
        loaded, tree() | {"weight": tree()["weight"].float(), "layers": (tensor([0.5, -0.0]), like["layers"][1])}
    )
    assert other_dtypes(path, like) == {
        "weight": (torch.float64, torch.float32),
        "layers.0": (torch.float32, torch.float64),
    }
    assert other_dtypes(path, tree()) == {}


@pytest.mark.parametrize(
    "part", [{"weight": torch.zeros(2, 3, dtype=torch.int64)}, {"state": {"mask": torch.zeros(2)}}]
)
def test_what_is_no_number_of_the_same_kind_is_never_cast(path, part):
    like = tree() | {key: tree()[key] | leaf if isinstance(leaf, dict) else leaf for key, leaf in part.items()}
    assert "; was it made by another one?" in refused(load_checkpoint, path, like, cast=True)


def test_a_number_too_large_for_the_dtype_asked_for_is_named(tmp_path):
    save(tmp_path / "b", {"w": tensor([1.0, 1e39])})
    assert refused(load_checkpoint, tmp_path / "b", {"w": torch.zeros(2)}, cast=True) == (
        f"{tmp_path / 'b'}: w is too large for torch.float32; compute in torch.float64, as it was saved"
    )


def test_a_tree_with_two_leaves_of_one_name_is_refused_when_it_is_loaded_into_too(path):
    assert "two leaves are both called weight.a" in refused(load_checkpoint, path, {"weight.a": W, "weight": {"a": W}})


# --- files that are no checkpoints


def test_truncated_at_any_byte_it_is_an_input_error(path, tmp_path):
    data, cut = path.read_bytes(), tmp_path / "cut"
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        assert refused(load_checkpoint, cut, tree()).startswith(f"{cut}: ")


def test_with_more_behind_it_it_is_an_input_error(path):
    path.write_bytes(path.read_bytes() + b"\0")
    assert "damaged checkpoint" in refused(load_checkpoint, path, tree())


@pytest.mark.parametrize("prefix", ["", "state."])
def test_with_any_byte_changed_it_is_an_input_error(path, tmp_path, prefix):
    data, changed = path.read_bytes(), tmp_path / "changed"
    like = tree()["state"] if prefix else tree()
    for place in range(len(data)):
        changed.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        assert refused(load_checkpoint, changed, like, prefix=prefix).startswith(f"{changed}: ")


def test_a_checkpoint_whose_digest_is_not_its_own_is_said_to_be_damaged(path):
    data = path.read_bytes()
    assert with_digest(data) == data
    path.write_bytes(data[:-1] + b"\1")
    assert refused(load_checkpoint, path, tree()) == (
        f"{path}: damaged checkpoint (its digest is not that of its content); use another one"
    )
    path.write_bytes(with_digest(path.read_bytes()))
    load_checkpoint(path, tree())


@pytest.mark.parametrize("digest", [None, "", "x", "\ud800", 32 * "0"])
def test_a_checkpoint_without_a_digest_is_damaged(path, digest):
    def change(header):
        del header["__metadata__"]["digest"]
        if digest is not None:
            header["__metadata__"]["digest"] = digest

    rewrite(path, change)
    assert "damaged checkpoint" in refused(load_checkpoint, path, tree())


def test_a_stranger_of_a_gigabyte_is_neither_read_nor_taken(path):
    size = len(path.read_bytes()) - 8 - struct.unpack("<Q", path.read_bytes()[:8])[0]
    stranger = {"dtype": "U8", "shape": [2**30], "data_offsets": [size, size + 2**30]}
    rewrite(path, lambda header: header.update(stranger=stranger))
    os.truncate(path, path.stat().st_size + 2**30)
    assert "holds stranger, which this configuration has not" in refused(load_checkpoint, path, tree())


@pytest.mark.parametrize("entry", [3, None, {}, {"shape": 3, "dtype": "F64"}, {"shape": [2, 3], "dtype": 3}])
def test_a_leaf_that_is_described_as_no_tensor_is_named(path, entry):
    rewrite(path, lambda header: header.update(weight=entry))
    message = refused(load_checkpoint, path, tree())
    assert message.startswith(f"{path}: damaged checkpoint (weight has no shape or dtype)")


def test_what_was_loaded_outlives_the_file(path):
    loaded = load_checkpoint(path, tree())
    data = path.read_bytes()
    with path.open("r+b") as file:  # in place, as a copy over it does
        file.write(b"\xff" * len(data))
    assert_same(loaded, tree())


def test_a_header_beyond_its_bound_is_refused_unread(path):
    rewrite(path, lambda header: header["__metadata__"].update(more="x" * MAX_HEADER))
    assert "truncated or not a checkpoint" in refused(read_metadata, path)


@pytest.mark.parametrize("path", ["pipe", "/dev/zero"])
def test_what_has_no_end_is_refused_without_being_opened(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    assert "cannot read this checkpoint: not a regular file" in refused(read_metadata, tmp_path / path)


def test_with_any_byte_of_its_header_changed_it_is_an_input_error_or_still_a_checkpoint(path, tmp_path):
    data, changed = path.read_bytes(), tmp_path / "changed"
    (length,) = struct.unpack("<Q", data[:8])
    for place in range(8 + length):
        changed.write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
        try:
            loaded = load_checkpoint(changed, tree())
        except InputError:
            continue
        assert list(named_leaves(loaded)) == list(named_leaves(tree()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        b"PK\3\4" + b"\0" * 60,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b'"\xff"}',
    ],
)
def test_what_is_not_a_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert "not a checkpoint" in refused(load_checkpoint, tmp_path / "a", tree())


def test_a_header_nested_too_deeply_is_refused(tmp_path):
    text = b"[" * 100_000
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(text)) + text)
    assert "not a checkpoint" in refused(read_metadata, tmp_path / "a")


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "pickle":
        (tmp_path / "a").write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"weight": torch.zeros(2), "bomb": Bomb()}, tmp_path / "a")
    assert "not a checkpoint" in refused(load_checkpoint, tmp_path / "a", tree())
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path):
    assert "No such file" in refused(load_checkpoint, tmp_path / "none", tree())
    assert "Is a directory" in refused(load_checkpoint, tmp_path, tree())


# --- what is refused before it is written


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ({"a.b": W, "a": {"b": W + 1}}, "two leaves are both called a.b, and one would be lost; rename a key"),
        ({"a": {"b.c": W}, "a.b": {"c": W}}, "two leaves are both called a.b.c"),
        ({"a": (W, W), "a.1": W}, "two leaves are both called a.1"),
        ({1: W, "1": W}, "two leaves are both called 1"),
        ({"__metadata__": W}, "cannot save a leaf called '__metadata__', which is reserved; give it another name"),
        ({"sample.system.position": W}, "cannot save a leaf called 'sample.system.position', which is reserved"),
        ({"\ud800": W}, "which is no Unicode text; give it another name"),
        ({"a": 1.0}, "cannot save a: not a tensor but a float; use torch.tensor"),
        ({"a": W.to(torch.complex64)}, "cannot save a in torch.complex64; convert it to one of float64, float32"),
        ({"x" * 100 + str(i): W[0] for i in range(7000)}, "cannot save 7000 leaves: their names, shapes and the conf"),
    ],
    ids=["dict", "two levels", "tuple", "number", "reserved", "systems", "half", "float", "complex", "header"],
)
def test_what_could_not_be_read_back_is_refused_when_it_is_saved(path, tree, complaint):
    before = path.read_bytes()
    assert complaint in refused(save, path, tree)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("options", [{"seed": 2**63}, {"epoch": -1}, {"config": {"a": 2**64}}, {"config": [1]}])
def test_metadata_that_could_not_be_read_back_are_refused_when_they_are_saved(path, options):
    before = path.read_bytes()
    call = {"config": CONFIG, "seed": 1, "epoch": 2} | options
    assert "cannot save this: " in refused(save_checkpoint, path, tree(), **call)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "tree",
    [
        {"layers.0.weight": W, "layers.0.bias": W + 1},  # of a module's named_parameters
        {"": W, "a.": {"": W + 1}},
        {'é\n\0"': W, '","digest":"': W + 1},
        W,
        {"a.b": W, "a": {"c": W + 1}},
        {"digest": W, "format": W + 1, "more.sample.system.position": torch.ones(4, 3, 2)},
    ],
    ids=["module", "empty names", "odd names", "one leaf", "points", "words of ours"],
)
def test_what_is_saved_comes_back_whatever_its_leaves_are_called(tmp_path, tree):
    assert_same(load_checkpoint(save(tmp_path / "b", tree), tree), tree)


# --- writing


def test_nothing_is_left_beside_a_checkpoint(path):
    save(path)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_checkpoint_whole_and_nothing_beside_it(path, monkeypatch, stage, error):
    before = path.read_bytes()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, stage, fail)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        save(path, {"weight": torch.ones(1000)})
    if expected is InputError:
        assert re.fullmatch(
            rf"{re.escape(str(path))}: cannot write this file: No space left on device; .*", str(caught.value)
        )
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_the_content_is_on_disk_before_it_takes_the_name(path, monkeypatch):
    calls = []
    real = {"fsync": os.fsync, "replace": os.replace}
    for name in real:
        monkeypatch.setattr(os, name, lambda *a, name=name: (calls.append(name), real[name](*a))[1])
    save(path)
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name


def test_where_there_can_be_no_file_the_error_names_it(tmp_path):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "a"
    assert refused(save, place).startswith(f"{place}: cannot write this file: Not a directory")
    assert refused(save, tmp_path).startswith(f"{tmp_path}: cannot write this file: Is a directory")
    assert os.listdir(tmp_path) == ["file"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_the_format_names_itself(path):
    assert FORMAT.encode() in path.read_bytes()
