"""Reading and writing the weights of a Mixer."""
