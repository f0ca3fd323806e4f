"""Classifying with the models of the host."""
