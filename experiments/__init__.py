"""The paper's laboratory: one script a figure or table, run from a clone; see README.md in this folder."""

import matplotlib

matplotlib.use("Agg")  # figures are files
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}
matplotlib.rcParams.update(STYLE | {"figure.constrained_layout.use": True, "savefig.dpi": 144, "legend.frameon": False})
