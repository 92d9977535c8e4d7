"""What a training run left in its checkpoint, fit to be used: its configuration, its policy, its whole state.

A checkpoint may be well-formed and still be of no use: hold a NaN, or a configuration that asks for more memory than
there is. Whatever is wrong is said in one line before anything is computed.
"""

import os
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from ..base.check import check_system
from ..base.tree import named_leaves
from ..base.types import Params, TrainState
from .checkpoint import load_checkpoint, other_dtypes, read_metadata
from .config import TrainConfig, config_from_dict, least_weights
from .untrusted import InputError


def trained_config(path: str | Path) -> TrainConfig:
    """The configuration that a checkpoint was made by.

    Raises:
        InputError: if it is damaged, or its network is larger than the file, which then cannot hold it: whoever
            builds it has memory for what the file holds, but not for any number that stands in it.
    """
    config = config_from_dict(TrainConfig, read_metadata(path).config, where=str(path))
    needed = least_weights(config) * getattr(torch, config.dtype).itemsize
    if needed > os.path.getsize(path):
        raise InputError(
            f"{path}: its configuration has a network of {needed} bytes, more than the whole file; use another one"
        )
    return config


def load_policy(path: str | Path, like: Params) -> Params:
    """The parameters of the policy in a checkpoint, cast where it was trained in another dtype (see `say_cast`).

    Args:
        path: the file.
        like: parameters of the same policy, in the dtype and on the device that they are wanted in.

    Raises:
        InputError: as `load_checkpoint`, and naming the first leaf with a NaN or an infinite number, with which a
            policy predicts nothing.
    """
    params = load_checkpoint(path, like, prefix="params.", cast=True)
    _require_finite(path, {f"params.{name}": leaf for name, leaf in named_leaves(params).items()})
    return params


def say_cast(path: str | Path, params: Params) -> str:
    """One line about a policy that was trained in another dtype than the parameters are in; "" if it was in theirs."""
    pairs = sorted({tuple(map(str, pair)) for pair in other_dtypes(path, params, prefix="params.").values()})
    changes = " and ".join(
        f"{theirs.removeprefix('torch.')}, cast to {ours.removeprefix('torch.')}" for theirs, ours in pairs
    )
    return f"{path}: the policy was trained in {changes}" if pairs else ""


def load_state(path: str | Path, like: TrainState) -> TrainState:
    """The state that a checkpoint holds, fit to go on from.

    Args:
        path: the file.
        like: a state of the same configuration.

    Raises:
        InputError: as `load_checkpoint`, and naming the first leaf from which no training can go on: with a NaN; with
            an infinite number, except in the times at which systems retire ("never") and in the optimizer, where the
            square of a large gradient may be one; a system that is none; an epoch other than the metadata's.
    """
    state = load_checkpoint(path, like)
    leaves = named_leaves(state)
    endless = {name for name in leaves if name.startswith("opt_state.") or name.endswith(".stop_time")}
    _require_finite(path, leaves, but=endless)
    for group in state.population:
        try:  # whether bodies may coincide was asked when the run began
            check_system(group.sample.system, softening=1.0, batched=True, where=f"{path}: system")
        except ValueError as error:
            raise InputError(str(error)) from None
    if int(state.epoch) != read_metadata(path).epoch:
        raise InputError(
            f"{path}: damaged checkpoint (epoch is {int(state.epoch)}, its metadata say {read_metadata(path).epoch}); "
            "use another one"
        )
    return state


def _require_finite(path: str | Path, leaves: dict[str, Tensor], but: Collection[str] = ()) -> None:
    for name, leaf in leaves.items():
        bad = leaf.isnan() if name in but else ~leaf.isfinite()
        if bool(bad.any()):
            what = "NaN" if bool(leaf.isnan().any()) else "an infinite number"
            raise InputError(f"{path}: {name} holds {what}, so that nothing can be computed with it; use another one")
