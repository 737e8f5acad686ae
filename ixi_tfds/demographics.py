from ixi_tfds.cohorts.ixi.workbook import find_workbook as find_workbook
from ixi_tfds.cohorts.ixi.workbook import read_demographics as read_demographics
