"""The napari plugin of medldm; nothing is imported until a reader or widget is opened."""

__version__ = "0.1.0"
