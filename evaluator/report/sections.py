"""The report's sections on a split: scores, groups, pictures, learning, what was scored."""

import io
import math
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluator import bootstrap, statistics
from evaluator.models import Model
from evaluator.report import figures
from evaluator.report.page import Figure, Section
from ixi_tfds.documents import codec
from ixi_tfds.documents.model_card import ModelCard
from ixi_tfds.images.metrics import METRICS

_GROUPS = {"site": "Site", "sex": "Sex", "age_band": "Age"}


def scores_section(facts: Mapping[str, Any]) -> Section:
    """A table for each metric over all slices, with the thesis's published rows."""
    tables, notes = {}, []
    columns = ("mean", "std", "min", "max")
    for name, metric in METRICS.items():
        rows = []
        for entry in facts["models"]:
            rows.append([entry["model"], *map(metric.shown, entry[name].values())])
            published = entry["published"]
            if published and f"{name}_mean" in published:
                values = [published[f"{name}_{column}"] for column in columns]
                row = [f"thesis's {published['recipe']}, published", *map(metric.shown, values)]
                if row not in rows:
                    rows.append(row)
        caption = f"{metric.title}, {metric.better} is better"
        tables[caption] = pd.DataFrame(rows, columns=["", *columns])
    if any(entry["published"] for entry in facts["models"]):
        notes.append(
            "Published rows are those that the thesis reports for that kind of model on its own "
            "2,880 test slices, 256x256 and of other people, not results on these slices."
        )
    for entry in facts["models"]:
        if entry["published"] and entry["published"]["differing"]:
            notes.append(f"{entry['model']} was trained with {entry['published']['differing']}.")
    scales, capped = facts["ms_ssim_scales"], sum(e["slices_at_psnr_cap"] for e in facts["models"])
    notes.append(
        "Each slice counts once; std is that of the population. Slices are in [0, 1]; SSIM has an "
        "11x11 Gaussian window of sigma 1.5, k1 = 0.01, k2 = 0.03. MS-SSIM has "
        + (
            "all five scales. "
            if scales == 5
            else f"{scales} of its five scales, as this size allows no more, with their weights "
            "scaled to sum to 1: its values do not compare with those of five scales. "
        )
        + f"PSNR is cut off at {facts['psnr_cap_db']:.0f} dB, where slices are equal to within "
        f"rounding; {capped or 'no'} value{'' if capped == 1 else 's'} reached that."
    )
    return Section("Scores over all slices", tables=tables, notes=notes)


def subjects_section(facts: Mapping[str, Any]) -> Section:
    """Means over people, and paired differences between models, with intervals."""
    people = facts["subjects"]
    rows = [
        [entry["model"], *(_with_interval(name, entry["by_subject"][name]) for name in METRICS)]
        for entry in facts["models"]
    ]
    labels = [metric.title for metric in METRICS.values()]
    tables = {"Mean over people [95% interval]": pd.DataFrame(rows, columns=["", *labels])}
    differences = facts["paired_differences"]
    if differences["rows"]:
        table: dict[str, list[str]] = {}
        for row in differences["rows"]:
            cell = _with_interval(row["metric"], row, signed=True)
            table.setdefault(row["model"], []).append(cell)
        tables[f"Minus {differences['reference']}, on the same people [95% interval]"] = (
            pd.DataFrame([[model, *cells] for model, cells in table.items()], columns=["", *labels])
        )
    note = (
        f"Each of the {people} people counts once. Intervals are by bootstrap: people, not slices, "
        f"are drawn with replacement, {facts['intervals']['draws']} times; the ends are the "
        f"percentiles 2.5 and 97.5 of the mean. {bootstrap.caution(people)}"
    )
    return Section("Scores by person", tables=tables, notes=[note])


def groups_section(frame: pd.DataFrame) -> Section:
    """Means by site, sex and age band, each if there is more than one."""
    frame = frame.assign(age_band=statistics.age_bands(frame["age"]))
    tables = {}
    for column, title in _GROUPS.items():
        if frame[column].nunique() < 2:
            continue
        table = statistics.by_group(frame, [column, "model"])
        table[column] = [str(value) or "unknown" for value in table[column]]
        tables[f"By {title.lower()}"] = _shown(table, {column: title})
    note = "Means over the slices of each group; groups of few people say little."
    return Section("Scores by group", tables=tables, notes=[note])


