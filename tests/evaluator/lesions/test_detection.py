"""From histograms of scores to rows, intervals, verdicts and the page's tables and pictures."""

import io
import json

import numpy as np
import PIL.Image
import pytest
import sklearn.metrics

from evaluator.lesions import detection, histograms
from evaluator.lesions.examples import Example
from evaluator.lesions.tallies import Found, Tally
from evaluator.report import lesions as anomaly_report

METHODS = ("model", "blurred input", "intensity")
LEVELS = 20


def scored_people(seed=0):
    """Levels of the pixels of seven people by method, and which of them are lesion.

    The model finds lesions better than the blurred input does and worse than the brightness; some
    people are far harder than others, so that people differ by more than methods do.
    """
    rng = np.random.default_rng(seed)
    people = {}
    for number in range(7):
        lesions = rng.random(120) < 0.25
        ease, noise = 2.0 * number, rng.normal(0, 2, 120)
        gains = dict(zip(METHODS, (1.0, 0.9, 1.6), strict=True))
        people[f"p{number}"] = (
            lesions,
            {
                method: np.clip(np.round(5 + gain * ease * lesions + noise), 0, LEVELS).astype(int)
                for method, gain in gains.items()
            },
        )
    return people


def tallies_of(people, direction="bright"):
    """The tallies of people whose first 50 pixels lie in one group and the others in another."""
    tallies = {}
    for method in METHODS:
        tally = tallies[method, direction] = Tally()
        for name, (lesions, levels) in people.items():
            scores = levels[method] / LEVELS
            for group, part in (("small", slice(50)), ("large", slice(50, None))):
                tally.add(histograms.count(scores[part], lesions[part]), subject=name, group=group)
    return tallies


def tallies_by_direction():
    """Other people for each direction, so that a page that mixes them up shows it."""
    tallies = {}
    for seed, direction in enumerate(("either", "bright", "dark")):
        tallies |= tallies_of(scored_people(seed), direction)
    return tallies


def area(levels, lesions):
    """Average precision, by its definition."""
    found = levels >= np.arange(LEVELS, -1, -1)[:, None]
    precision = (found & lesions).sum(axis=1) / np.maximum(found.sum(axis=1), 1)
    recall = (found & lesions).sum(axis=1) / lesions.sum()
    return float((precision * np.diff(recall, prepend=0)).sum())


def dice(levels, lesions, above):
    found = levels > above
    return 2 * (found & lesions).sum() / (found.sum() + lesions.sum())


LIMITS = dict(zip(METHODS, (8, 9, 12), strict=True))


@pytest.fixture(scope="module")
def measured():
    """Seven people, with thresholds between two levels, another for each method."""
    people = scored_people()
    limits = {}
    for method, level in LIMITS.items():
        between = histograms.count(np.array([(level + 0.5) / LEVELS]), np.array([False]))
        limits[method, "bright"] = int(between.any(axis=0).argmax())
    rows, comparisons = detection.measure(tallies_of(people), limits, seed=11)
    return people, rows, comparisons


def pooled(people, method, names):
    lesions = np.concatenate([people[name][0] for name in names])
    return np.concatenate([people[name][1][method] for name in names]), lesions


