import dataclasses

from ixi_tfds.cohorts import DEFAULT, catalog
from ixi_tfds.cohorts.catalog import Catalog as Catalog
from ixi_tfds.cohorts.catalog import Scan as Scan
from ixi_tfds.cohorts.catalog import find_volumes as find_volumes
from ixi_tfds.cohorts.catalog import stem_of as stem_of
from ixi_tfds.cohorts.cohort import People


def find_scans(source_dir, demographics=None):
    rows = {} if demographics is None else demographics.table.to_dict("index")
    keys = ("sex", "ethnicity", "age")
    people = People({f"IXI{n:03d}": {k: r[k] for k in keys} for n, r in rows.items()})
    cohort = dataclasses.replace(DEFAULT, find_people=lambda *_: people)
    return catalog.find_scans(source_dir, cohort)
