"""Accuracy of a model, measured as in the paper."""
