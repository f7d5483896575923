"""ONNX files of a few bytes, written field by field, for the tests of what runs such files."""

FLOAT, UINT8, FLOAT16 = 1, 2, 10  # of ONNX: types of elements
INT, INTS = 2, 7  # of attributes


def number(value):
    """A protobuf varint."""
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(key, value):
    """A protobuf field: of a whole number, or of bytes or text."""
    if isinstance(value, int):
        return number(key << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(key << 3 | 2) + number(len(value)) + value


def port(name, sides, elements=FLOAT):
    """An input or output; a side that is text is left open."""
    dims = b"".join(
        field(1, field(2, side) if isinstance(side, str) else field(1, side)) for side in sides
    )
    return field(1, name) + field(2, field(1, field(1, elements) + field(2, dims)))


def node(kind, inputs, output, attributes=b""):
    """A node of the graph."""
    ports = b"".join(field(1, name) for name in inputs) + field(2, output)
    return field(1, ports + field(4, kind) + attributes)


def attribute(name, value):
    """A whole number that belongs to a node."""
    return field(5, field(1, name) + field(3, value) + field(20, INT))


def mean_of(source):
    """The node that gives `depth`, the mean of the channels of `source`."""
    axes = field(5, field(1, "axes") + field(8, 1) + field(20, INTS))
    return node("ReduceMean", [source], "depth", axes + attribute("keepdims", 1))


MEAN = mean_of("input")
NOUGHT = node("Sub", ["input", "input"], "nought")
CONSTANT = NOUGHT + mean_of("nought")
NAN = NOUGHT + node("Div", ["nought", "nought"], "nan") + mean_of("nan")


def write_network(
    path,
    nodes=MEAN,
    sides=("batch", 3, "height", "width"),
    inputs=("input",),
    elements=FLOAT,
):
    """Write a network that gives the mean of R, G and B, or what `nodes` make of `inputs`.

    Inputs are of type `elements`; what it gives is of floats, or of halves as they are.
    """
    given = FLOAT16 if elements == FLOAT16 else FLOAT
    ports = b"".join(field(11, port(name, sides, elements)) for name in inputs)
    ports += field(12, port("depth", (sides[0], 1, *sides[2:]), given))
    opset = field(8, field(1, "") + field(2, 13))
    path.write_bytes(field(1, 8) + opset + field(7, nodes + field(2, "tiny") + ports))
    return path
