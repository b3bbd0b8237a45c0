#!/usr/bin/env python3
"""Asks a built dipper and programs that are not dipper the same questions, and says how far apart the answers are.

    compare.py --dipper build/release/dipper --weights SmolLM2-135M-Instruct.Q4_1.gguf [--only tokenize,logits,greedy,perplexity,tiny]
    compare.py ... --golden         against the stored answers only: needs numpy, not torch or transformers

Live, the peer is Hugging Face's Llama in f32 on the weights that the gguf package dequantizes (the loader of
tests/golden/make_golden.py): every logit of every position is compared, and texts that nobody chose are tokenized.
Exit status: 0 when every row passes, 1 otherwise. A row that could not be asked (dipper failed) does not pass.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden")
LOGITS_LIMIT = 1e-3      # largest |difference| of a position, over its largest |logit|
PERPLEXITY_LIMIT = 1e-3  # absolute: three digits behind the point
NEW_TOKENS = 128


def golden(name):
    with open(os.path.join(GOLDEN, name), encoding="utf-8") as source:
        return json.load(source)


class Dipper:
    def __init__(self, command, model):
        self.command, self.model = command, model

    def ask(self, *arguments, stdin=b""):
        done = subprocess.run([self.command, *arguments], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing on stderr"]
            raise RuntimeError(f"dipper {arguments[0]}: status {done.returncode}: {said[-1]}")
        return done.stdout

    def ask_json(self, *arguments, stdin=b""):
        return json.loads(self.ask(*arguments, "--json", stdin=stdin))

    def tokenize(self, weights, raw):
        answer = self.ask_json("tokenize", "--weights", weights, stdin=raw)
        return answer["ids"] if isinstance(answer, dict) else answer

    def logits(self, weights, ids):
        """logits[tokens, vocab]"""
        with tempfile.TemporaryDirectory() as folder:
            tokens, out = os.path.join(folder, "ids.txt"), os.path.join(folder, "logits.npy")
            with open(tokens, "w") as file:
                file.write(" ".join(map(str, ids)) + "\n")
            self.ask("logits", self.model, "--weights", weights, "--tokens", "@" + tokens, "--out", out)
            values = np.load(out)
        if values.dtype != np.float32 or values.ndim != 2 or len(values) != len(ids):
            raise RuntimeError(f"dipper logits: {values.dtype}{list(values.shape)} for {len(ids)} tokens")
        return values

    def run(self, weights, prompt):
        """The new text. dipper renders the chat template, and ends its output with a newline of its own."""
        out = self.ask("run", self.model, "--weights", weights, "-p", prompt, "-n", str(NEW_TOKENS), "--temp", "0")
        return out.decode(errors="replace").removesuffix("\n")

    def perplexity(self, weights, path):
        return self.ask_json("eval", self.model, "--weights", weights, "--perplexity", path)


class Report:
    def __init__(self):
        self.failed = 0

    def row(self, what, passed, figure):
        self.failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'}  {what:42} {figure}", flush=True)

    def ask(self, what, question):
        """question() -> (passed, figure)"""
        try:
            self.row(what, *question())
        except Exception as error:
            self.row(what, False, f"{type(error).__name__}: {error}")


def same_ids(mine, theirs):
    if mine == theirs:
        return True, f"{len(theirs)} ids"
    at = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(len(mine), len(theirs)))
    return False, f"{len(mine)} ids, expected {len(theirs)}; first difference at {at}: {mine[at:at + 4]}, expected {theirs[at:at + 4]}"


def random_texts(count):
    """Strings of all planes, thick with spaces, digits, apostrophes and pieces of special tokens."""
    rng = random.Random(3)
    pieces = [" ", "  ", "\n", "\t", "'s", "'LL", "<|im_start|>", "<|im_", "12", "٣", "½", "word", " the", "中", "é", "e\u0301", "🏽", "\u200d", "()", "__"]

    def piece():
        if rng.random() < 0.7:
            return rng.choice(pieces)
        code = rng.choice([rng.randrange(0x20, 0x3000), rng.randrange(0x3000, 0xD800), rng.randrange(0xE000, 0x20000)])
        return chr(code)
    return ["".join(piece() for _ in range(rng.randrange(1, 120))) for _ in range(count)]


def compare_tokenize(dipper, report, weights, peer):
    """As plain text, which is how the command reads it; special tokens in text are asked by way of the chat template."""
    def stored():
        cases = golden("smollm2_tokens.json")
        for case in cases:
            raw = bytes.fromhex(case["bytes_hex"]) if "bytes_hex" in case else case["text"].encode()
            passed, figure = same_ids(dipper.tokenize(weights, raw), case["plain_ids"])
            if not passed:
                return False, f"{case['text'][:40]!r}: {figure}"
        return True, f"{len(cases)} texts"

    def live():
        texts = random_texts(40)
        for text in texts:
            passed, figure = same_ids(dipper.tokenize(weights, text.encode()), peer.plain(text))
            if not passed:
                return False, f"{text!r}: {figure}"
        return True, f"{len(texts)} texts"
    report.ask("token ids, stored texts", stored)
    if peer:
        report.ask("token ids, random texts", live)


def worst_position(mine, theirs, scales):
    """mine, theirs[positions][n]: the largest difference over its position's scale, and where it is"""
    worst, place = 0.0, (0, 0)
    for at, (a, b, scale) in enumerate(zip(mine, theirs, scales)):
        error = np.abs(np.asarray(a, np.float64) - b) / scale
        error[~np.isfinite(error)] = np.inf
        if error.max() > worst:
            worst, place = float(error.max()), (at, int(error.argmax()))
    return worst, place