def people_section(frame: pd.DataFrame) -> Section:
    """Every person's means, those with the lowest PSNR first."""
    table = statistics.by_group(frame, ["subject", "site", "sex", "age", "model"])
    hardest = table.groupby("subject")["psnr"].transform("mean")
    table = table.assign(hardest=hardest).sort_values(["hardest", "subject"], kind="stable")
    table = table.drop(columns=["hardest", "subjects"])
    table["site"] = [site or "unknown" for site in table["site"]]
    table["age"] = ["unknown" if math.isnan(age) else f"{age:.0f}" for age in table["age"]]
    titles = {"subject": "Person", "site": "Site", "sex": "Sex", "age": "Age"}
    return Section("Every person", tables={"": _shown(table, titles)})


def spread_section(frame: pd.DataFrame) -> Section:
    """Histograms of metrics, and metrics against the slice index."""
    panels = {}
    for name in ("psnr", "ssim"):
        title = METRICS[name].title
        panels[f"Histogram of {title}"] = figures.histogram(frame, name)
        panels[f"{title} against the slice index"] = figures.by_slice_index(frame, name)
    return Section("How the scores spread", figures=[Figure("", panels)])


def gallery_section(
    chosen: Mapping[str, str],
    originals: Mapping[str, np.ndarray],
    models: Sequence[Model],
    frame: pd.DataFrame,
) -> Section:
    """Original, reconstruction and residual of a few slices, whole and zoomed.

    Args:
      chosen: key of each slice by its name, such as "median".
      originals: the slices by key, float32 [H, W].
      models: models whose reconstructions are shown.
      frame: the scores.
    """
    made = {
        key: {model.name: reconstruct(model, image) for model in models}
        for key, image in originals.items()
    }
    pairs = [(originals[key], image) for key, images in made.items() for image in images.values()]
    limit = figures.residual_limit(pairs)
    scores = frame.set_index(["key", "model"])
    shown = []
    for name, key in chosen.items():
        original = originals[key]
        # The same place for all models, so that their zooms compare.
        residuals = [np.abs(original - image) for image in made[key].values()]
        place = figures.worst_place(np.mean(residuals, axis=0))
        for model, image in made[key].items():
            panels = {
                "original": figures.slice_png(original),
                "reconstruction": figures.slice_png(image),
                "residual": figures.residual_png(original - image, limit),
                "original, zoom": figures.slice_png(figures.zoom(original, place)),
                "reconstruction, zoom": figures.slice_png(figures.zoom(image, place)),
                "residual, zoom": figures.residual_png(
                    figures.zoom(original - image, place), limit
                ),
            }
            psnr, ssim = scores.loc[(key, model), ["psnr", "ssim"]]
            caption = f"{name.capitalize()}: {key}, {model}, PSNR {psnr:.2f} dB, SSIM {ssim:.4f}"
            shown.append(Figure(caption, panels, slices=True))
    by = "PSNR" if len(models) == 1 else "the models' mean PSNR"
    text = (
        f"Chosen by their place in the order of {by}. The zoom is where the reconstruction is "
        "furthest off. The residual is original minus reconstruction: red where the "
        "reconstruction is too dark, blue where it is too bright. Its colours are the same in all "
        f"pictures and saturate at \u00b1{limit:.3f}."
    )
    return Section("Best, median and worst reconstructions", text=[text], figures=shown)


def reconstruct(model: Model, image: np.ndarray) -> np.ndarray:
    """The model's reconstruction of one slice, float32 [H, W]."""
    return np.asarray(model.reconstruct(image[None, ..., None]))[0, ..., 0]


