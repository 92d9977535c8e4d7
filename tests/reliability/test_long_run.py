"""The long runs in their short form; and a bias, and a leak, are seen."""

import mmap

from reliability.long_run import (
    SHORT,
    campaign,
    judge_energy,
    judge_memory,
    leapfrog,
    one_thread,
    resident,
    watch_energy,
)


def test_energy_and_memory_walk_no_further_than_promised():
    for finding in campaign(short=True):
        assert finding.held, (finding.promise, finding.broken)


def test_a_bias_of_half_a_rounding_in_every_step_is_seen():
    plan = SHORT._replace(systems=16)
    honest = leapfrog(plan)

    def biased(systems, steps):
        end = honest(systems, steps)
        return end._replace(velocity=end.velocity * (1 + 1e-16 * steps))

    with one_thread():
        finding = judge_energy(watch_energy(plan, biased))
    assert not finding.held
    assert finding.figures["exponent"] > 0.8  # 1 for a pure bias


def test_a_leak_of_a_mebibyte_at_a_time_is_seen():
    kept, memory = [], []
    for _ in range(20):
        kept.append(mmap.mmap(-1, 1 << 20))  # pages of its own, where an allocator may have freed ones left
        kept[-1].write(b"x" * (1 << 20))
        memory.append(resident())
    assert not judge_memory("grows", tuple(memory), "looks").held


def test_what_is_compiled_late_is_no_leak_but_what_comes_after_it_is():
    late = (100.0,) * 40 + (150.0,) * 60
    assert not judge_memory("grows", late, "epochs").held
    assert judge_memory("grows", late, "epochs", ready=40).held
    assert not judge_memory("grows", (*late[:-1], 170.0), "epochs", ready=40).held
