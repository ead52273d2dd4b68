"""Tools to inspect trained models: saliency, confusion matrix, report, model card."""