def judge(mine, theirs, scales, chosen, expected):
    worst, (at, element) = worst_position(mine, theirs, scales)
    same = int(np.sum(np.asarray(chosen) == np.asarray(expected)))
    figure = f"largest error {worst:.2e} of scale (position {at}: {mine[at][element]:.5f}, expected {theirs[at][element]:.5f}); same best token in {same} of {len(expected)}"
    return worst <= LOGITS_LIMIT, figure


def compare_logits(dipper, report, weights, peer):
    for case in golden("smollm2_logits.json"):
        def stored():
            logits = dipper.logits(weights, case["tokens"])
            rows = case["positions"]
            return judge([logits[r["at"]][r["ids"]] for r in rows], [np.asarray(r["values"]) for r in rows],
                         [r["scale"] for r in rows], [logits[r["at"]].argmax() for r in rows], [r["argmax"] for r in rows])

        def live():
            mine, theirs = dipper.logits(weights, case["tokens"]), peer.logits(case["tokens"])
            if mine.shape != theirs.shape:
                return False, f"shape {mine.shape}, expected {theirs.shape}"
            return judge(mine, theirs, np.abs(theirs).max(-1), mine.argmax(-1), theirs.argmax(-1))
        report.ask(f"logits, {case['name'][:22]}, {len(case['tokens'])} tokens", live if peer else stored)


def compare_greedy(dipper, report, weights):
    for case in golden("smollm2_greedy.json"):
        def stored():
            # Token 128 may end inside a character; whether its first bytes show is not compared.
            mine, theirs = dipper.run(weights, case["prompt"]).rstrip("\ufffd"), case["text"].rstrip("\ufffd")
            if mine != theirs:
                at = len(os.path.commonprefix([mine, theirs]))
                return False, f"at character {at}: {mine[at:at + 24]!r}, expected {theirs[at:at + 24]!r}; the smallest margin is {case['smallest_gap']:.4f}"
            return True, f"{len(case['ids'])} tokens, smallest margin {case['smallest_gap']:.4f}"
        report.ask("greedy, " + case["prompt"][:32], stored)


def compare_perplexity(dipper, report, weights):
    def stored():
        expected = golden("smollm2_perplexity.json")
        answer = dipper.perplexity(weights, os.path.join(GOLDEN, "perplexity.txt"))
        passed = abs(answer["perplexity"] - expected["perplexity"]) <= PERPLEXITY_LIMIT
        return passed, f"{answer['perplexity']:.4f}, expected {expected['perplexity']:.4f} ({expected['tokens']} tokens)"
    report.ask("perplexity", stored)


def compare_tiny(dipper, report):
    for name in ("tiny_llama/model.safetensors", "tiny_tied/model.safetensors", "tiny_gguf/model.gguf"):
        def stored():
            tails = [np.asarray(case["logits"]) for case in golden(os.path.dirname(name) + "/logits.json")]
            cases = [case["tokens"] for case in golden(os.path.dirname(name) + "/logits.json")]
            mine = [dipper.logits(os.path.join(GOLDEN, name), ids)[-8:] for ids in cases]
            mine, theirs = np.concatenate(mine), np.concatenate(tails)
            return judge(mine, theirs, np.abs(theirs).max(-1), mine.argmax(-1), theirs.argmax(-1))
        report.ask("logits, " + name, stored)


class Peer:
    """Hugging Face on the dequantized weights."""
    def __init__(self, weights):
        sys.path.insert(0, GOLDEN)
        import torch
        import make_golden
        torch.set_grad_enabled(False)
        model, tokenizer = make_golden.load(weights, second_reader=False)
        self.logits = lambda ids: make_golden.logits_of(model, ids)
        self.plain = make_golden.plain_encoder(tokenizer)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dipper", default="build/release/dipper")
    parser.add_argument("--model", default=os.path.join(HERE, "..", "..", "models", "llama.dip"))
    parser.add_argument("--weights", help="SmolLM2-135M-Instruct.Q4_1.gguf; without it only the tiny models are compared")
    parser.add_argument("--golden", action="store_true", help="compare with the stored answers only")
    parser.add_argument("--only", default="tiny,tokenize,logits,greedy,perplexity")
    arguments = parser.parse_args()
    only = set(arguments.only.split(",")) if arguments.weights else {"tiny"}
    dipper, report = Dipper(arguments.dipper, arguments.model), Report()
    weights = arguments.weights
    peer = Peer(weights) if weights and not arguments.golden and only & {"tokenize", "logits"} else None
    if "tiny" in only:
        compare_tiny(dipper, report)
    if "tokenize" in only:
        compare_tokenize(dipper, report, weights, peer)
    if "logits" in only:
        compare_logits(dipper, report, weights, peer)
    if "greedy" in only:
        compare_greedy(dipper, report, weights)
    if "perplexity" in only:
        compare_perplexity(dipper, report, weights)
    print(f"{report.failed} failed" if report.failed else "all passed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
