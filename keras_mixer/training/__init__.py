"""Training: a recipe, its optimizer, the devices it runs on, and the loop."""
