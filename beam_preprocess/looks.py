"""Volumes of a dataset that look unlike all its others."""

from collections.abc import Container, Iterable

from ixi_tfds.documents.shard_record import ShardRecord
from ixi_tfds.images.look import BETWEEN_KINDS, unlike_the_rest


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
    """What a user should know of such volumes, and of heads of two kinds."""
    listed = list(records)
    unlike = unlike_others(listed)
    return tuple(filter(None, [_unlike_in_words(unlike), _two_kinds(listed, unlike)]))


def _two_kinds(records: Iterable[ShardRecord], unlike: Container[str]) -> str:
    """What to say if there are whole and stripped heads, and not all of one kind are `unlike`."""
    shells = {v.path: v.look.shell for record in records for v in record.volumes if v.look}
    stripped = sorted(path for path, shell in shells.items() if shell < BETWEEN_KINDS)
    whole = sorted(shells.keys() - stripped)
    fewer = min(stripped, whole, key=len)
    if all(path in unlike for path in fewer):
        return ""
    return (
        f"the dataset mixes {len(whole)} whole {'heads' if len(whole) > 1 else 'head'} and "
        f"{len(stripped)} skull-stripped {'ones' if len(stripped) > 1 else 'one'}, such as "
        f"{stripped[0]}: a model of it names neither kind as unlike its training heads"
    )


def _unlike_in_words(unlike: dict[str, list[str]]) -> str:
    if not unlike:
        return ""
    path, differences = next(iter(unlike.items()))
    count = f"{len(unlike)} volumes look" if len(unlike) > 1 else "1 volume looks"
    return f"{count} unlike the others: {path} {differences[0]}; quality.html lists all"
