from ixi_tfds.cohorts import DEFAULT, roster
from ixi_tfds.system.files import git_blob_sha1 as git_blob_sha1


def is_original(subject, sha1):
    return roster.is_original(roster.read_roster(DEFAULT.roster), subject, sha1)
