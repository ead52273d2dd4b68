"""Memory traffic of the operations of a compiled TPU program, by layer and direction, parsed from its text."""

import dataclasses
import math
import re

BITS = {"pred": 8, "bf16": 16}  # the others end in their number of bits: f32, s8, u16
ARRAY = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)")
FREE = (
    "while",
    "parameter",
    "constant",
    "bitcast",
    "tuple",
    "get-tuple-element",
    "copy-start",
    "slice-start",
    "after-all",
)
MOVES = ("copy-done", "slice-done")  # what the operations of that name began has arrived in the other memory


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The memory traffic of all operations of one kind in one step, on one chip.

    Attributes:
        source: layer and direction, the number of a block left out: "mixer_block_*/token_mixing, backward".
        operation: the JAX operation that the compiled one is named after, such as "dot_general".
        count: how many compiled operations.
        hbm_bytes: read and written in the chip's main memory, padding included.
        on_chip_bytes: read and written in on-chip memory; the compiler's "bytes accessed" counts them too.
        estimated_cycles: by the compiler's own estimate, not measured.
    """

    source: str
    operation: str
    count: int
    hbm_bytes: int
    on_chip_bytes: int
    estimated_cycles: int


def traffic(program: str) -> list[Traffic]:
    """The memory traffic of a compiled program, largest first.

    Operands and results of each operation count once, in the memory that their layout names; so does each operation in
    the body of a loop.

    Args:
        program: text of the compiled program, from `jax.stages.Compiled.as_text`.
    """
    text = re.sub(r"/\*.*?\*/", "", program)
    shapes: dict[str, tuple[int, int]] = {}
    sums: dict[tuple[str, str], list[int]] = {}
    bodies = set(re.findall(r"\bbody=%?([\w.-]+)", text))
    runs = False  # whether this part of the text is a program or the body of its loop, not the inside of a fusion
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            runs = line.startswith("ENTRY") or line.split(" ", 1)[0].lstrip("%") in bodies
        found = INSTRUCTION.match(line)
        if not found or not runs:
            continue
        name, result, operation, rest = found.groups()
        shapes[name] = size_of(result)
        if operation in FREE:
            continue
        operands = re.findall(r"%([\w.-]+)", rest.split(")", 1)[0])
        sizes = [shapes[name], *(shapes.get(operand, (0, 0)) for operand in operands)]
        if operation in MOVES:
            sizes = [(sum(shapes[name]), sum(shapes[name]))]
        path = re.search(r'op_name="([^"]*)"', rest)
        cycles = re.search(r'"estimated_cycles":"(\d+)"', rest)
        row = sums.setdefault(_named(path[1] if path else "", operation), [0, 0, 0, 0])
        main, chip = map(sum, zip(*sizes, strict=True))
        for i, value in enumerate((1, main, chip, int(cycles[1]) if cycles else 0)):
            row[i] += value
    rows = [Traffic(*key, *values) for key, values in sums.items()]
    return sorted(rows, key=lambda row: -row.hbm_bytes)


def size_of(shape) -> tuple[int, int]:
    """Bytes in main memory and on chip of a shape as programs print it, padded to its tiles."""
    places = [0, 0]
    for kind, dimensions, order, layout in ARRAY.findall(shape):
        sides = [int(side) for side in dimensions.split(",") if side]
        minor_first = [int(axis) for axis in order.split(",") if axis] if order else []
        tile = re.match(r"T\(([\d,]+)\)", layout or "")
        if tile and minor_first:
            for axis, length in zip(minor_first, reversed([int(side) for side in tile[1].split(",")]), strict=False):
                sides[axis] = -(-sides[axis] // length) * length
        bits = BITS.get(kind) or int(kind[1:])
        places["S(" in (layout or "")] += math.prod(sides) * bits // 8
    return places[0], places[1]


def _named(path, operation):
    """Source and operation of a path such as `jit(train_step)/transpose(jvp(mixer_block_3))/token_mixing/.../add`."""
    direction = "backward" if "transpose(" in path else "forward" if "jvp(" in path else "update"
    parts = [
        part for part in re.sub(r"\b(?:jit|jvp|transpose|vmap|remat|checkpoint)\(|\)", "", path).split("/") if part
    ]
    layers = [re.sub(r"_\d+$", "_*", part) if part.startswith("mixer_block") else part for part in parts[1:-1]]
    source = "/".join(layers[:3]) or "step"
    return f"{source}, {direction}", parts[-1] if parts else operation
