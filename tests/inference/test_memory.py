"""Memory that ran out once does not spoil what comes after."""

import threading

import pytest

from medldm.errors import ResourceError
from medldm.inference.memory import or_lack_of_memory


def failing(text, kind=RuntimeError):
    def compute():
        raise kind(text)

    return compute


def test_after_onednn_lacked_memory_networks_run_in_a_thread_without_its_error():
    """The error of its code generator stays with a thread."""

    def story():
        here = threading.get_ident()
        assert or_lack_of_memory("a", threading.get_ident) == here
        with pytest.raises(ResourceError, match="a needs more memory than is free"):
            or_lack_of_memory("a", failing("DefaultCPUAllocator: can't allocate memory"))
        assert or_lack_of_memory("a", threading.get_ident) == here
        with pytest.raises(ResourceError, match="b needs more memory than is free"):
            or_lack_of_memory("b", failing("could not create a primitive"))
        assert or_lack_of_memory("b", threading.get_ident) != here
        with pytest.raises(ResourceError):
            or_lack_of_memory("b", failing("could not create a primitive"))
        with pytest.raises(ResourceError):
            or_lack_of_memory("b", failing("", MemoryError))
        with pytest.raises(ValueError, match="another problem"):
            or_lack_of_memory("b", failing("another problem", ValueError))
        assert or_lack_of_memory("b", lambda: 7) == 7
        passed.append(True)

    passed = []
    thread = threading.Thread(target=story)
    thread.start()
    thread.join()
    assert passed
    assert or_lack_of_memory("c", threading.get_ident) == threading.get_ident()
