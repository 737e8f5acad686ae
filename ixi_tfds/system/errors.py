"""The errors a person can cause, and so should be able to read.

Every error below carries one sentence that says what is wrong, where, and what to do. The command
line prints that sentence and exits with code 2; any other exception is a bug of ours and keeps its
traceback.
"""


class UserError(Exception):
    """Something the user can put right: a flag, a file, a folder."""


class WorkbookError(UserError):
    """The demographics workbook cannot be read as one."""


class DownloadError(UserError):
    """A file could not be fetched whole from any of its addresses."""


class DatasetError(UserError):
    """A dataset on disk is missing, unfinished or not the one that was asked for."""


class ScanError(UserError):
    """A volume is refused.

    `reason` is one short slug out of `REASONS`; tables and `rejected.jsonl` group by it.
    """

    REASONS = (
        "other_modality",
        "label_map",
        "same_person",
        "unreadable",
        "not_nifti",
        "corrupt_data",
        "not_3d",
        "too_large",
        "no_orientation",
        "wrong_in_plane_size",
        "too_few_slices",
        "non_finite",
        "constant",
        "near_empty",
    )

    def __init__(self, reason: str, path: str, detail: str) -> None:
        if reason not in self.REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        super().__init__(reason, path, detail)
        self.reason = reason
        self.path = path
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"
