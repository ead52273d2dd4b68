"""Tools to inspect models: weights, saliency, mistakes, cost, speed."""
