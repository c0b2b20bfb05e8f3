"""Completions of a person's own photo in the browser, and over HTTP."""
