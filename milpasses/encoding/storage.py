"""How Core ML stores the elements of a constant: bits of each type, and what goes to the weight file."""

# Bits of a stored element, by MIL's name of its type. Types below a byte are packed.
STORED_BITS = {
    "float16": 16,
    "float32": 32,
    "bfloat16": 16,
    "uint1": 1,
    "uint2": 2,
    "uint3": 3,
    "uint4": 4,
    "uint6": 6,
    "uint8": 8,
    "uint16": 16,
    "uint32": 32,
    "int4": 4,
    "int8": 8,
    "int16": 16,
    "int32": 32,
}
SMALLEST_IN_FILE = 10  # elements: smaller constants stand in the program's text (coremltools' own writer)


def packed_bytes(count: int, dtype: str) -> int:
    """Bytes that ``count`` elements of ``dtype`` (a key of ``STORED_BITS``) take."""
    return -(-count * STORED_BITS[dtype] // 8)