def test_intervals_are_of_people_drawn_again_and_differences_are_paired(measured):
    """Both ends, from the same samples of people, each sample pooled and measured anew."""
    people, rows, comparisons = measured
    weights = np.random.default_rng(11).multinomial(7, [1 / 7] * 7, size=1000)
    samples = [
        [name for name, n in zip(people, row, strict=True) for _ in range(n)] for row in weights
    ]
    drawn = {
        method: np.array([area(*pooled(people, method, names)) for names in samples])
        for method in METHODS
    }
    for row in rows[:3]:
        method = row["method"]
        assert row["auprc"] == pytest.approx(area(*pooled(people, method, people)))
        found = row["auprc_low"], row["auprc_high"]
        assert found == pytest.approx(tuple(np.percentile(drawn[method], [2.5, 97.5])))
        at = [dice(*pooled(people, method, names), LIMITS[method]) for names in samples]
        assert row["dice"] == pytest.approx(dice(*pooled(people, method, people), LIMITS[method]))
        found = row["dice_low"], row["dice_high"]
        assert found == pytest.approx(tuple(np.percentile(at, [2.5, 97.5])))
    assert [(row["model"], row["baseline"]) for row in comparisons] == [
        ("model", "blurred input"),
        ("model", "intensity"),
    ]
    for row in comparisons:
        paired = drawn["model"] - drawn[row["baseline"]]
        low, high = np.percentile(paired, [2.5, 97.5])
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        overall = {each["method"]: each["auprc"] for each in rows[:3]}
        difference = overall["model"] - overall[row["baseline"]]
        assert row["auprc_difference"] == pytest.approx(difference)
        # So that the test could see intervals of samples that are not the same.
        apart = np.percentile(drawn["model"] - drawn[row["baseline"]][::-1], [2.5, 97.5])
        assert np.ptp(apart) > 2 * (high - low)
    assert [row["verdict"] for row in comparisons] == ["better", "worse"]


def test_rows_count_the_pixels_of_their_group_or_person(measured):
    people, rows, _ = measured
    assert [(row["method"], row["subject"], row["group"]) for row in rows] == [
        *((method, "", "") for method in METHODS),
        *((method, "", group) for method in METHODS for group in ("large", "small")),
        *((method, person, "") for method in METHODS for person in people),
    ]
    parts = {"": slice(None), "small": slice(50), "large": slice(50, None)}
    for row in rows:
        here = [
            (levels[row["method"]][parts[row["group"]]], lesions[parts[row["group"]]])
            for name, (lesions, levels) in people.items()
            if row["subject"] in ("", name)
        ]
        levels, lesions = (np.concatenate(part) for part in zip(*here, strict=True))
        assert (row["pixels"], row["lesion_pixels"]) == (len(lesions), lesions.sum())
        assert row["prevalence"] == pytest.approx(lesions.mean())
        assert row["auprc"] == pytest.approx(area(levels, lesions))
        assert row["dice"] == pytest.approx(dice(levels, lesions, LIMITS[row["method"]]))
        best = max(dice(levels, lesions, above) for above in range(-1, LEVELS + 1))
        assert row["best_dice"] == pytest.approx(best)
        assert LIMITS[row["method"]] < LEVELS * row["threshold"] < LIMITS[row["method"]] + 1
        assert ("auprc_low" in row) == (not row["subject"] and not row["group"])


def test_methods_that_score_alike_are_not_told_apart_and_one_person_has_no_interval():
    people = scored_people()
    same = {
        name: (lesions, dict.fromkeys(METHODS, levels["model"]))
        for name, (lesions, levels) in people.items()
    }
    tallies = tallies_of(same)
    limits = dict.fromkeys(tallies, 0)
    _, comparisons = detection.measure(tallies, limits, seed=0)
    for row in comparisons:
        assert (row["low"], row["high"], row["verdict"]) == (0, 0, "not told apart")
    # Alike but for noise: intervals lie on both sides of 0.
    rng = np.random.default_rng(5)
    noisy = {
        name: (
            lesions,
            {
                method: np.clip(5 + 2 * lesions + rng.integers(-4, 5, 120), 0, LEVELS)
                for method in METHODS
            },
        )
        for name, (lesions, _) in people.items()
    }
    _, comparisons = detection.measure(tallies_of(noisy), limits, seed=0)
    for row in comparisons:
        assert row["low"] < 0 < row["high"] and row["verdict"] == "not told apart"
    rows, comparisons = detection.measure(tallies_of({"p3": people["p3"]}), limits, seed=0)
    assert {row["verdict"] for row in comparisons} == {"no interval"}
    assert all(np.isnan([row["low"], row["high"]]).all() for row in comparisons)
    assert not any("auprc_low" in row for row in rows)


