"""Requests and results."""
