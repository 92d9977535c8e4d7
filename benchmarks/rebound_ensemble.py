"""REBOUND's C code as a peer: many small systems advanced by fixed steps, and the direct summation of one large system.

Both use what is REBOUND's fastest path for this work: integrator "leapfrog" of order 2, gravity "basic", no collision
search, no boundary, no callbacks. The leapfrog is drift-kick-drift, with one force evaluation per step and none at the
start:  x += v dt/2;  v += a(x) dt;  x += v dt/2.  "basic" sums over the N (N − 1)/2 pairs and uses each for both
bodies, with 1/(r² + softening²)^{3/2}, in float64. The wheels of 5.2.2 on PyPI are built for generic x86-64 without
OpenMP (`has_openmp` looks): a simulation runs in one thread, so `Ensemble` starts one process per core.

REBOUND reads the time of day before and after every step, which no setting turns off. That and its other work per step
are part of its figures; for three bodies they take longer than the forces. A three-body simulation takes 2 to 3 kB.

REBOUND is imported when something runs, never before. Made for version 5, where `reb_simulation_steps` returns a
status.
"""

import ctypes
import importlib.metadata
import importlib.util
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def missing() -> str:
    """Why REBOUND cannot be run here, "" if it can."""
    if importlib.util.find_spec("rebound") is None:
        return "rebound is not installed (pip install 'aits_func[bench]')"
    version = importlib.metadata.version("rebound")
    if int(version.split(".")[0]) < 5:
        return f"rebound {version} is installed, 5 or newer is needed"
    return ""


def has_openmp() -> bool:
    """Whether REBOUND's library is linked to an OpenMP runtime, and so may use several threads for one simulation."""
    import rebound

    # a look-up in this library sees its own dependencies alone, not the OpenMP that torch may have loaded
    return any(hasattr(rebound.clibrebound, name) for name in ("GOMP_parallel", "__kmpc_fork_call"))


class Ensemble:
    """B independent systems of N bodies that REBOUND's leapfrog advances, shared out evenly among worker processes.

    Use it as a context manager, below a ``if __name__ == "__main__"``: the workers are spawned, since a fork would copy
    the locks of torch's threads into them, and a spawned process imports the main module anew. Every worker builds its
    simulations once, before the constructor returns; a later `advance` goes on from where the last one ended.

    mass (B, N), position (B, N, 3), velocity (B, N, 3): float64 or convertible to it.
    processes: number of workers, at most B; by default one per core that this process may use.
    """

    def __init__(
        self,
        mass: Array,
        position: Array,
        velocity: Array,
        *,
        G: float = 1.0,
        softening: float = 0.0,
        processes: int | None = None,
    ) -> None:
        mass, position, velocity = (np.asarray(value, np.float64) for value in (mass, position, velocity))
        if mass.ndim != 2 or not position.shape == velocity.shape == (*mass.shape, 3):
            raise ValueError(f"not (B, N), (B, N, 3), (B, N, 3): {mass.shape}, {position.shape}, {velocity.shape}")
        if processes is None:
            processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.processes = max(1, min(processes, len(mass)))
        self._workers: list[tuple[Any, Connection]] = []  # process and our end of its pipe
        context = multiprocessing.get_context("spawn")
        try:
            for _ in range(self.processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs,), daemon=True)
                process.start()
                theirs.close()  # so that a dead worker shows as the end of the pipe
                self._workers.append((process, ours))
            shares = zip(*(np.array_split(value, self.processes) for value in (mass, position, velocity)), strict=True)
            for (_, connection), share in zip(self._workers, shares, strict=True):
                connection.send((*share, G, softening))
            self._receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, steps: int, dt: float) -> float:
        """Advance all systems by ``steps`` steps of length dt; the seconds from the start signal to the last finish.

        All that Python does in that time is one call into C per system. The workers get dt before the signal.
        """
        if steps < 1:
            raise ValueError(f"steps must be 1 or more, not {steps}")
        self._send(("prepare", dt))
        self._receive()
        start = time.perf_counter()
        self._send(("advance", steps))
        return max(self._receive()) - start  # one clock, the machine's, for all processes

    def states(self) -> tuple[Array, Array]:
        """Position and velocity, each (B, N, 3), as they are now."""
        self._send(("states", None))
        position, velocity = zip(*self._receive(), strict=True)
        return np.concatenate(position), np.concatenate(velocity)

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        workers, self._workers = self._workers, []
        for _, connection in workers:
            connection.close()  # a worker that waits for a message sees the end of the pipe, and returns
        for process, _ in workers:
            process.join(timeout=5.0)
            if process.is_alive():
                process.terminate()
                process.join()
            process.close()

    def _send(self, message: tuple[str, Any]) -> None:
        if not self._workers:
            raise RuntimeError("the ensemble is closed")
        try:
            for _, connection in self._workers:
                connection.send(message)
        except ConnectionError as error:
            raise self._lost() from error

    def _receive(self) -> list[Any]:
        """One answer of each worker."""
        try:
            return [connection.recv() for _, connection in self._workers]
        except (EOFError, ConnectionError) as error:
            raise self._lost() from error

    def _lost(self) -> RuntimeError:
        self.close()
        return RuntimeError("a worker process has ended early; if Python ended it, its traceback is on stderr")


