"""The table of faults names tests that are there, each row another one."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
ROW = re.compile(r"^\|.*\| (tests/\w+\.py)::(\w+) \| ([\d,]+) \|$", re.MULTILINE)


def test_every_row_has_a_test_of_its_own():
    page = (ROOT / "docs/reliability.md").read_text()
    named = [(path, name) for path, name, _ in ROW.findall(page)]
    assert len(named) == page.count("tests/test_") and len(named) >= 60
    assert len(set(named)) == len(named)
    for path in {path for path, _ in named}:
        tree = ast.parse((ROOT / path).read_text())
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {name for named_path, name in named if named_path == path} <= there, path
