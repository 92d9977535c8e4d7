"""Keys are stable numbers, and every generator is fresh."""

import subprocess
import sys

import torch

from aits_func.base.rng import fold_in, generator

PINNED = 2493457745806098578  # fold_in(7, "replay", 3, 0); a change of it breaks the resumption of every run


def test_a_key_is_a_pinned_number():
    assert fold_in(7, "replay", 3, 0) == PINNED


def test_a_key_is_the_same_in_another_process_with_another_hash_seed():
    code = "from aits_func.base.rng import fold_in; print(fold_in(7, 'replay', 3, 0))"
    environment = {"PYTHONHASHSEED": "123", "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert int(result.stdout) == PINNED


def test_a_key_fits_a_signed_64_bit_seed():
    keys = [fold_in(seed, "x", k) for seed in (0, 1, -1, 2**62) for k in range(250)]
    assert all(0 <= key < 2**63 for key in keys)
    assert max(keys) >= 2**62  # all 63 bits are used: of 1000 keys half have the highest one


def test_different_paths_have_different_keys():
    paths = [
        (),
        (0,),
        (1,),
        ("0",),
        ("replay",),
        ("replay", 0),
        ("replay", 1),
        ("replay", "0"),
        (0, "replay"),
        ("replay", 0, 0),
        ("re", "play"),
        ("re, play",),
        ("re', 'play",),
    ]
    keys = {fold_in(seed, *path) for seed in (0, 1, -1) for path in paths}
    assert len(keys) == 3 * len(paths)


def test_a_generator_is_made_fresh_so_the_same_key_draws_the_same_numbers():
    first = torch.rand(5, generator=generator(3, "batch", 1))
    torch.rand(5, generator=generator(3, "batch", 2))
    assert torch.equal(first, torch.rand(5, generator=generator(3, "batch", 1)))
    assert not torch.equal(first, torch.rand(5, generator=generator(3, "batch", 2)))


def test_a_generator_is_that_of_its_key_and_lives_on_the_cpu():
    ours, direct = generator(3, "batch"), torch.Generator().manual_seed(fold_in(3, "batch"))
    assert ours.device.type == "cpu"
    assert torch.equal(torch.rand(5, generator=ours), torch.rand(5, generator=direct))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    torch.rand(5, generator=generator(3, "a key that no other test draws from"))
    assert torch.equal(torch.get_rng_state(), before)