def test_each_method_has_the_threshold_of_its_own_healthy_pixels():
    healthy, expected = {}, {}
    for number, method in enumerate(METHODS):
        scores = np.random.default_rng(number).random(999) ** (number + 1)
        tally = healthy[method, "dark"] = Tally()
        for person, part in (("a", slice(400)), ("b", slice(400, None))):
            counts = histograms.count(scores[part], np.zeros(999, bool)[part])
            tally.add(counts, subject=person, group="no lesion")
        expected[method, "dark"] = np.percentile(scores, 80, method="inverted_cdf")
    limits = detection.thresholds(healthy, 80)
    found = {method: histograms.upper_edge(limit) for method, limit in limits.items()}
    assert found == pytest.approx(expected, abs=2e-4)


def test_a_tally_adds_up_by_person_and_by_group_apart():
    counts = [np.full((2, 3), 10**number, np.int32) for number in range(4)]
    given = [each.copy() for each in counts]
    tally = Tally()
    for each, (person, group) in zip(counts, ["ax", "ay", "bx", "ax"], strict=True):
        tally.add(each, subject=person, group=group)
    assert {name: table[0, 0] for name, table in tally.subjects.items()} == {"a": 1011, "b": 100}
    assert {name: table[0, 0] for name, table in tally.groups.items()} == {"x": 1101, "y": 10}
    assert (tally.overall == 1111).all() and tally.overall.dtype == np.int64
    np.testing.assert_array_equal(counts, given)


def test_files_hold_all_rows_and_no_value_that_is_no_number(measured):
    _, rows, comparisons = measured
    rows = [*rows, {**rows[-1], "auroc": float("nan")}]
    files = detection.result_files(rows, comparisons, {"seed": 11, "counts": (1, 2)})
    assert set(files) == {"anomalies.csv", "anomalies.json"}
    assert len(files["anomalies.csv"].splitlines()) == 1 + len(rows)
    content = json.loads(files["anomalies.json"], parse_constant=pytest.fail)
    assert (content["seed"], content["counts"]) == (11, [1, 2])
    assert len(content["overall"]) == 3 and len(content["comparisons"]) == 2
    assert content["overall"][1]["auprc"] == round(rows[1]["auprc"], 6)
    nothing = detection.result_files([{**rows[0], "auroc": float("inf")}], [], {})
    assert json.loads(nothing["anomalies.json"])["overall"][0]["auroc"] is None


FACTS = {
    "lesions": "7 volumes",
    "models": {"model": "cafe"},
    "dataset": "ixi_t1/tiny",
    "dataset_fingerprint": "beef",
    "counts": {"slices": 7},
    "settings": {"region": "inner", "percentile": 97.5, "blur_sigma_pixels": 1.28},
}


def rows_with(measured):
    """The rows once for each direction, for the page has a table for each."""
    _, rows, comparisons = measured
    every = [{**row, "looks_for": way} for way in ("either", "bright", "dark") for row in rows]
    return every, comparisons


