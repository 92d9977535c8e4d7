"""Trees of NamedTuples, dicts and tuples: taken apart, put together, named."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from aits_func.base import tree
from aits_func.base.check import make_system
from aits_func.timestep.window import first_sample


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


def example(start=0.0, rows=3):
    """A tree with every kind of node: dict (keys not in order), NamedTuple, tuple, and the empty tree."""
    base = torch.arange(rows * 2, dtype=torch.float64).reshape(rows, 2) + start
    return {"z": Pair(base, base[:, 0] + 100), "a": (base + 200, ()), "m": Pair(base.long(), base > 1)}


def assert_same(one, other):
    names, others = tree.named_leaves(one), tree.named_leaves(other)
    assert names.keys() == others.keys()
    for name, leaf in names.items():
        assert leaf.dtype == others[name].dtype, name
        assert torch.equal(leaf, others[name]), name


def test_leaves_are_named_by_fields_keys_and_indices():
    assert list(tree.named_leaves(example())) == ["a.0", "m.left", "m.right", "z.left", "z.right"]


def test_the_leaves_of_a_sample_are_named_by_its_fields():
    system = make_system(torch.ones(2), torch.eye(2), torch.zeros(2, 2))
    fields = {"system": "mass position velocity time work", "window": "position velocity time dt valid"}
    names = [f"{part}.{field}" for part, of_part in fields.items() for field in of_part.split()]
    assert list(tree.named_leaves(first_sample(system, 2))) == [*names, "dt", "active"]


def test_names_and_leaves_are_in_one_order():
    for named, leaf in zip(tree.named_leaves(example()).values(), tree.leaves(example()), strict=True):
        assert named is leaf or torch.equal(named, leaf)


def test_a_tensor_is_a_tree_of_one_leaf_without_a_name():
    assert list(tree.named_leaves(torch.ones(2))) == [""]


def test_the_empty_tree_has_no_leaves():
    assert tree.leaves(()) == []
    assert tree.named_leaves(()) == {}
    assert tree.map_leaves(torch.neg, ()) == ()


def test_mapping_keeps_structure_and_classes_and_takes_several_trees():
    total = tree.map_leaves(torch.add, example(), example(10.0))
    assert isinstance(total["z"], Pair)
    assert total["a"][1] == ()
    assert torch.equal(total["z"].left, 2 * example()["z"].left + 10)


def test_mapping_refuses_trees_of_different_structure():
    with pytest.raises(ValueError, match=r"[Ee]xpected"):
        tree.map_leaves(torch.add, {"a": torch.ones(1)}, {"b": torch.ones(1)})


@pytest.mark.parametrize("index", [1, slice(0, 2), torch.tensor([2, 0, 2])])
def test_taking_rows_takes_them_from_every_leaf(index):
    taken = tree.take(example(), index)
    for leaf, whole in zip(tree.leaves(taken), tree.leaves(example()), strict=True):
        assert torch.equal(leaf, whole[index])


def test_a_stack_of_rows_is_the_batch_they_were_taken_from():
    assert_same(tree.stack([tree.take(example(), k) for k in range(3)]), example())


def test_batches_are_joined_along_their_leading_axis():
    parts = [tree.take(example(), slice(0, 1)), tree.take(example(), slice(1, 3))]
    assert_same(tree.concatenate(parts), example())


def test_joining_a_single_batch_copies_nothing():
    whole = example()
    assert tree.concatenate([whole]) is whole


def test_the_length_is_the_size_of_the_leading_axis():
    assert tree.length(example(rows=5)) == 5


def test_selecting_chooses_whole_rows_by_a_condition_with_the_leading_axes():
    condition = torch.tensor([True, False, True])
    chosen = tree.select(condition, example(), example(10.0))
    for leaf, yes, no in zip(*map(tree.leaves, (chosen, example(), example(10.0))), strict=True):
        assert torch.equal(leaf, torch.stack([yes[0], no[1], yes[2]]))


@pytest.mark.parametrize("condition", [True, False])
def test_selecting_by_one_condition_chooses_a_whole_tree(condition):
    assert_same(tree.select(torch.tensor(condition), example(), example(10.0)), example(0.0 if condition else 10.0))


def test_selecting_works_per_row_under_vmap():
    condition = torch.tensor([True, False, True])
    mapped = vmap(tree.select)(condition, example(), example(10.0))
    assert_same(mapped, tree.select(condition, example(), example(10.0)))


def test_an_expanded_tree_repeats_it_without_copying():
    row = tree.take(example(), 0)
    many = tree.expand(row, 4)
    assert_same(many, tree.stack([row] * 4))
    assert many["z"].left.data_ptr() == row["z"].left.data_ptr()


def test_a_cast_changes_floating_point_leaves_alone():
    cast = tree.cast(example(), dtype=torch.float32, device="cpu")
    kinds = [leaf.dtype for leaf in tree.leaves(cast)]
    assert kinds == [torch.float32, torch.int64, torch.bool, torch.float32, torch.float32]
    assert_same(tree.cast(cast, dtype=torch.float64), example())  # small integers: no digit is lost


def test_a_cast_without_dtype_keeps_every_leaf():
    assert_same(tree.cast(example(), device="cpu"), example())


def test_the_global_norm_is_that_of_all_elements_together():
    assert tree.global_norm({"a": torch.tensor([[3.0, 0.0]]), "b": (torch.tensor(4.0),)}) == 5


def test_replaced_leaves_are_put_back_where_they_came_from():
    new = [leaf + 1 if leaf.dtype != torch.bool else ~leaf for leaf in tree.leaves(example())]
    other = tree.replace_leaves(example(), new)
    assert isinstance(other["m"], Pair)
    assert torch.equal(other["z"].right, example()["z"].right + 1)
    assert torch.equal(other["m"].right, ~example()["m"].right)
    assert_same(tree.replace_leaves(other, tree.leaves(example())), example())


def test_a_leaf_in_order_lies_as_one_that_was_just_read_from_a_file():
    wide = torch.arange(18.0).reshape(2, 9)
    for leaf in (wide[:1, :8], wide.t(), wide[:, ::2], wide[:, None], torch.zeros(0, 3), torch.ones(()), wide[1:, :1]):
        ordered = tree.in_order(leaf)
        assert torch.equal(ordered, leaf)
        assert ordered.stride() == torch.empty(leaf.shape).stride()
    assert tree.in_order(wide) is wide  # nothing to do
