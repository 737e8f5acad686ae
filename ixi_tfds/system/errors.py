"""Errors that the user can fix.

The message of each is one sentence: what is wrong, where, and what to do. The command line prints
it and exits with code 2. Any other exception is a bug of ours and keeps its traceback.
"""


class UserError(Exception):
    """An error that the user can fix: in a flag, a file or a folder."""


class WorkbookError(UserError):
    """The demographics workbook cannot be read."""


class DownloadError(UserError):
    """A file could not be downloaded completely from any of its addresses."""


class DatasetError(UserError):
    """A dataset on disk is missing, unfinished or not the requested one."""


class ScanError(UserError):
    """A volume is refused.

    `reason` is one of `REASONS`; tables and `rejected.jsonl` group by it.
    """

    REASONS = (
        "other_modality",
        "label_map",
        "same_person",
        "no_person",
        "passed_over",
        "not_asked_for",
        "unreadable",
        "not_nifti",
        "corrupt_data",
        "not_3d",
        "too_large",
        "no_orientation",
        "wrong_in_plane_size",
        "other_spacing",
        "too_few_slices",
        "non_finite",
        "constant",
        "near_empty",
        "no_brain_mask",
        "unlike_training",
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
