"""Random numbers from integer keys.

A key is an int. `fold_in` derives a new one from a key and the names of what it is for, and
`generator` makes a fresh CPU generator where numbers are drawn. Nothing else holds random state,
so a resumed run draws what an unbroken one draws, and so does a run on another device.
"""

import hashlib

import torch


def fold_in(seed: int, *path: int | str) -> int:
    """A new 63-bit key from a key and a path of names and counters.

    BLAKE2b of the whole path, not ``hash()``, whose value for strings differs between processes.
    """
    text = repr((int(seed), *path)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, *path: int | str) -> torch.Generator:
    """A CPU generator seeded with ``fold_in(seed, *path)``."""
    return torch.Generator().manual_seed(fold_in(seed, *path))
