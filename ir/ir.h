/* ir/ir.h: face of the folder: the data that frontend, passes, codegen and runtime meet in. */
#ifndef DIPPER_IR_H
#define DIPPER_IR_H

#include "ir/adapter.h"
#include "ir/graph.h"
#include "ir/packing.h"
#include "ir/recipe.h"
#include "ir/tile.h"

#endif
