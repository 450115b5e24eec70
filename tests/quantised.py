"""What tests of quantised bases share."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

NEEDS_BITSANDBYTES = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra `quantised` is absent")
