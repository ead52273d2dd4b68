"""TPU slices and GPU machines by their usual names, with the published figures of their chips."""

import dataclasses
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
        hbm_bytes: memory of a chip.
        usable_bytes: of it, what a program gets: by libtpu 0.0.52's own out-of-memory messages; on a GPU the three
            quarters that JAX takes unless told otherwise.
        flops_per_second: peak of bfloat16 products.
        bytes_per_second: peak bandwidth of that memory.
        options: what the compiler must be told besides the name.
        needs: Python modules of the compiler.
        install: what to install for them.

    Source: Cloud TPU documentation, system architecture pages of each generation; NVIDIA's data sheet of the H100 SXM.
    """

    hbm_bytes: int
    usable_bytes: int
    flops_per_second: float
    bytes_per_second: float
    options: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ("jax", "libtpu")
    install: str = "'keras-mixer[tpu-compile]' on Linux"


# What XLA wants to know of a GPU that is not there: sizes of CUDA's device properties.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
}
"""

MEGACORE = (("chip_config_name", "megacore"),)  # both cores of a chip as one device, JAX's default on v4 and v5p
CHIPS = {
    "v5e": Chip(16 * GIB, int(15.75 * GIB), 197e12, 819e9),
    "v6e": Chip(32 * GIB, int(31.24 * GIB), 918e12, 1640e9),
    "v4": Chip(32 * GIB, int(30.75 * GIB), 275e12, 1228e9, MEGACORE),
    "v5p": Chip(96 * GIB, int(95.73 * GIB), 459e12, 2765e9, MEGACORE),
    "h100": Chip(
        84_942_979_072,
        int(0.75 * 84_942_979_072),
        989e12,
        3352e9,
        (("target_config", H100),),
        ("jax", "jax_plugins.xla_cuda12"),
        "--no-deps jax-cuda12-plugin jax-cuda12-pjrt, both in jax's version, on Linux",
    ),
}
_GRIDS = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
# Cloud TPU counts chips in the names of v5e and v6e, but cores in those of v4 and v5p: v4-8 has four chips.
TOPOLOGIES = {f"{chip}-{count}": (chip, grid) for chip in ("v5e", "v6e") for count, grid in _GRIDS.items()}
TOPOLOGIES |= {f"{chip}-8": (chip, "2x2x1") for chip in ("v4", "v5p")}
TOPOLOGIES |= {f"h100-{count}": ("h100", f"1x1x{count}") for count in (1, 8)}  # one machine


def check_topology(name):
    """Raises ValueError for an unknown name; lists the known ones."""
    if name not in TOPOLOGIES:
        raise ValueError(f"Expected a topology from {', '.join(TOPOLOGIES)}, got {name!r}.")


def chip_of(name) -> Chip:
    """The chip of a topology."""
    return CHIPS[TOPOLOGIES[name][0]]


def topology_devices(name):
    """The JAX devices of a topology, which need not be present: programs can be compiled for them, but not run.

    Raises:
        ValueError: the name is unknown.

    Source: `jax.experimental.topologies`; libtpu's names as in MaxText's `train_compile.py`.
    """
    check_topology(name)
    from jax.experimental import topologies

    generation, grid = TOPOLOGIES[name]
    options: dict[str, Any] = dict(CHIPS[generation].options)
    if generation == "h100":
        return list(topologies.get_topology_desc(platform="cuda", topology=grid, **options).devices)
    if grid == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    description = topologies.get_topology_desc(platform="tpu", topology_name=f"{generation}:{grid}", **options)
    return list(description.devices)
