"""What every checkpoint store must do, as tests: for those who write a store of their own.

Subclass `StoreConformance` in a test file, give it a fixture `store`, and run pytest. The library itself
never imports this package, which needs pytest.
"""

from __future__ import annotations

import pkgutil

try:
    import pytest
except ImportError as missing:
    raise ImportError("resume_engine.conformance is made of tests: pip install pytest") from missing

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from resume_engine.conformance.abilities import Ability, needs  # noqa: E402 (rewritten from here on)
from resume_engine.conformance.suite import StoreConformance  # noqa: E402

__all__ = ["Ability", "StoreConformance", "needs"]
