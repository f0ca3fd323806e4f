"""The class-conditional DiT: network, checkpoint files, compressed blocks."""
