"""Stores: the only place that speaks SQL."""
