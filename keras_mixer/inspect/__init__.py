"""Looking into models: weights, saliency, mistakes, cost, speed."""
