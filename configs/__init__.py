"""Configs: a base and a few changed lines each."""
