"""Mutates the modules that decide numbers, and counts what no test notices: `make mutants`.

cosmic-ray makes the mutants: an operator replaced, a number off by one, a condition inverted. Of
each module in `tests/mutants.toml` a seeded sample is tried, each mutant against the module's own
fast tests. Those listed there as equivalent change nothing that can be seen, and do not count.
"""

import argparse
import ast
import difflib
import hashlib
import json
import pathlib
import random
import sys
import time
import tomllib

# The project comes before this folder, which has folders of its packages' names.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).with_name("support")))
from changed_copies import ROOT, Change, try_all

# Behind our own packages, so that none of theirs takes the place of one that the tests need.
sys.path.append(str(ROOT / ".venv-mutants/packages"))

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

LAST = ROOT / ".venv-mutants/survivors.json"


def mutants(code):
    """Every mutant of a module, as (operator, occurrence), in a fixed order."""
    tree, typed = get_ast(code), annotations(code)
    for name in sorted(cosmic_ray.plugins.operator_names()):
        operator = cosmic_ray.plugins.get_operator(name)
        if operator.arguments():
            continue
        places = [
            start for node in ast_nodes(tree) for start, _ in operator().mutation_positions(node)
        ]
        yield from ((name, number) for number, at in enumerate(places) if at not in typed)


def annotations(code):
    """Every (line, column) within a type annotation: `int | None` decides nothing."""
    return {
        (line, column)
        for node in ast.walk(ast.parse(code))
        for name in ("annotation", "returns")
        for part in ast.walk(getattr(node, name, None) or ast.Pass())
        if hasattr(part, "lineno")
        for line in range(part.lineno, part.end_lineno + 1)
        for column in range(part.col_offset, part.end_col_offset)
    }


def sample(path, code, size):
    """So many mutants of a module, as its whole text, the same each time; and how many it has."""
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little")
    everything = list(mutants(code))
    drawn = random.Random(seed).sample(everything, min(size, len(everything)))
    texts = [mutate_code(code, cosmic_ray.plugins.get_operator(o)(), n) for o, n in drawn]
    return texts, len(everything)


def changed(before, after):
    """What a mutant changes: the lines taken out, and the lines put in."""
    lines = [
        line
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    return tuple(" ".join(x[1:].strip() for x in lines if x[0] == sign) for sign in "-+")


def score(module, equivalent, again, args):
    """Try a module's mutants; give the row of the table and the survivors."""
    path = module["path"]
    code = (ROOT / path).read_text()
    drawn, everything = sample(path, code, args.size)
    if args.again:
        drawn = [text for text in drawn if list(changed(code, text)) in again.get(path, [])]
    tried = [text for text in drawn if (path, *changed(code, text)) not in equivalent]
    tests, started = tuple(module["tests"]), time.monotonic()
    ((passed, output),) = try_all([Change(path, code, tests)], jobs=1, title=path)
    if passed != 0:
        raise SystemExit(f"{path}: its tests fail without any mutant:\n{output[-3000:]}")
    # What takes ten times as long as the tests do hangs.
    limit = max(60, 10 * (time.monotonic() - started))
    changes = [Change(path, text, tests, limit) for text in tried]
    codes = [code for code, _ in try_all(changes, jobs=args.jobs, title=path)]
    left = [changed(code, t) for t, passed in zip(tried, codes, strict=True) if passed == 0]
    return (path, everything, len(drawn), len(drawn) - len(tried), len(tried) - len(left)), left


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", default="", help="only modules whose path holds this text")
    parser.add_argument("--size", type=int, default=40, help="mutants a module")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at once")
    parser.add_argument("--again", action="store_true", help="only those that survived last time")
    args = parser.parse_args()
    table = tomllib.loads((ROOT / "tests/mutants.toml").read_text())
    equivalent = {(e["path"], e["before"], e["after"]) for e in table.get("equivalent", ())}
    last = json.loads(LAST.read_text()) if LAST.exists() else {}
    print("| module | mutants | drawn | equivalent | killed | of | score |")
    print("|---|---|---|---|---|---|---|")
    totals = [0, 0]
    for module in (m for m in table["module"] if args.k in m["path"]):
        row, left = score(module, equivalent, last, args)
        count = row[4] + len(left)
        cells = (*row, count, f"{row[4] / count:.0%}" if count else "")
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        for before, after in left:
            print(f"    survived: {before}\n         as: {after}", flush=True)
        totals = [totals[0] + row[4], totals[1] + count]
        last[row[0]] = left
        LAST.write_text(json.dumps(last, indent=1))
    print(f"killed: {totals[0]} of {totals[1]}, {totals[0] / max(totals[1], 1):.1%}")


if __name__ == "__main__":
    main()
