"""Folders of images, labels, and results on disk."""
