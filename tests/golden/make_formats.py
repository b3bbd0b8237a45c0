"""Makes formats.gguf: blocks of every quantized GGUF type that dipper reads, random bytes with scales of every size
(subnormal, negative and large ones too), beside what the `gguf` package decodes them to.

    pip install gguf==0.19.0
    python tests/golden/make_formats.py
"""

import os

import gguf
import numpy as np

TYPES = ["Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "Q8_0", "Q4_0", "Q4_1"]
# Where a block has f16 numbers.
HALVES = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "MXFP4": []}
HALVES |= {"Q5_1": [0, 2], "Q4_1": [0, 2]}
ROWS, COLS = 2, 512


def blocks(kind, rng):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (ROWS * COLS // elements, size), dtype=np.uint8)
    for at in HALVES.get(kind.name, [0]):
        exponents = rng.integers(-26, 15, len(data)).astype(np.float64)
        halves = (rng.uniform(1, 2, len(data)) * 2**exponents * rng.choice([-1, 1], len(data))).astype(np.float16)
        data[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    if kind.name == "MXFP4":
        data[:8, 0] = [0, 1, 2, 3, 127, 250, 251, 252]  # the smallest, the largest that stay finite
        data[8:, 0] = rng.integers(100, 140, len(data) - 8)
    return data.reshape(ROWS, -1)


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "formats.gguf")
    writer = gguf.GGUFWriter(path, "formats")
    rng = np.random.default_rng(7)
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        data = blocks(kind, rng)
        writer.add_tensor(f"blocks.{name}", data, raw_dtype=kind)
        writer.add_tensor(f"expected.{name}", gguf.quants.dequantize(data, kind).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
