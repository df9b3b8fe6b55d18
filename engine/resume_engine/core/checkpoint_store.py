"""The store contract and the engine under their 0.2.0 import path."""

from resume_engine.core.engine import ResumeEngine
from resume_engine.core.store import CheckpointStore

__all__ = ["CheckpointStore", "ResumeEngine"]