def learning_section(
    histories: Mapping[str, pd.DataFrame], cards: Mapping[str, ModelCard]
) -> Section:
    """The learning curves of training runs.

    Args:
      histories: `history.csv` of the runs, by model; models without one are left out.
      cards: cards of all models of the report.
    """
    panels = {}
    by_loss: dict[str, dict[str, pd.DataFrame]] = {}
    for model, history in histories.items():
        loss = str(cards[model].flags.get("loss", "loss"))
        by_loss.setdefault(loss, {})[model] = history
    for loss, runs in by_loss.items():
        for column, label in (("val_loss", "validation"), ("loss", "training")):
            label = f"{label} loss ({loss})"
            panels[label] = figures.learning_curves(runs, column, label, models=list(cards))
    label = "validation PSNR (dB)"
    panels[label] = figures.learning_curves(histories, "val_psnr", label, models=list(cards))
    note = "Losses of different kinds do not compare, so each kind has plots of its own."
    return Section("Learning", figures=[Figure("", panels)], notes=[note])


def origin_section(facts: Mapping[str, Any], models: Sequence[Model]) -> Section:
    """Dataset, models and environment, and the models' cards."""
    shared = {
        "Dataset": f"{facts['dataset']}, version {facts['dataset_version']}",
        "Split": f"{facts['split']}: {facts['slices']} slices of {facts['subjects']} people",
        "Size of its slices": " x ".join(map(str, facts["slice_size"])),
        "Dataset's fingerprint": facts["dataset_fingerprint"] or "none recorded",
        **{f"SHA-256 of {model.name}": model.sha256 for model in models},
        **_environment(),
    }
    tables = {"": _facts(shared)}
    cards = {model.name: _scalars(codec.to_plain(model.card)) for model in models}
    told = {model: values for model, values in cards.items() if values}
    if told:
        table = pd.DataFrame(told).fillna("")
        tables["The models' own cards"] = table.rename_axis("").reset_index()
    return Section("What was scored, and with what", tables=tables)


def find_histories(
    models: Sequence[Model], workdirs: Sequence[pathlib.Path]
) -> dict[str, pd.DataFrame]:
    """`history.csv` of the run that made each model, by the model's name, where it exists.

    `workdirs` has the working folder of each model's run. If it is empty, a model in
    `W/export/<model>/<version>`, where the trainer exports it, belongs to the run in W.
    """
    if not workdirs:
        workdirs = [
            model.folder.parents[2] if model.folder.parts[-3:-2] == ("export",) else model.folder
            for model in models
        ]
    found = {}
    for model, workdir in zip(models, workdirs, strict=True):
        path = workdir / "history.csv"
        if path.is_file():
            history = pd.read_csv(io.BytesIO(path.read_bytes()))
            if {"epoch", "loss", "val_loss", "val_psnr"} <= set(history.columns):
                found[model.name] = history
    return found


def _shown(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """The table as it is shown: rounded metrics and titled columns."""
    for name, metric in METRICS.items():
        table[name] = [metric.shown(value) for value in table[name]]
        titles = {**titles, name: metric.title}
    titles = {"model": "Model", "subjects": "People", "slices": "Slices", **titles}
    return table.rename(columns=titles)


def _with_interval(metric: str, row: Mapping[str, Any], *, signed: bool = False) -> str:
    mean, *ends = (row[name] for name in ("mean", "low", "high"))
    shown = METRICS[metric].shown(mean, signed=signed)
    if None in ends:
        return f"{shown} [one person: none]"
    low, high = (METRICS[metric].shown(end, signed=signed) for end in ends)
    return f"{shown} [{low}, {high}]"


def _facts(values: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"": list(values), " ": list(values.values())})


def _scalars(card: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The card's values by dotted path; a list becomes one line."""
    found: dict[str, str] = {}
    for key, value in card.items():
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            found[f"{prefix}{key}"] = ", ".join(map(str, value))
        else:
            found[f"{prefix}{key}"] = str(value)
    return found


def _environment() -> dict[str, str]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
    ]
    return {
        "Device": ", ".join(names) or f"CPU, {_cpu()}",
        "Python": platform.python_version(),
        "TensorFlow": tf.__version__,
        "NumPy": np.__version__,
        "pandas": pd.__version__,
        "System": platform.platform(terse=True),
    }


def _cpu() -> str:
    """The processor's name and cores, or its architecture if the name is unknown."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
