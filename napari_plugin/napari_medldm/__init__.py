"""The napari plugin of medldm; nothing is imported until a reader or widget is opened."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("medldm")
except PackageNotFoundError:  # run from a checkout that nobody installed
    __version__ = "unknown"
