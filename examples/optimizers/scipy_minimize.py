"""``scipy.optimize.minimize`` is given the loss and its gradient.

pip install 'aits_func[scipy]'
python -m examples.optimizers.scipy_minimize
"""

from scipy.optimize import minimize

from aits_func.edge.adapters import flatten_problem

from .problem import build_problem, loss_of, show


def main() -> tuple[float, float]:
    """Thirty iterations of L-BFGS-B."""
    problem = build_problem()
    params = problem.policy.init(0)
    flat = flatten_problem(problem.objective, params, problem.samples)
    found = minimize(flat.loss_and_gradient, flat.start, jac=True, method="L-BFGS-B", options={"maxiter": 30})
    losses = loss_of(problem, params), loss_of(problem, flat.unflatten(found.x))
    show("scipy.optimize.minimize", losses)
    return losses


if __name__ == "__main__":
    main()
