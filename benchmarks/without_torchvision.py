"""Makes timm work without torchvision's own operators; import it before timm.

timm imports torchvision. With a CPU build of torch and a CUDA build of torchvision (`pip install --no-deps
torchvision`), these operators are missing and registering them fails; models and transforms do not use them.
"""

import torch

_register_fake = torch.library.register_fake


def _without_torchvision(name, *arguments, **options):
    if isinstance(name, str) and name.startswith("torchvision::"):
        return lambda function: function
    return _register_fake(name, *arguments, **options)


torch.library.register_fake = _without_torchvision
