"""timm without torchvision's own operators; import it before timm.

timm imports torchvision. Where only its CUDA build is to be had beside a CPU build of torch (`pip install --no-deps
torchvision`), its own operators are missing and registering them fails; models and transforms use none of them.
"""

import torch

_register_fake = torch.library.register_fake


def _without_torchvision(name, *arguments, **options):
    if isinstance(name, str) and name.startswith("torchvision::"):
        return lambda function: function
    return _register_fake(name, *arguments, **options)


torch.library.register_fake = _without_torchvision
