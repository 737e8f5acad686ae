"""Silences the logs of libraries on import, for processes that import Beam before any command."""

from ixi_tfds.system import commands

commands.quieten_libraries()
