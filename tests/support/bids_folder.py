"""A small BIDS folder for the tests."""

import json

from volumes import write_head

PARTICIPANTS = """participant_id\tage\tsex\thandedness
sub-01\t25.5\tF\tR
sub-02\t89+\tm\tL
03\tn/a\tfemale\tR
sub-04\t930\tx\tR
sub-05\t31\tF\tR
sub-05\t32\tF\tR
"""


def write_bids(folder, subjects=12, described=True):
    """Heads of so many people; sub-02 came twice, sub-03 was scanned twice in one session."""
    for number in range(1, subjects + 1):
        name = f"sub-{number:02d}"
        write_head(folder / name / "anat", f"{name}_T1w", seed=number)
        write_head(folder / name / "anat", f"{name}_T2w", seed=number)
    (folder / "sub-02/anat").rename(folder / "sub-02/later")
    (folder / "sub-02/ses-b").mkdir()
    (folder / "sub-02/later").rename(folder / "sub-02/ses-b/anat")
    write_head(folder / "sub-02/ses-a/anat", "sub-02_ses-a_T1w", seed=102)
    write_head(folder / "sub-03/anat", "sub-03_run-2_T1w", seed=103)
    write_head(folder / "derivatives/sub-01/anat", "sub-01_desc-brain_T1w", seed=1)
    (folder / "participants.tsv").write_text(PARTICIPANTS)
    if described:
        (folder / "dataset_description.json").write_text(
            json.dumps({"Name": "heads", "BIDSVersion": "1.9.0"})
        )
    return folder
