/* runtime/runtime.h: face of the folder: what runs compiled programs and feeds them. */
#ifndef DIPPER_RUNTIME_H
#define DIPPER_RUNTIME_H

#include "ir/ir.h"
#include "runtime/adapter.h"
#include "runtime/chat.h"
#include "runtime/checkpoint.h"
#include "runtime/data.h"
#include "runtime/engine.h"
#include "runtime/memory.h"
#include "runtime/resident.h"
#include "runtime/sampler.h"
#include "runtime/tokenizer.h"
#include "runtime/weights.h"

#endif
