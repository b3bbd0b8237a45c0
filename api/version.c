/* api/version.c: which library this is. */
#include "dipper/version.h"

int dp_abi_version(void) { return DP_ABI_VERSION; }

const char *dp_version(void) { return DIPPER_VERSION; }
