"""Volumes of a dataset that look unlike all its others."""

from collections.abc import Iterable

from ixi_tfds.documents.shard_record import ShardRecord
from ixi_tfds.images.look import unlike_the_rest


def unlike_others(records: Iterable[ShardRecord]) -> dict[str, list[str]]:
    """What differs between a volume and the others, by path, for those that look unlike them."""
    looks = {
        volume.path: volume.look
        for record in records
        for volume in record.volumes
        if volume.look is not None
    }
    found = zip(looks, unlike_the_rest(list(looks.values())), strict=True)
    return {path: differences for path, differences in sorted(found) if differences}


def warnings_of(records: Iterable[ShardRecord]) -> tuple[str, ...]:
    """What a user should know of such volumes, in at most one sentence."""
    unlike = unlike_others(records)
    if not unlike:
        return ()
    path, differences = next(iter(unlike.items()))
    count = f"{len(unlike)} volumes look" if len(unlike) > 1 else "1 volume looks"
    return (f"{count} unlike the others: {path} {differences[0]}; quality.html lists all",)
