"""Writes docs/dependencies.md: what `make setup` installs, by licence.

.venv/bin/python docs/dependencies.py
"""

import collections
import importlib.metadata
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
SPELLINGS = {
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def locked():
    """Name and version of every package in the lock."""
    text = (ROOT / "requirements.lock").read_text()
    return re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE)


def licence(name):
    """What a package's own metadata say, in SPDX's spelling where that is clear."""
    facts = importlib.metadata.metadata(name)
    if facts.get("License-Expression"):
        return facts["License-Expression"]
    prefix = "License :: OSI Approved :: "
    classified = [c for c in facts.get_all("Classifier") or () if c.startswith(prefix)]
    stated = [c.removeprefix(prefix) for c in classified] or [(facts.get("License") or "?").strip()]
    return " AND ".join(SPELLINGS.get(s.splitlines()[0], s.splitlines()[0]) for s in stated)


def main():
    """Write the page."""
    packages = collections.defaultdict(list)
    for name, version in locked():
        try:
            packages[licence(name)].append(f"{name} {version}")
        except importlib.metadata.PackageNotFoundError:
            packages["not installed on the machine that wrote this"].append(f"{name} {version}")
    lines = [
        "# Dependencies by licence",
        "",
        "What `requirements.lock` pins, development tools included, and the licence that each",
        "package's own metadata state; `docs/dependencies.py` writes this page. Ages of TensorFlow",
        "and tensorflow-addons, and what protects from them:",
        "[build notes](../BUILD_NOTES.md#supply-chain).",
        "",
        "| licence | packages | |",
        "|---|---|---|",
    ]
    for name, members in sorted(packages.items(), key=lambda item: (-len(item[1]), item[0])):
        lines.append(f"| {name} | {len(members)} | {', '.join(members)} |")
    (ROOT / "docs" / "dependencies.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
