// How long llama.cpp takes from main() to the first token of a prompt, and its peak memory: loads
// the model, makes a context, decodes the prompt's ids at once and takes the greatest logit.
//
//   first_token_llamacpp MODEL THREADS PROMPT_TOKENS CONTEXT FLASH(0|1) REPACK(0|1) MMAP(0|1)
//
// One line of JSON: {"seconds": s, "load_seconds": s, "token": id, "pss_bytes": b}. Built by
// perf/peers/llamacpp.py.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

namespace {

// Proportional set size now: all that was loaded is still there.
unsigned long long PssBytes() {
  std::FILE* file = std::fopen("/proc/self/smaps_rollup", "r");
  if (file == nullptr) return 0;
  char line[256];
  unsigned long long kib = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "Pss: %llu kB", &kib) == 1) break;
  }
  std::fclose(file);
  return kib * 1024;
}

}  // namespace

int main(int argc, char** argv) {
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [begin] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  if (argc != 8) return 2;
  const int threads = std::atoi(argv[2]);
  const int tokens = std::atoi(argv[3]);
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  llama_model_params model_params = llama_model_default_params();
  model_params.use_extra_bufts = std::atoi(argv[6]) != 0;
  model_params.load_mode = std::atoi(argv[7]) != 0 ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
  llama_model* model = llama_model_load_from_file(argv[1], model_params);
  if (model == nullptr) return 1;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(std::atoi(argv[4]));
  params.n_threads = params.n_threads_batch = threads;
  params.flash_attn_type =
      std::atoi(argv[5]) != 0 ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return 1;
  const double loaded = seconds();
  std::vector<llama_token> ids(static_cast<size_t>(tokens));
  for (int i = 0; i < tokens; ++i) ids[static_cast<size_t>(i)] = (i * 104729) % 250 + 3;
  if (llama_decode(context, llama_batch_get_one(ids.data(), tokens)) != 0) return 1;
  const float* logits = llama_get_logits_ith(context, -1);
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  const long token = std::max_element(logits, logits + vocabulary) - logits;
  const double first = seconds();
  std::printf("{\"seconds\": %.6f, \"load_seconds\": %.6f, \"token\": %ld, \"pss_bytes\": %llu}\n",
              first, loaded, token, PssBytes());
  llama_free(context);
  llama_model_free(model);
  return 0;
}
