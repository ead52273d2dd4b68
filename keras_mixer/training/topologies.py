"""TPU slices by the names people know, and what the Cloud TPU documentation says about their chips."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of TPU chip.

    Attributes:
        hbm_bytes: memory of a chip.
        usable_bytes: of it, what libtpu 0.0.52 gives to a program, by its own out-of-memory messages.
        flops_per_second: peak of bfloat16 products.
        bytes_per_second: peak bandwidth of that memory.
        options: what libtpu must be told besides the name.

    Source: Cloud TPU documentation, system architecture pages of each generation.
    """

    hbm_bytes: int
    usable_bytes: int
    flops_per_second: float
    bytes_per_second: float
    options: tuple[tuple[str, str], ...] = ()


MEGACORE = (("chip_config_name", "megacore"),)  # both cores of a chip as one device, JAX's default on v4 and v5p
CHIPS = {
    "v5e": Chip(16 * GIB, int(15.75 * GIB), 197e12, 819e9),
    "v6e": Chip(32 * GIB, int(31.24 * GIB), 918e12, 1640e9),
    "v4": Chip(32 * GIB, int(30.75 * GIB), 275e12, 1228e9, MEGACORE),
    "v5p": Chip(96 * GIB, int(95.73 * GIB), 459e12, 2765e9, MEGACORE),
}
_GRIDS = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
# Cloud TPU counts chips in the names of v5e and v6e, but cores in those of v4 and v5p: v4-8 has four chips.
TOPOLOGIES = {f"{chip}-{count}": (chip, grid) for chip in ("v5e", "v6e") for count, grid in _GRIDS.items()}
TOPOLOGIES |= {f"{chip}-8": (chip, "2x2x1") for chip in ("v4", "v5p")}


def check_topology(name):
    """Raises ValueError for an unknown slice; lists the known ones."""
    if name not in TOPOLOGIES:
        raise ValueError(f"Expected a topology from {', '.join(TOPOLOGIES)}, got {name!r}.")


def chip_of(name) -> Chip:
    """The chip of a slice."""
    return CHIPS[TOPOLOGIES[name][0]]


def topology_devices(name):
    """The JAX devices of a slice, which need not exist: programs can be compiled for them, not run.

    Raises:
        ValueError: the slice is unknown.

    Source: `jax.experimental.topologies`; libtpu's names as in MaxText's `train_compile.py`.
    """
    check_topology(name)
    from jax.experimental import topologies

    generation, grid = TOPOLOGIES[name]
    options: dict[str, object] = dict(CHIPS[generation].options)
    if grid == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    description = topologies.get_topology_desc(platform="tpu", topology_name=f"{generation}:{grid}", **options)
    return list(description.devices)
