"""Addresses and paths."""
