"""Compressing the network calls of a loaded model."""
