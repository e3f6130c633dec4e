"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")


def free_bytes() -> int:
    """Memory this process may still take: of the machine, of its limits, of its container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free = min(free, limit - int(psutil.Process().memory_info().vms))
    except ImportError:
        pass  # Windows has no such limits
    try:
        allowed = int((CONTROL_GROUP / "memory.max").read_text())
        used = int((CONTROL_GROUP / "memory.current").read_text())
        # Cached files count as used there, but the kernel gives them back.
        cached = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        free = min(free, allowed - used + int(cached.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass  # no container, or one without a limit
    return free
