/* runtime/checkpoint.c: saves and opens checkpoints. The order of things is what keeps the last good one readable at
 * every moment: all files whole in a hidden folder, that folder renamed, `latest` replaced, old ones hidden and only
 * then removed. */
#include "runtime/checkpoint_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* ---- room */

static uint64_t bytes_of(const rt_save_tensor *tensors, int count) {
  uint64_t bytes = 0;
  for (int i = 0; i < count; i++) {
    int64_t elements = 1;
    for (int d = 0; d < tensors[i].rank; d++) elements *= tensors[i].dims[d];
    int64_t size = rt_row_bytes(tensors[i].dtype, elements);
    bytes += size > 0 ? (uint64_t)size : 0;
  }
  return bytes;
}

/* False when the file system does not tell. */
static bool free_bytes(const char *directory, uint64_t *bytes) {
  struct statvfs info;
  if (statvfs(directory, &info) != 0 || info.f_blocks == 0) return false;
  *bytes = (uint64_t)info.f_bavail * info.f_frsize;
  return true;
}

static uint64_t needed_bytes(const rt_checkpoint_plan *plan) {
  enum { HEADERS = 1 << 16 };
  return plan->weights_bytes + bytes_of(plan->optimizer, plan->optimizer_count) + cp_bytes_beside(plan->source) +
         HEADERS;
}

static dp_status check_room(const rt_checkpoint_plan *plan) {
  uint64_t there, needed = needed_bytes(plan);
  if (!free_bytes(plan->directory, &there) || there >= needed) return DP_SUCCESS;
  return dp_fail(DP_IO,
                 "a checkpoint in '%s' takes about %" PRIu64 " bytes, and %" PRIu64 " are free: %" PRIu64
                 " are missing; free them, or keep fewer checkpoints",
                 plan->directory, needed, there, needed - there);
}

/* What the system refused, and how much there was to be written. */
static dp_status tell_room(const rt_checkpoint_plan *plan, dp_status status) {
  uint64_t there = 0, needed = needed_bytes(plan);
  if (status.code != DP_IO) return status;
  bool known = free_bytes(plan->directory, &there);
  dp_status told = dp_fail(DP_IO, "%s; the checkpoint of step %" PRId64 " takes about %" PRIu64 " bytes",
                           dp_status_text(&status), plan->state.step, needed);
  if (known && told.message) {
    dp_status more =
        dp_fail(DP_IO, "%s, and %" PRIu64 " are free; those before it are as they were", told.message, there);
    dp_status_free(&told);
    told = more;
  }
  dp_status_free(&status);
  return told;
}

/* ---- saving */

static dp_status write_files(const rt_checkpoint_plan *plan, const char *folder) {
  char path[PATH_MAX];
  const char *state = plan->optimizer_state ? plan->optimizer_state : "";
  DP_TRY(cp_join(path, folder, CHECKPOINT_WEIGHTS));
  DP_TRY(plan->save_weights(plan->user, plan->adapter ? folder : path));
  DP_TRY(cp_join(path, folder, CHECKPOINT_OPTIMIZER));
  DP_TRY(rt_save_noted_safetensors(path, plan->optimizer, plan->optimizer_count, "state", state));
  DP_TRY(cp_write_beside(folder, plan));
  DP_TRY(cp_write_manifest(folder, &plan->state));
  if (chmod(folder, 0755) != 0) return dp_fail(DP_IO, "cannot open '%s' to others: %s", folder, strerror(errno));
  return cp_sync_folder(folder);
}

static void hide_and_remove(const char *directory, int64_t step) {
  char name[32], hidden[64], from[PATH_MAX], to[PATH_MAX];
  cp_name_of_step(name, step);
  snprintf(hidden, sizeof hidden, ".%s.tmp-old", name);
  dp_status status = cp_join(from, directory, name);
  if (status.code == DP_OK) status = cp_join(to, directory, hidden);
  if (status.code == DP_OK && rename(from, to) == 0) cp_remove_folder(to);
  dp_status_free(&status);
}

