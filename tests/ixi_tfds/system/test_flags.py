"""Configs as flags: declared once, checked, shown, read from a command line and written back."""

import dataclasses
import importlib
import re

import pytest
from absl import flags as absl_flags

from ixi_tfds.system import commands, flags
from ixi_tfds.system.errors import UserError
from ixi_tfds.system.flags import flag


@dataclasses.dataclass(frozen=True)
class Noise:
    fraction: float = flag("Share.", 1.0, name="noise_fraction", least=0, most=1)
    sigma: float = flag("Deviation.", 0.0, least=0)
    internal: int = 7


@dataclasses.dataclass(frozen=True)
class Config:
    folder: str = flag("Folder.")
    model: str = flag("Model.", "small", choices={"small": 1, "big": 2})
    noise: Noise = dataclasses.field(default_factory=Noise, kw_only=True)
    stages: tuple[int, ...] = flag("Stages.", (8, 16), least=1, only_with="model=big")
    names: tuple[str, ...] = flag("Names.", ())
    rate: float = flag("Rate.", 0.1, above=0, below=1)
    augment: bool = flag("Augment.", True)
    window: str | None = flag("Window.", None)

    def __post_init__(self):
        flags.check(self)


def command(seen, **kwargs):
    usage = "python -m thing --folder=F\n\nDoes it."
    return commands.Command(Config, lambda *given: seen.append(given), "does it", usage, **kwargs)


def given(*argv):
    seen = []
    assert commands.run(command(seen), ["--folder=F", *argv]) == 0
    return seen[0][0]


def test_flags_that_are_not_given_have_the_defaults_of_the_config():
    assert given() == Config(folder="F")


