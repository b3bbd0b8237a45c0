/* runtime/checkpoint_parts.h: private to runtime/checkpoint*.c: names, folders, the manifest. */
#ifndef DIPPER_RUNTIME_CHECKPOINT_PARTS_H
#define DIPPER_RUNTIME_CHECKPOINT_PARTS_H

#include "runtime/checkpoint.h"

#include <limits.h>

#define CHECKPOINT_WEIGHTS "model.safetensors"
#define CHECKPOINT_ADAPTER "adapter_model.safetensors"
#define CHECKPOINT_OPTIMIZER "optimizer.safetensors"
#define CHECKPOINT_MANIFEST "trainer.json"
#define CHECKPOINT_LATEST "latest"

enum { CHECKPOINT_MAX_STEP = 99999999 };

/* ---- folders (checkpoint_folder.c) */

/* DIRECTORY/NAME; DP_INVALID when it is too long. */
dp_status cp_join(char path[PATH_MAX], const char *directory, const char *name);
void cp_name_of_step(char name[32], int64_t step);
int64_t cp_step_of_name(const char *name); /* -1: no checkpoint's name */
/* Steps of the checkpoints of a folder, the newest first; malloc'ed. */
dp_status cp_list_steps(const char *directory, int64_t **steps, int *count);
dp_status cp_sync_folder(const char *directory);
void cp_remove_folder(const char *directory);
void cp_remove_leftovers(const char *directory); /* of writers that were killed; the folder is locked */
/* *lock is a descriptor, to be closed; -1 when the file system has no locks. *taken: another process has it. */
dp_status cp_lock_folder(const char *directory, int *lock, bool *taken);

/* ---- trainer.json (checkpoint_manifest.c) */

/* Sums up every file of the folder. */
dp_status cp_write_manifest(const char *directory, const rt_trainer_state *state);
/* Reads it and looks whether every file is as it was. */
dp_status cp_verify(const char *directory, rt_trainer_state *state);

/* ---- config.json and its companions (checkpoint_beside.c) */

dp_status cp_write_beside(const char *directory, const rt_checkpoint_plan *plan);
uint64_t cp_bytes_beside(const rt_weights_file *source); /* about what that writes */

#endif