/* Gives the folder its name. Where there is one of that name (a damaged one, of a run that went on before it), they
 * change places in one step, where the file system can. */
static dp_status put_in_place(const rt_checkpoint_plan *plan, const char *folder, const char *path) {
  if (rename(folder, path) == 0) return DP_SUCCESS;
  if (renameat2(AT_FDCWD, folder, AT_FDCWD, path, RENAME_EXCHANGE) == 0) {
    cp_remove_folder(folder);
    return DP_SUCCESS;
  }
  hide_and_remove(plan->directory, plan->state.step);
  if (rename(folder, path) == 0) return DP_SUCCESS;
  return dp_fail(DP_IO, "cannot name the checkpoint '%s': %s", path, strerror(errno));
}

/* Of those up to this step `keep` stay; later ones are not this run's. */
static void remove_old(const rt_checkpoint_plan *plan) {
  int64_t *steps;
  int count, kept = 0;
  dp_status status = cp_list_steps(plan->directory, &steps, &count);
  for (int i = 0; i < count && plan->keep > 0; i++) {
    if (steps[i] > plan->state.step || kept++ < plan->keep) continue;
    hide_and_remove(plan->directory, steps[i]);
  }
  free(steps);
  dp_status_free(&status);
}

static dp_status set_latest(const char *directory, const char *name) {
  char path[PATH_MAX], line[64];
  DP_TRY(cp_join(path, directory, CHECKPOINT_LATEST));
  snprintf(line, sizeof line, "%s\n", name);
  DP_TRY(dp_write_file_atomic(path, line, strlen(line)));
  return cp_sync_folder(directory);
}

/* The folder is locked. */
static dp_status save(const rt_checkpoint_plan *plan) {
  char name[32], hidden[64], folder[PATH_MAX], path[PATH_MAX];
  cp_name_of_step(name, plan->state.step);
  snprintf(hidden, sizeof hidden, ".%s.tmp-XXXXXX", name);
  DP_TRY(cp_join(folder, plan->directory, hidden));
  DP_TRY(cp_join(path, plan->directory, name));
  cp_remove_leftovers(plan->directory);
  DP_TRY(check_room(plan));
  if (!mkdtemp(folder)) return dp_fail(DP_IO, "cannot write to '%s': %s", plan->directory, strerror(errno));
  dp_status status = write_files(plan, folder);
  if (status.code == DP_OK) status = put_in_place(plan, folder, path);
  if (status.code != DP_OK) {
    cp_remove_folder(folder);
    return tell_room(plan, status);
  }
  DP_TRY(cp_sync_folder(plan->directory));
  DP_TRY(set_latest(plan->directory, name));
  remove_old(plan);
  return DP_SUCCESS;
}

static dp_status make_folder(const char *directory) {
  char parent[PATH_MAX];
  if (mkdir(directory, 0755) != 0)
    return errno == EEXIST
               ? DP_SUCCESS
               : dp_fail(DP_IO, "cannot make the folder '%s' for checkpoints: %s", directory, strerror(errno));
  DP_TRY(cp_join(parent, directory, ".."));
  return cp_sync_folder(parent);
}

dp_status rt_checkpoint_save(const rt_checkpoint_plan *plan) {
  int lock;
  bool taken;
  if (!plan->directory || !*plan->directory) return dp_fail(DP_INVALID, "no folder for checkpoints was named");
  if (plan->state.step < 0 || plan->state.step > CHECKPOINT_MAX_STEP)
    return dp_fail(DP_INVALID, "step %" PRId64 " cannot be a checkpoint's: they go to %d", plan->state.step,
                   CHECKPOINT_MAX_STEP);
  DP_TRY(make_folder(plan->directory));
  DP_TRY(cp_lock_folder(plan->directory, &lock, &taken));
  if (taken)
    return dp_fail(DP_IO, "another process is writing checkpoints to '%s': wait for it, or name another folder",
                   plan->directory);
  dp_status status = save(plan);
  if (lock >= 0) close(lock);
  return status;
}

