/* codegen/cuda/prelude.h: texts that the build makes strings of: codegen/cuda/prelude/, codegen/scalar*.inc. */
#ifndef DIPPER_CODEGEN_CUDA_PRELUDE_H
#define DIPPER_CODEGEN_CUDA_PRELUDE_H

extern const char cuda_prelude_gpu[], cuda_prelude_scalar[], cuda_prelude_task[], cuda_prelude_tensor[],
    cuda_scalar_functions[], cuda_scalar_exp[];

#endif
