from ixi_tfds.cohorts import DEFAULT, catalog
from ixi_tfds.cohorts.catalog import Catalog as Catalog
from ixi_tfds.cohorts.catalog import Scan as Scan
from ixi_tfds.cohorts.catalog import find_volumes as find_volumes
from ixi_tfds.cohorts.catalog import stem_of as stem_of
from ixi_tfds.cohorts.cohort import People


def find_scans(source_dir, demographics=None):
    if demographics is None:
        return catalog.find_scans(source_dir, DEFAULT)
    rows = demographics.table[["sex", "ethnicity", "age"]].to_dict("index")
    return catalog.find_scans(
        source_dir, DEFAULT, People({f"IXI{n:03d}": facts for n, facts in rows.items()})
    )
