"""Weights of a Mixer: from and to files."""
