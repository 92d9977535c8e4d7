"""One place for all tests: the profiles of the property tests, and the flag that goes deep.

pytest           bounded and repeatable: the same few examples every time
pytest --deep    many random examples, and the tests marked slow
"""

import pytest
from hypothesis import HealthCheck, settings

# No deadline anywhere: a first call into torch compiles or imports for seconds.
settings.register_profile("default", max_examples=30, deadline=None, derandomize=True)
settings.register_profile(
    "deep", max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)


def pytest_addoption(parser):
    parser.addoption("--deep", action="store_true", help="property tests with many random examples, and slow tests")


def pytest_configure(config):
    # The first jvp of a process makes torch 2.13 script a few functions of its own, and warn of that.
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit.script. is deprecated:DeprecationWarning")
    if config.getoption("--hypothesis-profile", default=None) is None:
        settings.load_profile("deep" if config.getoption("--deep") else "default")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--deep"):
        for item in items:
            if item.get_closest_marker("slow") is not None:
                item.add_marker(pytest.mark.skip(reason="slow; run with --deep"))
