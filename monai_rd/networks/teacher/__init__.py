"""Frozen foundation models, of whatever kind."""
