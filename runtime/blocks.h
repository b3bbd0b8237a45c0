/* runtime/blocks.h: a quantized block as a file has it, and its image (ir/packing.h): the same bytes in the order that
 * packed lines have. */
#ifndef DIPPER_RUNTIME_BLOCKS_H
#define DIPPER_RUNTIME_BLOCKS_H

#include "ir/ir.h"

enum { RT_BLOCK_ELEMENTS = 256, RT_IMAGE_BYTES = 256 }; /* of the largest type, at most */

/* block: ir_dtype_block_bytes; image: ir_packing_of(dtype).lines bytes. Neither is aligned. */
void rt_block_to_image(ir_dtype dtype, const ir_packing *packing, const uint8_t *block, uint8_t *image);
void rt_block_from_image(ir_dtype dtype, const ir_packing *packing, const uint8_t *image, uint8_t *block);

/* The codes of an image, 0 .. 2^bits - 1, in order; and back. */
void rt_image_codes(const ir_packing *packing, const uint8_t *image, uint8_t codes[RT_BLOCK_ELEMENTS]);
void rt_image_set_codes(const ir_packing *packing, const uint8_t codes[RT_BLOCK_ELEMENTS], uint8_t *image);

#endif
