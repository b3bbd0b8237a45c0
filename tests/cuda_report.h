/* tests/cuda_report.h: what the host executor reports, for people. */
#ifndef DIPPER_TESTS_CUDA_REPORT_H
#define DIPPER_TESTS_CUDA_REPORT_H

#include "base/base.h"

/* Addresses in braces, those of callers behind that of the access, as lines of the source that the library is made of. */
void cuda_explain(dp_str *out, const char *library, const char *source, const char *error);

#endif
