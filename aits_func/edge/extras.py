"""Optional libraries, loaded when they are first needed."""

import importlib
from typing import Any

from .config import InputError


def load_extra(module: str, extra: str) -> Any:
    """Import a module that an extra installs.

    Raises:
        InputError: naming the extra, if the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise InputError(f"this needs {package}, which is not installed; pip install 'aits_func[{extra}]'") from None
