"""Mutates the modules that decide numbers, and counts what no test notices: `make mutants`.

cosmic-ray makes the mutants: an operator replaced, a number off by one, a condition inverted. Of
each module in `tests/mutants.toml` a seeded sample is tried, each mutant against the module's own
fast tests. Those listed there as equivalent change nothing that can be seen, and do not count.

Each mutant is a fork of one process that has imported TensorFlow and none of our code, so that it
costs the time of its tests. The checkout stays as it is: mutants live in copies of it.
"""

import argparse
import ast
import concurrent.futures
import difflib
import hashlib
import json
import multiprocessing
import os
import pathlib
import queue
import random
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).parent.parent
# Behind our own packages, so that none of theirs takes the place of one that the tests need.
sys.path.append(str(ROOT / ".venv-mutants/packages"))

import cosmic_ray.plugins  # noqa: E402
from cosmic_ray.ast import ast_nodes, get_ast  # noqa: E402
from cosmic_ray.mutating import mutate_code  # noqa: E402
from plant import copy_of_project  # noqa: E402
from tqdm import tqdm  # noqa: E402

FORKSERVER = multiprocessing.get_context("forkserver")
SLOW_TO_IMPORT = (
    "tensorflow",
    "tensorflow_datasets",
    "tensorflow_addons",
    "scipy.ndimage",
    "pytest",
)
SLOWEST = 60  # Seconds that a mutant may take at least, before it counts as one that hangs.


def annotations(code):
    """(line, column) of every node within a type annotation: `int | None` decides nothing."""
    positions = set()
    for node in ast.walk(ast.parse(code)):
        for name in ("annotation", "returns"):
            for part in ast.walk(getattr(node, name, None) or ast.Pass()):
                if hasattr(part, "lineno"):
                    positions.update(
                        (line, column)
                        for line in range(part.lineno, part.end_lineno + 1)
                        for column in range(part.col_offset, part.end_col_offset)
                    )
    return positions


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


def sample(path, code, size):
    """So many mutants of a module, the same each time."""
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little")
    everything = list(mutants(code))
    return random.Random(seed).sample(everything, min(size, len(everything))), len(everything)


def changed(before, after):
    """What a mutant changes: the lines taken out and the lines put in."""
    lines = [
        line
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    out, put = ([x[1:].strip() for x in lines if x[0] == sign] for sign in "-+")
    return " ".join(out), " ".join(put)


def run_pytest(project, tests, log):
    """Run in a fork: leave with pytest's exit code."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.chdir(project)
    os.environ["PYTHONPATH"] = project
    # A mutant may have the size and the second of the module that it replaces.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path.insert(0, project)
    import pytest

    os._exit(int(pytest.main(["-x", "-q", "--tb=short", "-p", "no:randomly", *tests])))


def passes(project, tests, limit):
    """Whether the tests pass in a copy of the project, within so many seconds."""
    log = pathlib.Path(project).with_suffix(".log")
    process = FORKSERVER.Process(target=run_pytest, args=(str(project), tests, str(log)))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0, log.read_text()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", default="", help="only modules whose path holds this text")
    parser.add_argument("--size", type=int, default=40, help="mutants a module")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at once")
    parser.add_argument("--survivors", type=pathlib.Path, default=ROOT / ".venv-mutants/last.json")
    parser.add_argument("--again", action="store_true", help="try the last survivors only")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    FORKSERVER.set_forkserver_preload(["__main__", *SLOW_TO_IMPORT])
    table = tomllib.loads((ROOT / "tests/mutants.toml").read_text())
    modules = [module for module in table["module"] if args.k in module["path"]]
    equivalent = {(e["path"], e["before"], e["after"]) for e in table.get("equivalent", ())}
    last = json.loads(args.survivors.read_text()) if args.again else {}
    survivors = {}
    with tempfile.TemporaryDirectory() as folder:
        copies = queue.SimpleQueue()
        for number in range(args.jobs):
            project = pathlib.Path(folder, f"copy{number}")
            project.mkdir()
            copy_of_project(project)
            copies.put(project)
        print(
            "| module | mutants | tried | equivalent | killed | score |\n|---|---|---|---|---|---|"
        )
        totals = [0, 0]
        for module in modules:
            path, code = module["path"], (ROOT / module["path"]).read_text()
            tried, everything = sample(path, code, args.size)
            versions = [
                mutate_code(code, cosmic_ray.plugins.get_operator(name)(), number)
                for name, number in tried
            ]
            versions = [v for v in versions if (path, *changed(code, v)) not in equivalent]
            if args.again:
                versions = [v for v in versions if list(changed(code, v)) in last.get(path, [])]
            started = time.monotonic()
            project = copies.get()
            whole, log = passes(project, module["tests"], 600)
            copies.put(project)
            if not whole:
                raise SystemExit(f"{path}: its tests fail without any mutant:\n{log[-3000:]}")
            limit = max(SLOWEST, 10 * (time.monotonic() - started))

            def survives(version, path=path, code=code, tests=module["tests"], limit=limit):
                project = copies.get()
                try:
                    (project / path).write_text(version)
                    return passes(project, tests, limit)[0]
                finally:
                    (project / path).write_text(code)
                    copies.put(project)

            with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
                results = list(
                    tqdm(pool.map(survives, versions), total=len(versions), desc=path, leave=False)
                )
            left = [changed(code, v) for v, lives in zip(versions, results, strict=True) if lives]
            survivors[path] = left
            killed = len(versions) - len(left)
            totals[0] += killed
            totals[1] += len(versions)
            same = len(tried) - len(versions)
            score = f"{killed / max(len(versions), 1):.0%}"
            print(
                f"| {path} | {everything} | {len(tried)} | {same} | {killed} | {score} |",
                flush=True,
            )
            for before, after in left:
                tqdm.write(f"    survived: {before}\n         as: {after}")
            args.survivors.write_text(json.dumps({**last, **survivors}, indent=1))
    print(f"killed: {totals[0]} of {totals[1]}, {totals[0] / max(totals[1], 1):.1%}")


if __name__ == "__main__":
    main()
