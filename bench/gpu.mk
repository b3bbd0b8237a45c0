# bench/gpu.mk: the program bench/gpu.c where there is only a C compiler and make: no CMake, LLVM, PCRE2, Jansson, Check, and
# with BARE_GENERATED (`make -f bench/gpu.mk generated` on another machine) no flex and bison either.
#   make -f bench/gpu.mk -j8 OUT=build/bare           $(OUT)/gpu-bench
#   make -f bench/gpu.mk -j8 OUT=build/bare stand-ins  and a driver and an NVRTC for machines without a GPU
OUT ?= build/bare
CC ?= cc
CFLAGS ?= -O2
FLEX ?= flex
BISON ?= bison
# Parser and lexer made elsewhere, used when flex or bison is missing.
BARE_GENERATED ?= bench/.generated

OPTIONS := -std=c17 -D_GNU_SOURCE -ffp-contract=off -fPIC -DDIPPER_VERSION='"0.1.0"' -I. -Iinclude -I$(OUT) -I$(OUT)/frontend
# Whatever wants those libraries is left out, and what it would answer is bench/gpu_bare.c.
WANTS := $(shell grep -l '<jansson.h>\|<pcre2.h>\|data_parts.h' runtime/*.c) $(wildcard runtime/checkpoint*.c) api/header.c
FOLDERS := base ir passes frontend codegen codegen/interp codegen/cuda runtime api
SOURCES := $(filter-out $(WANTS),$(foreach folder,$(FOLDERS),$(wildcard $(folder)/*.c)))
OBJECTS := $(SOURCES:%.c=$(OUT)/%.o) $(OUT)/cuda_prelude.o $(OUT)/frontend/parser.o $(OUT)/frontend/lexer.o $(OUT)/bench/gpu_bare.o
PROGRAM := $(OUT)/bench/gpu.o $(OUT)/bench/gpu_check.o

.PHONY: all stand-ins generated
all: $(OUT)/gpu-bench
stand-ins: $(OUT)/libfake_cuda.so $(OUT)/libfake_nvrtc.so

$(OUT)/gpu-bench: $(PROGRAM) $(OUT)/libdipper.a
	$(CC) $(CFLAGS) -o $@ $^ -lpthread -ldl -lm

# An archive: of it only what the program reaches is linked.
$(OUT)/libdipper.a: $(OBJECTS)
	@rm -f $@
	ar rcs $@ $^

$(OUT)/%.o: %.c $(OUT)/frontend/parser.h $(OUT)/frontend/lexer.h
	@mkdir -p $(dir $@)
	@$(CC) $(OPTIONS) $(CFLAGS) -c -o $@ $<

$(OUT)/%.o: $(OUT)/%.c $(OUT)/frontend/parser.h $(OUT)/frontend/lexer.h
	@$(CC) $(OPTIONS) $(CFLAGS) -w -c -o $@ $<

$(OUT)/frontend/parser.c $(OUT)/frontend/parser.h &: frontend/parser.y
	@mkdir -p $(OUT)/frontend
	@if command -v $(BISON) >/dev/null; then $(BISON) -d -o $(OUT)/frontend/parser.c --defines=$(OUT)/frontend/parser.h $<; \
	 else cp $(BARE_GENERATED)/parser.c $(BARE_GENERATED)/parser.h $(OUT)/frontend/; fi
$(OUT)/frontend/lexer.c $(OUT)/frontend/lexer.h &: frontend/lexer.l
	@mkdir -p $(OUT)/frontend
	@if command -v $(FLEX) >/dev/null; then $(FLEX) -o $(OUT)/frontend/lexer.c --header-file=$(OUT)/frontend/lexer.h $<; \
	 else cp $(BARE_GENERATED)/lexer.c $(BARE_GENERATED)/lexer.h $(OUT)/frontend/; fi

# The same strings as CMake makes, of its own list.
$(OUT)/cuda_prelude.c: CMakeLists.txt $(wildcard codegen/cuda/prelude/*) codegen/scalar.inc codegen/scalar_exp.inc
	@mkdir -p $(OUT)
	@echo '#include "codegen/cuda/prelude.h"' > $@
	@sed -n 's/^ *text_to_string(\([^ ]*\) \([^ ]*\) prelude)$$/\1 \2/p' CMakeLists.txt | while read file name; do \
	   echo "const char $$name[] = {"; od -An -v -tx1 $$file | sed 's/ *\([0-9a-f][0-9a-f]\)/0x\1,/g'; echo "0};"; done >> $@

$(OUT)/libfake_cuda.so: tests/cuda/fake_driver.c
	$(CC) $(OPTIONS) -O1 -shared -Wl,-z,nodelete -o $@ $< -ldl
$(OUT)/libfake_nvrtc.so: tests/cuda/fake_nvrtc.c
	$(CC) $(OPTIONS) -O1 -shared -DDIPPER_TEST_DIR='"$(CURDIR)/tests"' -o $@ $<

generated: $(OUT)/frontend/parser.c $(OUT)/frontend/lexer.c
	@mkdir -p $(BARE_GENERATED)
	@cp $(OUT)/frontend/parser.[ch] $(OUT)/frontend/lexer.[ch] $(BARE_GENERATED)/
