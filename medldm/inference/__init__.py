"""From a measured scan to a restored one: conditioning, networks, tiles, orientations."""
