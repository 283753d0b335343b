// llmir-exec's command line.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "executor/engine/engine.h"
#include "executor/request.h"
#include "kernels/isa.h"
#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::executor {

struct Options {
  std::string plan;
  std::string model;
  std::optional<uint64_t> random_seed;  // of random weights; none: the checkpoint's
  std::string prompt;
  bool chat = false;
  std::string system;
  std::string prompts_file;
  std::string score_file;
  std::string output;
  std::string logits_folder;
  std::string report;
  std::string socket;
  std::string activations;
  std::string calibrate;  // write this machine's speeds here; no plan is run
  std::string command;    // as given, for files that say where they came from
  Request defaults;       // sampling, max_tokens, stop, ignore_eos
  bool seed_given = false;
  int threads = 0;
  bool quiet = false;
  std::string spill_folder;                  // of the ranks' spill files; empty: none
  uint64_t spill_bytes = uint64_t{4} << 30;  // of each
  bool without_exchange = false;             // measure what ranks compute alone
  EngineOptions engine;

  std::string message;  // not empty: print this and end well (--help, --version)
};

// Parses argv. INVALID_ARGUMENT says what is wrong and names --help.
StatusOr<Options> ParseOptions(int argc, char** argv);

// The best ISA family of this machine, or what LLMIR_CPU_ISA asks for: portable, avx2, avx512.
// INCOMPATIBLE where the machine has it not, or its kernels fail their self-test there.
StatusOr<kernels::Isa> ChooseIsa();
// The family that runs `plan`: the one that a reproducible plan is bound to, which this machine
// must have and LLMIR_CPU_ISA must not contradict (INCOMPATIBLE), else as ChooseIsa().
StatusOr<kernels::Isa> ChooseIsaFor(const plan::Plan& plan);

}  // namespace llmir::executor
