"""ONNX files of a few bytes, written field by field, for the tests of what runs such files."""

FLOAT, INT, INTS = 1, 2, 7  # of ONNX: elem_type FLOAT, attribute types


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


def port(name, sides):
    """A float input or output; a side that is text is left open."""
    dims = b"".join(
        field(1, field(2, side) if isinstance(side, str) else field(1, side)) for side in sides
    )
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, dims)))


def node(kind, inputs, output, attributes=b""):
    """A node of the graph."""
    ports = b"".join(field(1, name) for name in inputs) + field(2, output)
    return field(1, ports + field(4, kind) + attributes)


def mean_of(source):
    """The node that gives `depth`, the mean of the channels of `source`."""
    axes = field(5, field(1, "axes") + field(8, 1) + field(20, INTS))
    keep = field(5, field(1, "keepdims") + field(3, 1) + field(20, INT))
    return node("ReduceMean", [source], "depth", axes + keep)


MEAN = mean_of("input")
NOUGHT = node("Sub", ["input", "input"], "nought")
CONSTANT = NOUGHT + mean_of("nought")
NAN = NOUGHT + node("Div", ["nought", "nought"], "nan") + mean_of("nan")


def write_network(path, nodes=MEAN, sides=("batch", 3, "height", "width")):
    """Write a network that gives the mean of R, G and B, or what `nodes` make of `input`."""
    outputs = field(12, port("depth", (sides[0], 1, *sides[2:])))
    graph = nodes + field(2, "tiny") + field(11, port("input", sides)) + outputs
    opset = field(8, field(1, "") + field(2, 13))
    path.write_bytes(field(1, 8) + opset + field(7, graph))
    return path
