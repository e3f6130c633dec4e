"""Scans in memory: volumes, grey values, grids."""
