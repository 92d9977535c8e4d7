"""``python -m aits_func``: the command line."""

from .edge.cli import main

raise SystemExit(main())
