"""Drift and reversibility in pictures: the figures of docs/reversibility.md.

    python -m examples.reversibility [--out docs/pictures]

Every scheme advances the same Kepler orbit (e = 0.9, started at apocentre) at about 200 steps per orbit, and then the
same triples forth and back. Needs matplotlib: pip install 'aits_func[cli]'.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import aits_func as af

GRAVITY = af.build_gravity()
ORBITS = 100
COLOURS = {
    "direct": "#c8553d",
    "implicit symmetric": "#b8860b",
    "Hairer–Söderlind": "#1f6f8b",
    "time-transformed": "#7a9e3f",
}


def schemes() -> dict[str, tuple[af.Scheme, af.Policy]]:
    """Each scheme with a rule for two bodies that it takes: dt ∝ r^{3/2}, or Ω ∝ 1/r."""
    free_fall = af.build_criterion_policy(af.p_norm(GRAVITY, eta=1.0))
    potential = af.build_criterion_policy(af.logarithmic(GRAVITY, eta=1.0))
    leapfrog = af.build_leapfrog_kdk(GRAVITY)
    return {
        "direct": (af.build_direct(leapfrog), free_fall),
        "implicit symmetric": (af.build_implicit_symmetric(leapfrog), free_fall),
        "Hairer–Söderlind": (af.build_hairer_soderlind(GRAVITY, base="dkd"), free_fall),
        "time-transformed": (af.build_time_transformed_leapfrog(GRAVITY), potential),
    }


def kepler() -> tuple[af.System, float]:
    """The orbit at its apocentre, and its period."""
    system = af.two_body_orbit(mass=[1.0, 1.0], semi_major_axis=1.0, eccentricity=0.9, true_anomaly=math.pi)
    return system, float(af.orbital_period(system))


def run_kepler(scheme: af.Scheme, policy: af.Policy, orbits: float, steps_per_orbit: int = 200) -> af.SimulationInfo:
    """One recorded run at the h that takes so many steps in the first orbit."""
    system, period = kepler()

    def steps(h: float) -> int:
        return int(simulate(h, period, 0).steps)

    def simulate(h: float, t_end: float, every: int) -> af.SimulationInfo:
        return af.simulate(
            policy.init(0),
            system,
            policy=policy,
            gravity=GRAVITY,
            scheme=scheme,
            t_end=t_end,
            h=h,
            max_steps=100_000,
            record_every=every,
            compile="auto",
        )[1]

    h = af.match_cost(steps, steps_per_orbit, start=20 / steps_per_orbit).constant
    return simulate(h, orbits * period, 1)


def draw_drift(axes: list[Axes]) -> None:
    """Left: the energy error at the ends of the orbits. Right: its course over the last orbits."""
    _, period = kepler()
    for name, (scheme, policy) in schemes().items():
        recording = run_kepler(scheme, policy, ORBITS).recording
        time, error = recording.time / period, recording.energy_error.clamp(min=1e-17)
        distance = (recording.position[:, 1] - recording.position[:, 0]).norm(dim=-1)
        far = (distance[1:-1] >= distance[:-2]) & (distance[1:-1] > distance[2:])  # apocentres
        rows = far.nonzero()[:, 0] + 1
        axes[0].plot(time[rows], error[rows], ".-", ms=3, lw=0.6, color=COLOURS[name], label=name)
        last = time > ORBITS - 3
        axes[1].plot(time[last], error[last], lw=0.9, color=COLOURS[name])
    axes[0].set(xlabel="time / orbital period", ylabel="|E − E₀| / |E₀| at apocentre", yscale="log", title="drift")
    axes[1].set(
        xlabel="time / orbital period", ylabel="|E − E₀| / |E₀|", yscale="log", title="the last three orbits, all steps"
    )
    axes[0].legend(fontsize=8)


def draw_steps(axis: Axes) -> None:
    """The step along one orbit, against the time to the nearest pericentre."""
    _, period = kepler()
    for name, (scheme, policy) in schemes().items():
        recording = run_kepler(scheme, policy, 2.0).recording
        axis.plot(recording.time[1:-1] / period, recording.dt[1:-1] / period, lw=1.0, color=COLOURS[name], label=name)
    axis.set(
        xlabel="time / orbital period", ylabel="step / orbital period", yscale="log", title="steps over two orbits"
    )
    axis.legend(fontsize=8, loc="upper center")


def draw_return(axis: Axes) -> None:
    """How far from the start forth and back ends, for 64 triples, against the number of steps each way."""
    systems = af.gaussian_cluster(3, 64, position_scale=1.0, velocity_scale=0.3)
    counts = [16, 32, 64, 128, 256, 512]
    rules = schemes() | {
        "time-transformed": (
            af.build_time_transformed_leapfrog(GRAVITY),
            af.build_criterion_policy(af.pair_norm(GRAVITY, eta=1.0)),
        )
    }
    for name, (scheme, policy) in rules.items():
        h = 0.03 if name == "time-transformed" else 0.1  # about as many steps per encounter
        missed = []
        for steps in counts:
            _, info = af.simulate(
                policy.init(0),
                systems,
                policy=policy,
                gravity=GRAVITY,
                scheme=scheme,
                steps=steps,
                h=h,
                return_error=True,
                compile="auto",
            )
            missed.append(max(float(info.return_error.quantile(0.5)), 1e-16))  # 0 has no logarithm
        axis.plot(counts, missed, "o-", ms=4, lw=1.0, color=COLOURS[name], label=name)
    axis.set(
        xlabel="steps forth, and as many back",
        ylabel="distance from the start / size, median",
        xscale="log",
        yscale="log",
        title="64 triples there and back",
    )
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.set_xticks([], minor=True)


def main() -> None:
    """Draw both figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for file, width, draw in (
        ("drift.png", 2, lambda axes: draw_drift(list(axes))),
        ("steps_and_return.png", 2, lambda axes: (draw_steps(axes[0]), draw_return(axes[1]))),
    ):
        figure = Figure(figsize=(5.2 * width, 3.8), layout="constrained")
        axes = figure.subplots(1, width)
        for axis in axes:
            axis.grid(alpha=0.25)
        draw(axes)
        figure.savefig(options.out / file, dpi=110)
        print(options.out / file)


if __name__ == "__main__":
    main()
