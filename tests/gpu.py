"""What tests of GPU code share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
DEVICES = ("cpu", pytest.param("cuda", marks=needs_gpu))


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Importing this into a test's module lets its convolutions keep all bits on a GPU, too."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