def test_the_page_tells_the_best_method_and_the_numbers_of_each(measured):
    rows, comparisons = rows_with(measured)
    overall = {row["method"]: row for row in measured[1][:3]}
    (lead,) = anomaly_report.lead(FACTS, rows)
    assert f"{overall['intensity']['auprc']:.4f}, is intensity, looking for either" in lead
    assert "a baseline without any model" in lead
    assert f"{overall['model']['prevalence']:.3%} of 840 pixels" in lead
    best = [{**rows[0], "auprc": 0.99}, *rows[1:]]
    assert "0.9900, is model, looking for either: a model." in anomaly_report.lead(FACTS, best)[0]
    found = Found(tallies_by_direction(), {}, [])
    page = {part.title: part for part in anomaly_report.sections(FACTS, rows, comparisons, found)}
    assert "Lesions and residuals" not in page
    table = page["Lesions: all pixels"].tables[""].set_index(["Method", "Looks for"])
    for method, row in overall.items():
        line = table.loc[method, "dark"]
        for name, title in (
            ("auprc", "AUPRC"),
            ("auroc", "AUROC"),
            ("dice", "Dice at the threshold"),
        ):
            low, high = row[f"{name}_low"], row[f"{name}_high"]
            assert line[title] == f"{row[name]:.4f} [{low:.4f}, {high:.4f}]"
        assert line["Threshold"] == f"{row['threshold']:.4f}"
    (note,) = page["Lesions: all pixels"].notes
    assert "97.5th percentile" in note and "well inside its upper half" in note
    compared = page["Lesions: models against baselines"]
    assert list(compared.tables[""]["The model is"]) == ["better", "worse"]
    row = comparisons[0]
    expected = f"{row['auprc_difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
    assert compared.tables[""]["Difference of AUPRC"][0] == expected
    by_group = page["AUPRC by group"].tables["Looking for bright"].set_index("")
    by_person = page["AUPRC by person"].tables["Looking for bright"].set_index("")
    for row in measured[1][3:]:
        table = by_group if row["group"] else by_person
        name = row["group"] or row["subject"]
        assert table.loc[name, row["method"]] == f"{row['auprc']:.4f}"
        assert table.loc[name, "chance"] == f"{row['prevalence']:.4f}"
    facts = dict(page["What was scored, and with what"].tables[""].to_numpy().tolist())
    assert facts["SHA-256 of model"] == "cafe" and facts["Dataset's fingerprint"] == "beef"


def test_each_plot_has_recall_and_precision_of_its_direction(measured, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        anomaly_report.figures,
        "precision_recall",
        lambda title, *given: drawn.update({title: given}),
    )
    found = Found(tallies_by_direction(), {}, [])
    anomaly_report.sections(FACTS, *rows_with(measured), found)
    assert list(drawn) == ["looking for either", "looking for bright", "looking for dark"]
    for seed, (lines, chance) in enumerate(drawn.values()):
        people = scored_people(seed)
        for method, (name, (recall, precision)) in zip(METHODS, lines.items(), strict=True):
            levels, lesions = pooled(people, method, people)
            assert name == f"{method}, {area(levels, lesions):.4f}"
            expected = sklearn.metrics.precision_recall_curve(lesions, levels)
            np.testing.assert_allclose(precision, expected[0][-2::-1])
            np.testing.assert_allclose(recall, expected[1][-2::-1])
            assert chance == pytest.approx(lesions.mean())


def test_pictures_are_red_where_the_slice_is_brighter_than_expected(measured):
    image = np.full((6, 8), 0.5, np.float32)
    image[1, 2], image[4, 5] = 0.9, 0.1
    mask = np.zeros((6, 8), bool)
    mask[1, 2] = True
    examples = [Example("x/001", image, mask, {"model": np.full((6, 8), 0.5, np.float32)})]
    found = Found(tallies_by_direction(), {}, examples)
    *_, pictures, _ = anomaly_report.sections(FACTS, *rows_with(measured), found)
    assert pictures.title == "Lesions and residuals"
    (figure,) = pictures.figures
    assert figure.caption == "x/001"
    assert list(figure.panels) == ["slice", "lesion", "model", "slice minus model"]
    shown = {
        # Upright: columns of the slice, which run to superior, are rows from below.
        name: np.rot90(np.asarray(PIL.Image.open(io.BytesIO(png)).convert("RGB")).astype(int), -1)
        for name, png in figure.panels.items()
    }
    assert (shown["slice"][1, 2] == 230).all() and (shown["slice"][4, 5] == 26).all()
    assert (shown["model"] == 128).all()
    red, _, blue = np.moveaxis(shown["slice minus model"], -1, 0)
    assert red[1, 2] > blue[1, 2] + 50 and blue[4, 5] > red[4, 5] + 50
    assert np.ptp(shown["lesion"][1, 2]) > 50 and np.ptp(shown["lesion"][0, 0]) == 0
