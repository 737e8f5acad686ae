"""Writes docs/dependencies.md: what `make setup` installs, by licence.

.venv/bin/python docs/dependencies.py, after `make setup` with Python 3.11 and with a later one.
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
    """Name and version of every package in the locks of the lanes."""
    texts = [(ROOT / f"requirements/{lane}.lock").read_text() for lane in ("classic", "current")]
    line = r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)"
    return sorted(set(re.findall(line, "\n".join(texts), re.MULTILINE)))


def metadata(name, version):
    """The metadata of a package in any environment that `make setup` made, or None."""
    folders = list(map(str, ROOT.glob(".venv-*/lib/python*/site-packages")))
    found = importlib.metadata.distributions(name=name, path=folders)
    return next((each.metadata for each in found if each.version == version), None)


def licence(facts):
    """What a package's own metadata say, in SPDX's spelling where that is clear."""
    if facts is None:
        return "not installed on the machine that wrote this"
    if facts.get("License-Expression"):
        return facts["License-Expression"]
    prefix = "License :: OSI Approved :: "
    classified = [c for c in facts.get_all("Classifier") or () if c.startswith(prefix)]
    stated = [c.removeprefix(prefix) for c in classified] or [
        (facts.get("License") or "not stated").strip()
    ]
    return " AND ".join(SPELLINGS.get(s.splitlines()[0], s.splitlines()[0]) for s in stated)


def main():
    """Write the page."""
    packages = collections.defaultdict(list)
    for name, version in locked():
        packages[licence(metadata(name, version))].append(f"{name} {version}")
    lines = [
        "# Dependencies by licence",
        "",
        "What `requirements/classic.lock` (Python 3.11) and `requirements/current.lock` (3.12 and",
        "3.13) pin, development tools included, and the licence that each package's own metadata",
        "state; `docs/dependencies.py` writes this page. On machines with a GPU twelve packages of",
        "NVIDIA are added, CUDA's libraries. Most of them are not free software; the licence comes",
        "with each. Ages of TensorFlow and tensorflow-addons, and what protects from them:",
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
