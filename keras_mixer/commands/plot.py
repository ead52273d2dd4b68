"""Pictures and experiments of the paper: plot NAME."""

import importlib

from keras_mixer.commands.terminal import parse

PLOTS = {
    "weights": ("pictures", "Figs 5, 6: hidden units of the token-mixing MLPs: plot weights MODEL."),
    "stem": ("pictures", "Fig 7: filters of the stem: plot stem MODEL."),
    "permutation": ("experiments", "Fig 4: Mixer and ResNet on images with shuffled pixels."),
    "throughput": ("costs", "Parameters, multiply-accumulates, images a second, memory: plot throughput MODEL..."),
    "pareto": ("costs", "Figs 2, 3: accuracy against speed and pre-training cost, Tables 2 and 3."),
    "linear-cost": ("costs", "Cost over the number of patches, Mixer beside attention."),
    "data-size": ("experiments", "Fig 2, right: accuracy over the amount of training data, equal steps."),
    "untied": ("experiments", "Appendix A: token mixing shared by all channels, by groups, by none."),
}


def run(arguments):
    """Pictures and experiments of the paper: plot NAME."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: keras-mixer plot NAME [OPTIONS]; NAME --help lists its options\n")
        for name, (_, description) in PLOTS.items():
            print(f"  {name:12} {description}")
        if arguments:
            raise SystemExit(0)
        raise ValueError("Name a plot.")
    name, *rest = arguments
    if name not in PLOTS:
        raise ValueError(f"Unknown plot {name!r}; valid ones are {', '.join(PLOTS)}.")
    module = importlib.import_module(f"keras_mixer.commands.plots.{PLOTS[name][0]}")
    parse(getattr(module, name.replace("-", "_")), f"plot {name}", rest)
