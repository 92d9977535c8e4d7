"""``scipy.optimize.least_squares`` is given residuals and their Jacobian, one row for every sample.

pip install 'aits_func[scipy]'
python -m examples.optimizers.scipy_least_squares
"""

from scipy.optimize import least_squares

from aits_func.edge.adapters import flatten_problem

from .problem import build_problem, loss_of, show


def main() -> tuple[float, float]:
    """Trust region, at most twenty evaluations."""
    problem = build_problem()
    params = problem.policy.init(0)
    flat = flatten_problem(problem.objective, params, problem.samples)
    found = least_squares(flat.residuals, flat.start, jac=flat.jacobian, max_nfev=20)
    losses = loss_of(problem, params), loss_of(problem, flat.unflatten(found.x))
    show("scipy.optimize.least_squares", losses)
    return losses


if __name__ == "__main__":
    main()
