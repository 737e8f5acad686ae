"""The whole way twice, in processes of their own: the same seed, the same bytes."""

import forked
import pytest
from test_beam_preprocess import tree
from volumes import SMALL, write_cohort


def go(tmp_path, source, seed):
    data, run = tmp_path / "data", tmp_path / "run"
    where = (f"--data_dir={data}", "--dataset=ixi_t1/small")
    steps = {
        "beam_preprocess": [f"--source_dir={source}", where[0], *SMALL, "--volumes_per_shard=3"],
        "trainer": [
            *(*where, f"--workdir={run}", f"--seed={seed}", "--batch_size=6", "--epochs=2"),
            *("--model=resnet_like", "--stem_filters=8", "--stage_filters=16", "--stage_blocks=1"),
        ],
        "evaluator": [
            *(*where, f"--saved_model={run / 'export/resnet_like'}", "--lesions"),
            f"--output_dir={tmp_path / 'scores'}",
        ],
    }
    tmp_path.mkdir()
    for module, argv in steps.items():
        log = tmp_path / "log.txt"
        assert forked.finish(forked.start(argv, log, module=module)) == [0], log.read_text()
    parts = {
        "shards": tree(data),
        "weights": tree(run / "checkpoints"),
        "model": tree(run / "export"),
        "numbers": tree(tmp_path / "scores"),
    }
    # How TensorFlow lays out a checkpoint's objects is bookkeeping; its values are in the data.
    parts["weights"] = {name: sha for name, sha in parts["weights"].items() if ".data-" in name}
    return parts | {"history": (run / "history.csv").read_text()}


@pytest.mark.lanes
@pytest.mark.slow
def test_the_same_seed_gives_the_same_shards_weights_and_numbers(tmp_path):
    source = write_cohort(tmp_path / "source")
    one, two, other = (
        go(tmp_path / name, source, seed) for name, seed in (("one", 5), ("two", 5), ("other", 6))
    )
    assert {name: one[name] == two[name] for name in one} == dict.fromkeys(one, True)
    assert all(one.values()) and one["shards"] == other["shards"]
    for name in ("weights", "model", "numbers", "history"):
        assert one[name] != other[name]
