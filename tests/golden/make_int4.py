#!/usr/bin/env python3
"""Makes int4/*/: small safetensors directories as GPTQ and AWQ write them, each with what those tools' own code reads there.

    python make_int4.py AUTOAWQ AUTO_GPTQ

AUTOAWQ and AUTO_GPTQ are the unpacked packages autoawq 0.2.9 (sdist) and auto-gptq 0.7.1 (wheel) from PyPI, of which two
files are run: awq/utils/packing_utils.py, dequantize_gemm, and auto_gptq/nn_modules/qlinear/qlinear_cuda.py, whose forward
multiplies with the unit matrix here. Scales are given to both as f32, so that the product is not rounded. Needs torch,
transformers, safetensors.
"""
import importlib.util
import json
import os
import sys

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
N, K, GROUP = 32, 96, 32


def load(path):
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(generator, *shape):
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int64, generator=generator).to(torch.int32)


def scales(generator, groups):
    values = (torch.rand(groups, N, generator=generator) * 0.02 - 0.01).to(torch.float16)
    values[0, :4] = torch.tensor([6e-8, -3e-5, 0.0, 65504.0], dtype=torch.float16)  # the least, a small one, none, the greatest
    return values


def save(name, tensors, config):
    folder = os.path.join(HERE, "int4", name)
    os.makedirs(folder, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, os.path.join(folder, "model.safetensors"))
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({"model_type": "llama", "quantization_config": config}, file, indent=1)
        file.write("\n")


def gptq(quant_linear, name, seed, order):
    g = torch.Generator().manual_seed(seed)
    groups = K // GROUP
    part = {"qweight": words(g, K // 8, N), "qzeros": words(g, groups, N // 8), "scales": scales(g, groups), "g_idx": order(g)}
    layer = quant_linear(4, GROUP, K, N, bias=False)
    layer.qweight, layer.qzeros, layer.g_idx = part["qweight"], part["qzeros"], part["g_idx"]
    layer.scales = part["scales"].float()
    tensors = {"x." + key: value for key, value in part.items()}
    tensors["expected"] = layer(torch.eye(K)).t()
    config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": name != "gptq", "sym": False}
    save(name, tensors, config)


def awq(dequantize, seed):
    g = torch.Generator().manual_seed(seed)
    groups = K // GROUP
    part = {"qweight": words(g, K, N // 8), "qzeros": words(g, groups, N // 8), "scales": scales(g, groups)}
    tensors = {"x." + key: value for key, value in part.items()}
    tensors["expected"] = dequantize(part["qweight"], part["qzeros"], part["scales"].float(), 4, GROUP).t()
    config = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}
    save("awq", tensors, config)


def main():
    packing = load(os.path.join(sys.argv[1], "awq/utils/packing_utils.py"))
    linear = load(os.path.join(sys.argv[2], "auto_gptq/nn_modules/qlinear/qlinear_cuda.py"))
    in_order = torch.arange(K, dtype=torch.int32) // GROUP
    gptq(linear.QuantLinear, "gptq", 1, lambda g: in_order)
    gptq(linear.QuantLinear, "act_order", 2, lambda g: in_order[torch.randperm(K, generator=g)])
    awq(packing.dequantize_gemm, 3)


if __name__ == "__main__":
    main()
