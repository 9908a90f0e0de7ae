"""Known vulnerabilities of the pinned dependencies (constraints.txt): python scripts/audit.py; 1 where there are any.

Package indexes without advisories leave packages unaudited: that is told, and fails nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Ask pip-audit; one line for each advisory, and one that counts."""
    pinned = Path(__file__).resolve().parent.parent / "constraints.txt"
    words = [
        "--requirement",
        str(pinned),
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    done = subprocess.run([sys.executable, "-m", "pip_audit", *words], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"audit: pip-audit did not answer: {(done.stderr.splitlines() or ['nothing'])[-1]}")
        return 0
    audited = [package for package in packages if "skip_reason" not in package]
    found = [(package, known) for package in audited for known in package["vulns"]]
    for package, known in found:
        mended = ", ".join(known["fix_versions"]) or "no release"
        print(f"audit: {package['name']} {package['version']}: {known['id']}, mended in {mended}")
    print(
        f"audit: {len(audited)} of {len(packages)} pinned packages audited, {len(found)} advisories"
        + ("" if audited else "; this package index has no advisories")
    )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
