# A thin face of CMake: `make help` lists what there is.
PRESET ?= release
PROMPT ?= Why is the sky blue?
STAMP := build/.packages
SMOLLM2 := build/weights/SmolLM2-135M-Instruct.Q4_1.gguf

SECONDS ?= 60

.PHONY: help build test demo train-demo bench bench-gpu fuzz clean
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

build: $(STAMP)  ## configure and compile (PRESET=release, debug, asan, tsan)
	@cmake --preset $(PRESET) $(if $(wildcard build/$(PRESET)/build.ninja),>/dev/null)
	@cmake --build --preset $(PRESET)

test: build $(SMOLLM2)  ## every test
	@ctest --preset $(PRESET) $(TESTS)

demo: build $(SMOLLM2)  ## SmolLM2-135M-Instruct answers PROMPT
	@build/$(PRESET)/dipper run models/llama.dip --weights $(SMOLLM2) -p "$(PROMPT)" -n 200 --stats

train-demo: build $(SMOLLM2)  ## fine-tunes SmolLM2-135M-Instruct from its 4-bit file on ten conversations; the answer before and after
	@build/$(PRESET)/dipper run models/llama.dip --weights $(SMOLLM2) -p "What is your name?" -n 40; echo
	@build/$(PRESET)/dipper train tests/demo/tune.dip --weights $(SMOLLM2) --out build/train-demo
	@build/$(PRESET)/dipper run models/llama.dip --weights build/train-demo/step-00000010 --tokenizer $(SMOLLM2) -p "What is your name?" -n 40; echo

bench: build $(SMOLLM2)  ## figures beside llama.cpp's on the same weights; PEERS=all: beside every peer's
	@bench/run.sh

bench-gpu:  ## checks and figures of this machine's GPU, in under nine minutes; wants only cc, make, Python and NVRTC
	@bench/gpu.sh

fuzz: $(STAMP)  ## every fuzz target, SECONDS=60 each (3600: an hour each)
	@tools/setup.sh fuzz
	@cmake --preset fuzz >/dev/null
	@cmake --build --preset fuzz
	@tests/fuzz/run.sh $(SECONDS)

clean:  ## removes build/
	rm -rf build

$(STAMP): tools/setup.sh
	@tools/setup.sh packages
	@mkdir -p build && touch $@

$(SMOLLM2): $(STAMP)
	@tools/setup.sh weights