def test_flags_reach_their_fields_those_of_configs_inside_too():
    config = given(
        *("--model=big", "--stages=4,5", "--names=a,b", "--noise_fraction=0.5", "--noaugment"),
        *("--sigma=2", "--window=1:2"),
    )
    noise = Noise(fraction=0.5, sigma=2.0)
    assert config == Config(
        folder="F",
        model="big",
        stages=(4, 5),
        names=("a", "b"),
        noise=noise,
        augment=False,
        window="1:2",
    )


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--model=x"], "--model=x: choose one of small, big"),
        (["--noise_fraction=2"], "--noise_fraction=2.0: must be between 0 and 1"),
        (["--noise_fraction=nan"], "--noise_fraction=nan: must be between 0 and 1"),
        (["--sigma=-1"], "--sigma=-1.0: must be at least 0"),
        (["--rate=0"], "--rate=0.0: must be above 0"),
        (["--rate=1"], "--rate=1.0: must be below 1"),
        (["--model=big", "--stages=8,0"], "--stages=8,0: must be at least 1"),
        (["--stages=8,x"], "give whole numbers with commas between them"),
        (["--stages=8"], "--stages goes with --model=big only"),
        (["--folder="], "--folder is missing; see --help"),
        (["--no_such=1"], "Unknown command line flag 'no_such'"),
        (["word"], "unexpected argument 'word': everything is given by flags"),
    ],
)
def test_what_cannot_be_used_gets_one_line_and_code_2(argv, message, capsys):
    seen = []
    assert commands.run(command(seen), ["--folder=F", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error and not seen


def test_a_flag_without_a_default_has_to_be_given(capsys):
    assert commands.run(command([]), []) == 2
    assert "--folder is missing" in capsys.readouterr().err


def test_python_code_is_held_to_the_same_bounds():
    with pytest.raises(UserError, match=re.escape("--rate=1.5: must be below 1")):
        Config(folder="F", rate=1.5)


def test_help_has_a_line_a_flag_with_choices_and_default(capsys):
    assert commands.run(command([]), ["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["python -m thing --folder=F", "", "Does it.", ""]
    assert "  --folder: Folder." in lines
    assert "  --model: Model. One of small, big. (default small)" in lines
    assert "  --stages: Stages. (default 8,16)" in lines
    assert "  --noise_fraction: Share. (default 1.0)" in lines
    assert sum(line.startswith("  --") for line in lines) == len(flags.flags_of(Config)) == 9


def test_flags_as_values_and_lines_make_the_same_config_again(tmp_path):
    config = given("--model=big", "--stages=4,5", "--noaugment", "--noise_fraction=0.25")
    values = flags.as_flags(config)
    assert list(values)[:4] == ["folder", "model", "noise_fraction", "sigma"]
    assert flags.from_flags(Config, values) == config
    lines = [line for line in flags.as_lines(values) if line != "--window=None"]
    file = tmp_path / "some.flags"
    file.write_text("\n".join(lines))
    assert given(f"--flagfile={file}") == config


def test_values_read_from_json_have_lists_for_tuples():
    values = flags.as_flags(Config(folder="F")) | {"stages": [1, 2]}
    assert flags.from_flags(Config, values).stages == (1, 2)


def test_arguments_that_are_no_flags_are_handed_on():
    seen = []
    assert commands.run(command(seen, passes_on=True), ["--folder=F", "--other=1"]) == 0
    assert seen[0][1] == ["--other=1"]


def test_an_interruption_is_code_130(capsys):
    def interrupted(config):
        raise KeyboardInterrupt

    stopped = commands.Command(Config, interrupted, "", "python -m thing")
    assert commands.run(stopped, ["--folder=F"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_bug_of_ours_keeps_its_traceback():
    def buggy(config):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        commands.run(commands.Command(Config, buggy, "", "python -m thing"), ["--folder=F"])


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name in ("default", "other"):
        (tmp_path / f"some_{name}.py").write_text(
            "from ixi_tfds.system.commands import Command\n"
            "from test_flags import Config\n"
            f"COMMAND = Command(Config, print, 'is {name}', 'python -m p {name}')\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    return {"": "some_default", "other": "some_other"}


@pytest.mark.parametrize("argv, which", [(["--folder=1"], ""), (["other", "--folder=2"], "other")])
def test_the_first_argument_names_the_command(package, argv, which, capsys):
    assert commands.run_package("p", package, argv) == 0
    assert f"folder='{argv[-1][-1]}'" in capsys.readouterr().out


def test_the_packages_help_lists_the_commands_and_the_flags_of_the_nameless_one(package, capsys):
    assert commands.run_package("p", package, ["--help"]) == 0
    out = capsys.readouterr().out
    assert "python -m p default" in out and "  other  is other\n" in out
    assert out.count("  --") == 9


def test_a_package_of_named_commands_only_asks_for_one(package, capsys):
    del package[""]
    for argv, given_text in (([], "none was given"), (["x"], "not 'x'")):
        assert commands.run_package("p", package, argv) == 2
        error = capsys.readouterr().err
        assert error == f"error: give one command, other ({given_text}); see --help\n"


def test_a_word_that_is_no_command_is_told_from_flags(package, capsys):
    assert commands.run_package("p", package, ["ohter", "--folder=2"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: 'ohter' is no command of p, which are other; everything else is given by flags\n"
    )


def test_absl_knows_the_types():
    values = flags.define(Config)
    assert isinstance(values["rate"].parser, absl_flags.FloatParser)
    values(["p", "--folder=F", "--rate=1e-3"])
    assert values["rate"].value == 0.001


@dataclasses.dataclass(frozen=True)
class Places:
    data_dir: str = flag("Folder.", path=True)
    models: tuple[str, ...] = flag("Folders.", (), path=True)
    pattern: str = flag("No path.", "")


def places(*argv):
    seen = []
    made = commands.Command(Places, lambda *given: seen.append(given), "", "python -m thing")
    return seen[0][0] if commands.run(made, argv) == 0 else None


def test_the_home_that_a_shell_leaves_in_a_flag_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    found = places("--data_dir=~/x", "--models=~/a,/b/~c,gs://d/,~", "--pattern=~x")
    assert found == Places(
        data_dir="/home/ann/x",
        models=("/home/ann/a", "/b/~c", "gs://d/", "/home/ann"),
        pattern="~x",
    )


def test_a_home_that_is_not_there_is_said(capsys):
    assert places("--data_dir=~nobody-of-this-name/x") is None
    assert "--data_dir=~nobody-of-this-name/x: there is no such home" in capsys.readouterr().err


def test_every_flag_of_free_text_is_a_path_or_known_to_be_none():
    modules = ("evaluator.score", "evaluator.reconstruct", "evaluator.anomalies", "trainer.tune")
    modules += ("trainer.train", "trainer.thesis", "beam_preprocess.make", "beam_preprocess.verify")
    modules += ("ixi_tfds.demo.command", "ixi_tfds.download.command")
    configs = [importlib.import_module(module).COMMAND.config for module in modules]
    found = [flag for config in configs for flag in flags.flags_of(config).values()]
    free = {one.name for one in found if one.kind is str and not one.choices and not one.path}
    assert free == {
        *("dataset", "split", "recipes", "cohort", "config", "bids_filter", "subject_pattern"),
        *("in_plane", "size", "slices", "spacing"),
    }
