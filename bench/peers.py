#!/usr/bin/env python3
"""The peers, one process each: peers.py NAME JSON-ARGUMENTS prints one line of JSON. run.py starts it; each function says
what it measures. Every one loads first, runs once uncounted, then `repeat` times."""
import json
import os
import sys
import time

DEPTH_STEP = 512


def memory():
    # Not getrusage: its maximum still counts the process that forked this one.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def timed(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def llama_cpp(path, threads, prefill, decode, batch, repeat):
    """Prefill of `prefill` tokens in batches of 512, the last one's logits wanted; then `decode` steps of one token in each
    of `batch` sequences, logits fetched; an f16 cache, flash attention where llama.cpp chooses it."""
    import llama_cpp as lib
    silent = lib.llama_log_callback(lambda level, text, user: None)
    lib.llama_log_set(silent, None)
    lib.llama_backend_init()
    begin = time.perf_counter()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = max(1024, batch * (prefill + decode)), DEPTH_STEP, DEPTH_STEP
    params.n_threads = params.n_threads_batch = threads
    params.n_seq_max, params.kv_unified = batch, batch > 1
    context = lib.llama_init_from_model(model, params)
    memory_of = lib.llama_get_memory(context)
    result = {"load_s": time.perf_counter() - begin, "prefill": [], "decode": []}
    tokens = lib.llama_batch_init(DEPTH_STEP, 0, batch)

    def put(i, token, position, sequence, wanted):
        tokens.token[i], tokens.pos[i], tokens.n_seq_id[i] = token, position, 1
        tokens.seq_id[i][0], tokens.logits[i] = sequence, wanted

    def fill(sequence):
        for at in range(0, prefill, DEPTH_STEP):
            tokens.n_tokens = min(DEPTH_STEP, prefill - at)
            for i in range(tokens.n_tokens):
                put(i, (at + i) * 37 % 49000, at + i, sequence, at + i == prefill - 1)
            assert lib.llama_decode(context, tokens) == 0
        lib.llama_get_logits_ith(context, -1)  # waits

    def steps():
        for k in range(decode):
            tokens.n_tokens = batch
            for sequence in range(batch):
                put(sequence, 100 + k, prefill + k, sequence, True)
            assert lib.llama_decode(context, tokens) == 0
            lib.llama_get_logits_ith(context, -1)

    for _ in range(repeat + 1):
        lib.llama_memory_clear(memory_of, True)
        took = timed(lambda: fill(0))
        for sequence in range(1, batch):
            fill(sequence)
        result["prefill"].append(prefill / took)
        result["decode"].append(decode * batch / timed(steps))
    result["rss"] = memory()
    return result


def llama_cpp_cold(path, threads):
    """From before the model is loaded, Python's imports done, to the first token's logits of a short prompt."""
    import llama_cpp as lib
    silent = lib.llama_log_callback(lambda level, text, user: None)
    lib.llama_log_set(silent, None)

    def first():
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = 4096, threads, threads
        context = lib.llama_init_from_model(model, params)
        tokens = (lib.llama_token * 31)(*range(100, 131))  # as many as dipper's prompt has in its template
        assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, 31)) == 0
        lib.llama_get_logits_ith(context, -1)

    return {"cold_s": [timed(first)], "rss": memory()}


def torch_llama(path, threads, prefill, decode, repeat, dtype, compiled):
    """transformers' LlamaForCausalLM of the dequantized file; a dynamic cache, or compiled a static one."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache, StaticCache
    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path), dtype=kind).eval()
    forward = torch.compile(model.forward, dynamic=False) if compiled else model.forward
    result = {"prefill": [], "decode": []}
    prompt = torch.tensor([[i * 37 % 49000 for i in range(prefill)]])
    with torch.inference_mode():
        for _ in range(repeat + 1):
            cache = StaticCache(config=model.config, max_cache_len=prefill + decode + 8) if compiled else DynamicCache()
            at = torch.arange(prefill)
            took = timed(lambda: forward(prompt, past_key_values=cache, cache_position=at, logits_to_keep=1, use_cache=True))
            result["prefill"].append(prefill / took)

            def steps():
                for k in range(decode):
                    forward(torch.tensor([[100 + k]]), past_key_values=cache, cache_position=torch.tensor([prefill + k]),
                            logits_to_keep=1, use_cache=True)

            result["decode"].append(decode / timed(steps))
    result["rss"] = memory()
    return result


def sentence_transformers(path, threads, texts, batch, repeat):
    """encode() of all texts, sorted by length as it does."""
    import torch
    from sentence_transformers import SentenceTransformer
    torch.set_num_threads(threads)
    model = SentenceTransformer(path, device="cpu")
    rates = [len(texts) / timed(lambda: model.encode(texts, batch_size=batch, show_progress_bar=False)) for _ in range(repeat + 1)]
    return {"rate": rates, "rss": memory()}


def onnxruntime(path, threads, texts, batch, repeat, onnx):
    """The same encoder exported by torch.onnx, texts sorted by length and padded to the batch's longest; mean pooling in
    numpy, as its users write it."""
    import numpy
    from tokenizers import Tokenizer
    if not os.path.exists(onnx):
        import torch
        from transformers import AutoModel
        model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
        names = ["input_ids", "attention_mask", "token_type_ids"]
        example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)

        class Hidden(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model.requires_grad_(False)

            def forward(self, ids, mask, types):
                return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

        axes = {n: {0: "batch", 1: "length"} for n in names + ["hidden"]}
        torch.onnx.export(Hidden().eval(), example, onnx + ".part", input_names=names, output_names=["hidden"], dynamic_axes=axes, dynamo=False)
        os.replace(onnx + ".part", onnx)
    import onnxruntime as lib
    options = lib.SessionOptions()
    options.intra_op_num_threads = threads
    session = lib.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(os.path.join(path, "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()

    def encode():
        order = sorted(texts, key=len)
        for at in range(0, len(order), batch):
            rows = [e.ids for e in tokenizer.encode_batch(order[at:at + batch])]
            length = max(map(len, rows))
            ids = numpy.zeros((len(rows), length), numpy.int64)
            mask = numpy.zeros_like(ids)
            for i, row in enumerate(rows):
                ids[i, :len(row)], mask[i, :len(row)] = row, 1
            hidden = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)})[0]
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            mean / numpy.linalg.norm(mean, axis=1, keepdims=True)

    return {"rate": [len(texts) / timed(encode) for _ in range(repeat + 1)], "rss": memory()}


def hf_tokenizers(path, text, repeat):
    """Lines of a text, one encode() each."""
    os.environ["TOKENIZERS_PARALLELISM"], os.environ["RAYON_NUM_THREADS"] = "false", "1"
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(path)
    with open(text, encoding="utf-8") as source:
        lines = source.read().splitlines(keepends=True)
    size = sum(len(line.encode()) for line in lines)
    return {"rate": [size / 1e6 / timed(lambda: [tokenizer.encode(line) for line in lines]) for _ in range(repeat + 1)]}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
