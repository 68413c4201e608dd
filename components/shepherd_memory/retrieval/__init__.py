"""Ranking archived turns: pure computation over what any store has counted."""
