"""All benchmarks, one after the other, each in a process of its own: one table and one JSON file.

python -m benchmarks [--out benchmarks.json] [--only ensemble many_bodies]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Missing, as_dict, from_dict, machine, table

SCRIPTS = {
    "replay": "R1",
    "training_against_jax": "R2",
    "wide_network": "R3",
    "near_convergence": "R4",
    "second_order": "R5",
    "policy_ensemble": "E1",
    "growth": "R6",
    "ensemble": "S1, S2",
    "single_system": "S3",
    "many_bodies": "S4",
    "gpu": "G1",
}


def main() -> int:
    """Run them; the exit code is 1 if one of them failed to run, not if a target was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"), help="the JSON file to write")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="these alone")
    options = parser.parse_args()
    rows, failed = [], False
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                failed = True
                rows.append(Missing(SCRIPTS[name], name, f"benchmarks.{name} ended with exit code {done.returncode}"))
            else:
                rows += [from_dict(item) for item in json.loads(path.read_text())]
    print(table(rows))
    options.out.write_text(json.dumps({**machine(), "rows": [as_dict(each) for each in rows]}, indent=2) + "\n")
    print(f"written to {options.out}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
