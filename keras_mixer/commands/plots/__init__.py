"""The plots of keras-mixer plot NAME: each parses its options, calls the analysis, writes a picture."""
