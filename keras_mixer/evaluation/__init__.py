"""How good a model is, measured the paper's way."""
