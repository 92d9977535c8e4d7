"""The configuration that ``aits train --new`` writes."""

STARTER = """\
# A configuration of aits: train a time-step policy, then simulate with it.
# Keys above the first section are shared by both sections.
seed = 0

[train]
# Drawn systems (kind: binaries, free_fall_triple, gaussian_cluster, hierarchical_triple, plummer_sphere),
# packaged orbits ("figure_eight", "pythagorean", ...), or files (.npy, .txt, .json).
systems = [
    { kind = "binaries", count = 32, eccentricity = [0.6, 0.95] },
    { kind = "free_fall_triple", count = 32 },
]
features = "invariant"       # invariant, basic, rich, delta_mag
policy = "residual"          # residual, mlp, criterion, transformation (for scheme = "time_transformed")
criterion = "p_norm"         # p_norm, pair_norm, tidal, aarseth, ...: see aits train --help
scheme = "direct"            # direct, implicit_symmetric, hairer_soderlind, time_transformed
eta = 0.02
hidden = [64, 64]
optimizer = "adamw"
learning_rate = 3e-3
decay_steps = 2000           # updates over which it falls to a hundredth, on a cosine; 0: constant
epochs = 20
steps_per_epoch = 32
E_lower = 1e-6               # the band of relative energy errors of one step
E_upper = 1e-4
energy_threshold = 2e-4      # a step above it is rejected
loss_on = "all"              # all, failed
convergence = "band"         # band, minibatch, trajectory

[simulate]
systems = [{ kind = "free_fall_triple", count = 16, seed = 1000 }, "figure_eight"]
t_end = 2.0
compare = true               # beside classical rules at equal numbers of force evaluations
"""
