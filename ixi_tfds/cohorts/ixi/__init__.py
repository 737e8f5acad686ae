"""IXI: 581 T1 volumes of healthy people from three London hospitals.

`roster_splits.derive_roster_splits` derives the splits in its roster from IXI's own workbook. They
are fixed, so that a subject of IXI stays in one split whichever files are on disk.
"""

import pathlib
import re

from ixi_tfds.cohorts.cohort import Cohort, People, PublishedFile

_SITES = ("Guys", "HH", "IOP")
_SCAN = rf"IXI(?P<id>[0-9]{{3}})-(?P<site>{'|'.join(_SITES)})-[0-9]{{4}}"
_DERIVED = re.compile(rf"{_SCAN}(?=$|[-_. ])", re.IGNORECASE)
"""Start of the names of volumes derived from IXI's, such as `IXI012-HH-1211-T1_brain`.

They show the same subject, so they must be in the same split.
"""

_IMPERIAL = "biomedic.doc.ic.ac.uk/brain-development/downloads/IXI"


def read_name(stem: str) -> tuple[str, str] | None:
    """Subject, such as `IXI002`, and site of a name that begins like a volume of IXI, else None."""
    match = _DERIVED.match(stem)
    if match is None:
        return None
    return f"IXI{match['id']}", next(s for s in _SITES if s.lower() == match["site"].lower())


def find_people(source_dir: str, workbook: str | None = None) -> People:
    """The demographics in IXI's workbook, by default the one in the folder of the volumes."""
    # Imported only here: it needs pandas, which preprocessing workers must not load.
    from ixi_tfds.cohorts.ixi.workbook import find_workbook, read_demographics

    demographics = read_demographics(workbook or find_workbook(source_dir))
    facts = {
        f"IXI{number:03d}": {name: row[name] for name in ("sex", "ethnicity", "age")}
        for number, row in demographics.table.to_dict("index").items()
    }
    return People(facts, demographics.warnings)


IXI = Cohort(
    name="ixi_t1",
    title="IXI",
    read_name=read_name,
    find_people=find_people,
    roster=pathlib.Path(__file__).with_name("roster.csv"),
    published=(
        PublishedFile(
            name="IXI.xls",
            urls=(f"http://{_IMPERIAL}/IXI.xls", f"https://{_IMPERIAL}/IXI.xls"),
            md5="066002afe250e4375d132266fcfceac5",
            sha256="8880c4417d8c22f9489439f1b8977b1003ed7908be0294e44462aa71c2a3e78f",
            sizes=(210432, 210432),
            sole=False,
        ),
        PublishedFile(
            name="IXI-T1.tar",
            # The https server sometimes has an expired certificate.
            urls=(
                f"http://{_IMPERIAL}/IXI-T1.tar",
                "https://developer.download.nvidia.com/assets/Clara/monai/tutorials/IXI-T1.tar",
                f"https://{_IMPERIAL}/IXI-T1.tar",
            ),
            md5="34901a0593b41dd19c1a1f746eac2d58",
            # The exact size is not published, only "4.5 GB".
            sizes=(4_000_000_000, 5_000_000_000),
        ),
    ),
    volume_name=rf"{_SCAN}-T1",
    description="""
Sagittal slices of T1-weighted brain MRI, split by person and stratified by sex and ethnicity: of
the IXI dataset (581 volumes of healthy people from three London hospitals, CC BY-SA 3.0) or of
volumes of your own, whose licence is theirs.
""",
    citation="""
@misc{ixi,
  title = {{IXI} Dataset: Information eXtraction from Images},
  howpublished = {Imperial College London, EPSRC GR/S21533/02},
  url = {https://brain-development.org/ixi-dataset/}
}
@mastersthesis{pardo2020study,
  author = {Pardo Gin{\\'e}s, A.},
  title = {Study of brain magnetic resonance images reconstruction through convolutional
           autoencoders},
  school = {Universitat Oberta de Catalunya},
  year = {2020}
}
""",
    homepage="https://brain-development.org/ixi-dataset/",
)
