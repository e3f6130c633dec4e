"""DICOM series: found, grouped, placed on a grid, repaired and read as volumes.

Read `find` first. Its `find_series` asks, on headers, ``grouping`` (images of one kind), ``volumes`` (4D series),
``duplicates`` (copies, or kinds mixed) and ``stack`` with ``geometry`` (the grid); ``labels`` tells series apart.
Then `read`: its `read_series` decodes the pixels, and with ``--fix`` calls ``repair``.

A *series* here is one stack of images (`stack.Series`); one SeriesInstanceUID may hold several of them.
"""
