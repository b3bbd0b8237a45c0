/* dipper/version.h: which dipper a program was compiled against, and which one it runs with. */
#ifndef DIPPER_VERSION_H
#define DIPPER_VERSION_H

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Raised when a function, a structure or the meaning of either changes so that a program must be compiled again. It is the
 * number in libdipper.so.N. What is only added does not raise it: see dp_callbacks.size for how structures grow. */
#define DP_ABI_VERSION 1

int dp_abi_version(void);     /* of the library that is loaded: compare with DP_ABI_VERSION */
const char *dp_version(void); /* "0.1.0"; static */

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
