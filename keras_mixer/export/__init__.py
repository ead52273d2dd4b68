"""Files that other runtimes load: SavedModel and TFLite."""
