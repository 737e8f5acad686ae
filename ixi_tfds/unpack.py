from ixi_tfds.cohorts import DEFAULT
from ixi_tfds.download import unpack


def extract_t1(tar_path, output_dir):
    return unpack.extract_volumes(tar_path, output_dir, DEFAULT.volume_name)
