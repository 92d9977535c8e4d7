"""Laws of checkpoints: any pytree of tensors comes back bit for bit, and no damage is any other error."""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aits_func.base.tree import map_leaves, named_leaves
from aits_func.edge.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from aits_func.edge.config import InputError

pytest.importorskip("safetensors")

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


class Pair(NamedTuple):
    first: object
    second: object


def tensors():
    """Any bits: every NaN, both zeros, denormal and infinite numbers, and no elements at all."""

    @st.composite
    def build(draw):
        dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 3), max_size=3))
        count = torch.Size(shape).numel()
        if dtype == torch.bool:
            values = draw(st.lists(st.booleans(), min_size=count, max_size=count))
            return torch.tensor(values, dtype=dtype).reshape(shape)
        data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
        return torch.tensor(list(data), dtype=torch.uint8).view(dtype).reshape(shape)

    return build()


def trees():
    names = st.text("abcXYZ_09 äß", min_size=1, max_size=4)
    return st.recursive(
        tensors() | st.just(()),
        lambda inner: (
            st.dictionaries(names, inner, min_size=1, max_size=3)
            | st.lists(inner, min_size=1, max_size=3).map(tuple)
            | st.builds(Pair, inner, inner)
        ),
        max_leaves=6,
    )


plain = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def as_bytes(leaf):
    """The leaf's memory, element by element."""
    return bytes(leaf.contiguous().reshape(-1).view(torch.uint8).tolist())


def written(folder, tree, config=None, seed=0, epoch=0):
    path = Path(folder) / "a.safetensors"
    save_checkpoint(path, tree, config=config or {}, seed=seed, epoch=epoch)
    return path


@given(trees())
def test_every_tree_comes_back_bit_for_bit_into_a_tree_of_the_same_shapes(tree):
    like = map_leaves(torch.zeros_like, tree)
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_checkpoint(written(folder, tree), like)
    before, after = named_leaves(tree), named_leaves(loaded)
    assert list(before) == list(after)
    for name, leaf in before.items():
        assert (after[name].dtype, after[name].shape) == (leaf.dtype, leaf.shape)
        assert as_bytes(after[name]) == as_bytes(leaf)
    assert type(loaded) is type(tree)


configurations = st.dictionaries(st.text(max_size=4), plain, max_size=4)


@given(trees(), configurations, st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_every_configuration_seed_and_epoch_come_back(tree, config, seed, epoch):
    with tempfile.TemporaryDirectory() as folder:
        metadata = read_metadata(written(folder, tree, config, seed, epoch))
    assert (metadata.config, metadata.seed, metadata.epoch) == (json.loads(json.dumps(config)), seed, epoch)


@given(trees(), st.data())
def test_cut_off_anywhere_it_is_an_input_error(tree, data):
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, tree)
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(InputError):
            load_checkpoint(path, tree)


@given(trees(), st.data())
def test_with_bytes_overwritten_anywhere_it_is_an_input_error_unless_they_were_the_same(tree, data):
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, tree)
        before = path.read_bytes()
        whole = bytearray(before)
        place = data.draw(st.integers(0, len(whole) - 1))
        for offset, value in enumerate(data.draw(st.binary(min_size=1, max_size=3))):
            whole[min(place + offset, len(whole) - 1)] = value
        path.write_bytes(whole)
        if whole == before:
            load_checkpoint(path, tree)
        else:
            with pytest.raises(InputError):
                load_checkpoint(path, tree)


@given(trees(), st.data())
def test_a_tree_with_another_leaf_is_refused_by_the_name_of_that_leaf(tree, data):
    leaves = named_leaves(tree)
    if not leaves:
        return
    name = data.draw(st.sampled_from(sorted(leaves)))
    odd = torch.zeros((*leaves[name].shape, 2), dtype=leaves[name].dtype)
    marked = map_leaves(lambda leaf: odd if leaf is leaves[name] else leaf, tree)
    with tempfile.TemporaryDirectory() as folder, pytest.raises(InputError) as caught:
        load_checkpoint(written(folder, tree), marked)
    assert f": {name} is {tuple(leaves[name].shape)} " in str(caught.value)
