"""All campaigns, one after the other, each in a process of its own: one table and one JSON file.

python -m reliability [--out reliability.json] [--only kills hostile_files] [--short]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from reliability.findings import Finding, table

CAMPAIGNS = (
    "kills",
    "faults",
    "hostile_files",
    "edge_numbers",
    "long_run",
    "repeatability",
    "compiled_programs",
    "comets",
)


def main() -> int:
    """Run them; the exit code is 1 if a promise was broken or a campaign failed to run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("reliability.json"), help="the JSON file to write")
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=list(CAMPAIGNS), help="these alone")
    parser.add_argument("--short", action="store_true", help="the short forms that the test suite runs")
    options = parser.parse_args()
    found: dict[str, list[Finding]] = {}
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "findings.json"
            short = ["--short"] if options.short else []
            command = [sys.executable, "-m", f"reliability.{name}", "--json", str(path), *short]
            done = subprocess.run(command, stdout=subprocess.DEVNULL)
            found[name] = (
                [Finding(**each) for each in json.loads(path.read_text())]
                if path.exists()
                else [Finding(f"{name} runs", False, {"exit code": done.returncode})]
            )
    for name, findings in found.items():
        print(f"\n{name}\n\n{table(findings)}")
    report = {name: [each._asdict() for each in findings] for name, findings in found.items()}
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {options.out}", file=sys.stderr)
    return 0 if all(each.held for findings in found.values() for each in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