def force_seconds(
    mass: Array, position: Array, velocity: Array, repeats: int, *, G: float = 1.0, softening: float = 0.0
) -> list[float]:
    """Seconds of each of ``repeats`` evaluations of all accelerations of one system, in one thread of this process.

    What is timed is the function that a leapfrog step calls, by itself: no drift, no kick. One evaluation runs before
    the first that is timed.

    mass (N,), position (N, 3), velocity (N, 3).
    """
    simulation = _simulation(mass, position, velocity, G, softening)
    evaluate, address = _function("reb_simulation_update_acceleration", None), ctypes.addressof(simulation)
    evaluate(address)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        evaluate(address)
        seconds.append(time.perf_counter() - start)
    return seconds


def accelerations(mass: Array, position: Array, velocity: Array, *, G: float = 1.0, softening: float = 0.0) -> Array:
    """The accelerations (N, 3) of one system that `force_seconds` times."""
    simulation = _simulation(mass, position, velocity, G, softening)
    _function("reb_simulation_update_acceleration", None)(ctypes.addressof(simulation))
    return np.array([(body.ax, body.ay, body.az) for body in simulation.particles])


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of REBOUND's library that takes the address of a simulation, and then ``arguments``."""
    import rebound

    # a prototype of our own: the types set on rebound's function objects are seen by rebound's code too
    return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)((name, rebound.clibrebound))


def _simulation(mass: Array, position: Array, velocity: Array, G: float, softening: float) -> Any:
    """A rebound.Simulation of one system, set up as the module's docstring has it."""
    import rebound

    simulation = rebound.Simulation()
    simulation.G, simulation.softening = G, softening
    simulation.integrator = "leapfrog"
    simulation.gravity, simulation.collision, simulation.boundary = "basic", "none", "none"
    body = rebound.Particle()
    for value in np.asarray(mass, np.float64).tolist():
        body.m = value
        simulation.add(body)
    # one call for all bodies is much faster than keywords for each
    simulation.set_serialized_particle_data(xyz=_contiguous(position), vxvyvz=_contiguous(velocity))
    return simulation


def _contiguous(value: Array) -> Array:
    return np.ascontiguousarray(value, np.float64)


def _work(connection: Connection) -> None:
    """The loop of a worker: builds its share of the systems, then does what it is told until the pipe ends."""
    try:
        mass, position, velocity, G, softening = connection.recv()
        simulations = [_simulation(*system, G, softening) for system in zip(mass, position, velocity, strict=True)]
        addresses = [ctypes.addressof(simulation) for simulation in simulations]
        step = _function("reb_simulation_steps", ctypes.c_int, ctypes.c_size_t)
        connection.send(len(simulations))
        while True:
            task, value = connection.recv()
            if task == "prepare":
                for simulation in simulations:
                    simulation.dt = value
                connection.send(None)
            elif task == "advance":
                statuses = [step(address, value) for address in addresses]
                finish = time.perf_counter()
                if any(statuses):
                    raise RuntimeError(f"REBOUND stopped {np.count_nonzero(statuses)} systems early")
                connection.send(finish)
            elif task == "states":
                for index, simulation in enumerate(simulations):
                    simulation.serialize_particle_data(xyz=position[index], vxvyvz=velocity[index])
                connection.send((position, velocity))
            else:
                raise ValueError(f"unknown task {task!r}")
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return  # the other end has closed, or is being stopped together with this one
