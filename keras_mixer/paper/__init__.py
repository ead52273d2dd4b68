"""The laboratory: the experiments, figures and tables of the paper. Only the command line imports it."""