/* ---- opening */

static dp_status open_one(const char *directory, rt_checkpoint *checkpoint) {
  char path[PATH_MAX];
  DP_TRY(cp_verify(directory, &checkpoint->state));
  DP_TRY(cp_join(path, directory, CHECKPOINT_OPTIMIZER));
  DP_TRY(rt_weights_open(path, &checkpoint->optimizer));
  checkpoint->directory = strdup(directory);
  return checkpoint->directory ? DP_SUCCESS : dp_fail(DP_NO_MEMORY, "no memory for a path");
}

/* The first of the steps that is whole; what is wrong with those before it in `note`. */
static dp_status open_first(const char *directory, const int64_t *steps, int count, dp_str *note,
                            rt_checkpoint *checkpoint) {
  for (int i = 0; i < count; i++) {
    char name[32], path[PATH_MAX];
    cp_name_of_step(name, steps[i]);
    DP_TRY(cp_join(path, directory, name));
    dp_status status = open_one(path, checkpoint);
    if (status.code == DP_OK || status.code == DP_NO_MEMORY) return status;
    dp_str_addf(note, "%s%s", note->length ? "; " : "", dp_status_text(&status));
    dp_status_free(&status);
  }
  return dp_fail(DP_INVALID, "no checkpoint in '%s' is whole: %s", directory, note->text ? note->text : "");
}

static dp_status open_newest(const char *directory, rt_checkpoint *checkpoint) {
  int64_t *steps;
  int count, lock;
  bool taken;
  DP_TRY(cp_lock_folder(directory, &lock, &taken));
  if (lock >= 0) {
    cp_remove_leftovers(directory);
    close(lock);
  }
  DP_TRY(cp_list_steps(directory, &steps, &count));
  dp_str note = {0};
  dp_status status = count > 0 ? open_first(directory, steps, count, &note, checkpoint)
                               : dp_fail(DP_NOT_FOUND, "'%s' holds no checkpoint", directory);
  checkpoint->note = note.text;
  free(steps);
  return status;
}

dp_status rt_checkpoint_open(const char *directory, rt_checkpoint **out) {
  char path[PATH_MAX];
  dp_file_stamp stamp;
  *out = NULL;
  DP_TRY(cp_join(path, directory, CHECKPOINT_MANIFEST));
  rt_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
  if (!checkpoint) return dp_fail(DP_NO_MEMORY, "no memory for a checkpoint");
  dp_status status = dp_stamp_file(path, &stamp) ? open_one(directory, checkpoint) : open_newest(directory, checkpoint);
  if (status.code == DP_OK)
    *out = checkpoint;
  else
    rt_checkpoint_close(checkpoint);
  return status;
}

void rt_checkpoint_close(rt_checkpoint *checkpoint) {
  if (!checkpoint) return;
  rt_weights_close(checkpoint->optimizer);
  free(checkpoint->directory);
  free(checkpoint->note);
  free(checkpoint);
}

dp_status rt_checkpoint_read(const rt_checkpoint *checkpoint, const char *name, float *dst, int64_t count) {
  const rt_tensor *tensor = rt_weights_find(checkpoint->optimizer, name);
  const char *path = rt_weights_path(checkpoint->optimizer);
  if (!tensor) return dp_fail(DP_INVALID, "'%s' has no '%s': it is of another model or optimizer", path, name);
  if (!tensor->supported || tensor->dtype != IR_f32 || tensor->elements != count)
    return dp_fail(DP_INVALID, "'%s': '%s' has %" PRId64 " elements of %s, %" PRId64 " of f32 are wanted", path, name,
                   tensor->elements, tensor->type_name, count);
  if (count > 0) memcpy(dst, tensor->data, (size_t)count * sizeof *dst);
  return DP_SUCCESS;
}
