from ixi_tfds.cohorts.bids import is_bids as is_bids
