#include "executor/run.h"

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <map>

#include "executor/calibrate.h"
#include "executor/cores.h"
#include "executor/engine/engine.h"
#include "executor/engine/score.h"
#include "executor/memory_bandwidth.h"
#include "executor/output_files.h"
#include "executor/prompt_file.h"
#include "executor/rank.h"
#include "executor/report.h"
#include "executor/socket_server.h"
#include "plan_schema/base/file_map.h"
#include "plan_schema/base/hash.h"
#include "plan_schema/checkpoint/chat_template.h"
#include "plan_schema/checkpoint/tokenizer.h"
#include "plan_schema/plan_facts.h"
#include "plan_schema/plan_file.h"
#include "plan_schema/plan_verifier.h"

namespace llmir::executor {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

std::atomic<bool> g_cancelled{false};
std::atomic<int> g_signals{0};
void OnSignal(int) {
  g_cancelled.store(true, std::memory_order_relaxed);
  g_signals.fetch_add(1, std::memory_order_relaxed);
}

// Rank 0 ends its step and stops the others in order; they ignore the signal that mpirun passes to
// all.
void HandleSignals(bool driver) {
  struct sigaction action{};
  action.sa_handler = driver ? OnSignal : SIG_IGN;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

// What rank 0 works on, read and checked before any weight is loaded.
struct Work {
  std::optional<checkpoint::Tokenizer> tokenizer;
  std::optional<checkpoint::ChatTemplate> chat_template;
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> texts;
  std::unique_ptr<SocketServer> server;

  const checkpoint::Tokenizer* tokenizer_or_null() const {
    return tokenizer.has_value() ? &*tokenizer : nullptr;
  }
};

// The tokenizer that the plan was made with: found where the plan or --model says, and giving the
// plan's test vectors.
Status LoadTokenizer(const plan::Plan& plan, const std::string& plan_folder,
                     const std::string& model, Work* work) {
  namespace fs = std::filesystem;
  const plan::Tokenizer* expected = plan.tokenizer();
  if (expected == nullptr || expected->file() == nullptr || expected->file()->size() == 0)
    return Status();
  fs::path path = expected->file()->str();
  if (!model.empty()) {
    path = fs::is_directory(model) ? fs::path(model) / path.filename() : fs::path(model);
  } else if (!path.is_absolute()) {
    path = fs::path(plan_folder) / path;
  }
  LLMIR_ASSIGN_OR_RETURN(checkpoint::Tokenizer tokenizer,
                         checkpoint::Tokenizer::Load(path.lexically_normal().string()));
  if (tokenizer.Fingerprint() != expected->hash()) {
    return DataLoss(
        "{}: tokenizer hash {:016x}, the plan was made with {:016x}; use that file or plan again",
        path.string(), tokenizer.Fingerprint(), expected->hash());
  }
  if (expected->tests() != nullptr) {
    for (uint32_t i = 0; i < expected->tests()->size(); ++i) {
      const plan::TokenizerTest& test = *expected->tests()->Get(i);
      const std::vector<int32_t> ids = tokenizer.Encode(test.text()->string_view());
      const auto* wanted = test.ids();
      const size_t count = wanted != nullptr ? wanted->size() : 0;
      if (ids.size() != count ||
          (count > 0 && !std::equal(ids.begin(), ids.end(), wanted->begin()))) {
        return Internal("{}: tokenizer test {} of the plan fails: \"{}\" gives {} ids, expected {}",
                        path.string(), i, test.text()->string_view(), ids.size(), count);
      }
    }
  }
  if (expected->chat_template() != nullptr && expected->chat_template()->size() > 0) {
    const std::string bos = tokenizer.bos() >= 0 ? tokenizer.TokenBytes(tokenizer.bos(), true) : "";
    const std::string eos =
        tokenizer.end_ids().empty() ? "" : tokenizer.TokenBytes(tokenizer.end_ids().front(), true);
    auto parsed = checkpoint::ChatTemplate::Parse(expected->chat_template()->str(), bos, eos);
    if (!parsed.ok()) return parsed.status().WithContext("the plan's chat template");
    work->chat_template = std::move(parsed).value();
  }
  work->tokenizer = std::move(tokenizer);
  return Status();
}

Status PrepareWork(const plan::Plan& plan, const std::string& plan_folder, const Options& options,
                   Work* work) {
  // Random weights need no file, and to their answers no text belongs.
  if (!options.random_seed.has_value()) {
    LLMIR_RETURN_IF_ERROR(LoadTokenizer(plan, plan_folder, options.model, work));
  }
  if (!options.score_file.empty()) {
    LLMIR_ASSIGN_OR_RETURN(work->texts,
                           ReadScoreFile(options.score_file, work->tokenizer_or_null()));
    for (size_t i = 0; i < work->texts.size(); ++i) {
      LLMIR_RETURN_IF_ERROR(
          CheckScoreText(plan, work->texts[i])
              .WithContext(fmt::format("{}: text {}", options.score_file, i + 1)));
    }
    return Status();
  }
  const PromptContext context{work->tokenizer_or_null(),
                              work->chat_template.has_value() ? &*work->chat_template : nullptr,
                              options.defaults};
  if (!options.socket.empty()) {
    LLMIR_ASSIGN_OR_RETURN(work->server, SocketServer::Listen(options.socket, context));
    return Status();
  }
  if (!options.prompts_file.empty()) {
    LLMIR_ASSIGN_OR_RETURN(work->requests, ReadPromptFile(options.prompts_file, context));
    // All are checked before the first one runs: a wrong line ends the run before hours of work,
    // not after.
    for (size_t i = 0; i < work->requests.size(); ++i) {
      LLMIR_RETURN_IF_ERROR(
          CheckRequest(plan, work->requests[i])
              .WithContext(fmt::format("{}: prompt {}", options.prompts_file, i + 1)));
    }
    return Status();
  }
  Request request = options.defaults;
  std::string text = options.prompt;
  if (context.tokenizer == nullptr) {
    return Unavailable(
        "--prompt: {} no tokenizer; use --prompts with prompt_ids",
        options.random_seed.has_value() ? "with --random-weights there is" : "the checkpoint has");
  }
  if (options.chat) {
    if (context.chat_template == nullptr)
      return Unavailable("--chat: the checkpoint has no chat template; leave --chat out");
    std::vector<checkpoint::ChatMessage> messages;
    if (!options.system.empty()) messages.push_back({"system", options.system});
    messages.push_back({"user", options.prompt});
    LLMIR_ASSIGN_OR_RETURN(text, context.chat_template->Render(messages));
  }
  request.prompt_ids = context.tokenizer->Encode(text);
  LLMIR_RETURN_IF_ERROR(CheckRequest(plan, request).WithContext("--prompt"));
  work->requests.push_back(std::move(request));
  return Status();
}

// Bytes that one decoded token reads on all ranks: packed weights but the embedding's other rows,
// and K and V of its context.
double DecodeBytes(const plan::Plan& plan, double rows_per_step, double context) {
  double bytes = 0;
  for (const plan::Stage* stage : *plan.replicas()->Get(0)->stages()) {
    for (const plan::Program* program : *stage->programs()) {
      if (program->kind() != plan::ProgramKind::decode) continue;
      for (const plan::Step* step : *program->steps()) {
        for (const plan::StepRank* rank : *step->ranks()) {
          if (rank->cost() == nullptr) continue;
          bytes += rank->cost()->bytes() / rows_per_step + rank->cost()->bytes_per_token() +
                   rank->cost()->bytes_per_context() * context;
        }
      }
    }
  }
  return bytes;
}

// Rank 0's run over its requests.
class Driver {
 public:
  Driver(Rank& rank, Work& work, const Options& options)
      : rank_(rank), work_(work), options_(options) {}

  Status Generate(EngineStatistics* statistics);
  Status Serve(EngineStatistics* statistics);
  Status ScoreTexts();
  Status WriteActivations() const;
  // Of the first prompt.
  std::optional<Clock::time_point> first_token_at() const { return first_token_at_; }
  void PrintClosingLine(const EngineStatistics& statistics, double bandwidth,
                        double run_seconds) const;

 private:
  Status WriteLogits(size_t request, const Completion& completion);

  Rank& rank_;
  Work& work_;
  const Options& options_;
  std::map<size_t, std::vector<float>> logits_;
  double ttft_ms_ = 0;
  Clock::time_point submitted_;
  std::optional<Clock::time_point> first_token_at_;
};

Status Driver::WriteLogits(size_t request, const Completion& completion) {
  const size_t vocabulary = rank_.plan().model()->vocabulary();
  const Status status = WriteNpy(fmt::format("{}/{}.npy", options_.logits_folder, request),
                                 logits_[request], completion.ids.size(), vocabulary);
  logits_.erase(request);
  return status;
}

std::vector<int32_t> EndIds(const plan::Plan& plan) {
  if (plan.tokenizer() == nullptr || plan.tokenizer()->end_ids() == nullptr) return {};
  return {plan.tokenizer()->end_ids()->begin(), plan.tokenizer()->end_ids()->end()};
}

void TellLoss(const Status& what) {
  std::fprintf(stderr, "llmir-exec: warning: %s\n", what.ToString().c_str());
}

Status Driver::Generate(EngineStatistics* statistics) {
  const bool streaming = options_.prompts_file.empty();
  const size_t total = work_.requests.size();
  std::optional<JsonLinesFile> output;
  if (!options_.output.empty()) {
    LLMIR_ASSIGN_OR_RETURN(output, JsonLinesFile::Create(options_.output));
  }
  if (!options_.logits_folder.empty()) LLMIR_RETURN_IF_ERROR(CreateFolder(options_.logits_folder));

  Status failure;  // of a callback; the first one is reported
  auto keep = [&failure](const Status& status) {
    if (failure.ok()) failure = status;
  };
  const bool progress = !streaming && !options_.quiet && isatty(STDERR_FILENO) != 0;
  size_t finished = 0;
  EngineEvents events;
  if (streaming) {
    events.on_token = [](const TokenEvent& token) {
      std::fwrite(token.text.data(), 1, token.text.size(), stdout);
      std::fflush(stdout);
    };
  }
  events.on_finish = [&](size_t request, std::vector<Completion>& completions) {
    ++finished;
    if (request == 0) {
      ttft_ms_ = completions[0].ttft_ms;
      first_token_at_ = submitted_ + std::chrono::duration_cast<Clock::duration>(
                                         std::chrono::duration<double, std::milli>(ttft_ms_));
    }
    if (output.has_value()) {
      keep(output->Write(request, CompletionLine(work_.requests[request].prompt_ids, completions)));
    } else if (!streaming) {
      std::printf("%s\n", CompletionLine(work_.requests[request].prompt_ids, completions).c_str());
    }
    if (!options_.logits_folder.empty()) keep(WriteLogits(request, completions[0]));
    if (progress) std::fprintf(stderr, "\r%zu of %zu prompts done", finished, total);
    if (!failure.ok()) g_cancelled = true;
  };
  if (!options_.logits_folder.empty()) {
    events.on_logits = [&](size_t request, int32_t, std::span<const float> row) {
      auto& rows = logits_[request];
      rows.insert(rows.end(), row.begin(), row.end());
      return Status();
    };
  }
  events.on_loss = TellLoss;
  Engine engine(rank_.plan(), rank_, options_.engine, work_.tokenizer_or_null(),
                EndIds(rank_.plan()), std::move(events));
  submitted_ = Clock::now();
  for (const Request& request : work_.requests) {
    auto number = engine.Submit(request);
    if (!number.ok()) return number.status();
  }
  Status status = engine.Run(g_cancelled);
  if (streaming) std::printf("\n");
  if (progress) std::fprintf(stderr, "\n");
  if (output.has_value()) keep(output->Close());
  *statistics = engine.statistics();
  return failure.ok() ? status : failure;
}

Status Driver::Serve(EngineStatistics* statistics) {
  EngineEvents events = work_.server->Events();
  events.on_loss = TellLoss;
  Engine engine(rank_.plan(), rank_, options_.engine, work_.tokenizer_or_null(),
                EndIds(rank_.plan()), std::move(events));
  Status status = engine.Pin(g_cancelled);
  if (status.code() == StatusCode::kCancelled) return Status();
  if (status.ok() && !options_.quiet) {
    std::fprintf(stderr, "serving at %s\n", options_.socket.c_str());
  }
  if (status.ok()) status = work_.server->Serve(engine, g_signals);
  work_.server.reset();
  *statistics = engine.statistics();
  return status;
}

Status Driver::ScoreTexts() {
  std::optional<JsonLinesFile> output;
  if (!options_.output.empty()) {
    LLMIR_ASSIGN_OR_RETURN(output, JsonLinesFile::Create(options_.output));
  }
  const bool progress =
      !options_.activations.empty() && !options_.quiet && isatty(STDERR_FILENO) != 0;
  LLMIR_RETURN_IF_ERROR(
      Score(rank_.plan(), rank_, work_.texts, g_cancelled,
            [&](size_t text, const std::vector<float>& logprobs) {
              if (progress) {
                std::fprintf(stderr, "\r%zu of %zu texts done%s", text + 1, work_.texts.size(),
                             text + 1 == work_.texts.size() ? "\n" : "");
              }
              return output.has_value() ? output->Write(text, LogprobsLine(logprobs)) : Status();
            }));
  return output.has_value() ? output->Close() : Status();
}

Status Driver::WriteActivations() const {
  const std::string& path =
      options_.score_file.empty() ? options_.prompts_file : options_.score_file;
  checkpoint::ActivationFacts facts;
  if (path.empty()) {
    facts.text = "--prompt";
    facts.text_hash = Hash64(options_.prompt);
  } else {
    LLMIR_ASSIGN_OR_RETURN(const FileMap text, FileMap::Open(path));
    facts.text = std::filesystem::path(path).filename().string();
    facts.text_hash = Hash64(text.bytes());
  }
  facts.machine = fmt::format("{}, {}, {} threads", ProcessorName(), kernels::IsaName(rank_.isa()),
                              rank_.threads());
  facts.command = options_.command;
  return rank_.collector()->Write(options_.activations, std::move(facts));
}

void Driver::PrintClosingLine(const EngineStatistics& s, double bandwidth,
                              double run_seconds) const {
  if (s.decode_rows == 0) {
    std::fprintf(
        stderr, "%s\n",
        fmt::format("{} prompt tokens, {} generated in {:.2f} s; time to first token {:.1f} ms",
                    s.prompt_tokens, s.generated_tokens, run_seconds, ttft_ms_)
            .c_str());
    return;
  }
  const double rows = static_cast<double>(s.decode_rows);
  const double rate = rows / s.decode_seconds;
  const double bytes = DecodeBytes(rank_.plan(), rows / static_cast<double>(s.decode_steps),
                                   s.decode_context / rows);
  std::fprintf(stderr, "%s\n",
               fmt::format("time to first token {:.1f} ms ({} prompt tokens) | {:.1f} tokens/s ({} "
                           "generated) | {:.1f} MB read "
                           "per token, {:.1f} GB/s = {:.0f} % of the measured {:.1f} GB/s",
                           ttft_ms_, s.prompt_tokens, rate, s.generated_tokens, bytes / 1e6,
                           bytes * rate / 1e9, 100 * bytes * rate / bandwidth, bandwidth / 1e9)
                   .c_str());
}

// The end of a job that has lost ranks: MPI can't be finalized without them, nor can the others'
// reports be asked for.
[[noreturn]] void Leave(const Rank& rank, const comm::World& world, const Options& options,
                        const RunFacts& facts, const EngineStatistics& statistics, Status outcome) {
  const bool driver = world.rank() == 0;
  if (driver && outcome.ok() && !options.report.empty()) {
    // Who waited for whom isn't known.
    const std::vector<std::vector<Arrival>> arrivals(rank.programs().size());
    const std::vector<std::string> own = {
        RankReport(rank, world.rank(), world.host(), arrivals, PeakResidentBytes(), 0)};
    outcome = WriteReport(options.report, facts, statistics, own);
  }
  if (!outcome.ok()) std::fprintf(stderr, "llmir-exec: %s\n", outcome.ToString().c_str());
  std::fflush(nullptr);
  std::_Exit(outcome.ok() ? 0 : 1);
}

// Blocks that each rank's spill file has room for.
StatusOr<int32_t> SpillSlots(const plan::Plan& plan, const Options& options) {
  if (options.spill_folder.empty()) return 0;
  uint64_t largest = 1;
  for (const plan::Replica* replica : *plan.replicas()) {
    for (const plan::Stage* stage : *replica->stages()) {
      for (const plan::Rank* rank : *stage->ranks()) {
        largest = std::max(largest, rank->memory()->kv_block());
      }
    }
  }
  const uint64_t slots = std::min<uint64_t>(options.spill_bytes / largest, 1u << 28);
  if (slots > 0) return static_cast<int32_t>(slots);
  return InvalidArgument("--spill-bytes {}: a KV block has {} bytes; give at least as many",
                         options.spill_bytes, largest);
}

}  // namespace

Status Run(comm::World& world, const Options& given, const Startup& startup) {
  Options options = given;
  ReleaseDefaultBinding();
  const bool driver = world.rank() == 0;
  const bool talk = driver && !options.quiet;
  if (!options.calibrate.empty()) {
    HandleSignals(driver);
    return Calibrate(world, options, g_cancelled);
  }

  // The plan: read once, checked by every rank.
  Status status;
  std::vector<std::byte> bytes;
  std::optional<plan::PlanFile> file;
  if (driver) {
    auto read = plan::PlanFile::Read(options.plan);
    if (read.ok()) {
      bytes.assign(read->bytes().begin(), read->bytes().end());
    } else {
      status = read.status();
    }
  }
  LLMIR_RETURN_IF_ERROR(world.Agree(status));
  LLMIR_ASSIGN_OR_RETURN(bytes, world.BroadcastBytes(std::move(bytes)));
  auto received = plan::PlanFile::FromBytes(std::move(bytes), options.plan);
  LLMIR_RETURN_IF_ERROR(world.Agree(received.status()));
  file = std::move(received).value();
  const plan::Plan& plan = file->plan();
  LLMIR_RETURN_IF_ERROR(world.Agree(plan::VerifyPlan(plan).WithContext(options.plan)));
  const uint32_t wanted = plan::WorldSize(plan);
  if (static_cast<uint32_t>(world.size()) != wanted) {
    return InvalidArgument(
        "{}: made for {} rank{}, started with {}; run mpirun -n {}, or plan for {}", options.plan,
        wanted, wanted == 1 ? "" : "s", world.size(), wanted, world.size());
  }

  RankOptions rank_options;
  const std::string folder = std::filesystem::path(options.plan).parent_path().string();
  rank_options.plan_folder = folder.empty() ? std::string(1, '.') : folder;
  rank_options.model = options.model;
  rank_options.random_seed = options.random_seed;
  rank_options.threads = options.threads;
  rank_options.timing = !options.report.empty() || wanted > 1;
  rank_options.swap_blocks = options.engine.swap_blocks;
  LLMIR_ASSIGN_OR_RETURN(options.engine.spill_slots, SpillSlots(plan, options));
  rank_options.spill_folder = options.spill_folder;
  rank_options.spill_slots = options.engine.spill_slots;
  rank_options.transfers = options.engine.reuse_prefixes && options.score_file.empty();
  rank_options.collect_activations = !options.activations.empty();
  rank_options.exchange = !options.without_exchange;
  auto isa = ChooseIsaFor(file->plan());
  LLMIR_RETURN_IF_ERROR(world.Agree(isa.status()));
  rank_options.isa = *isa;

  RunFacts facts{options.plan, file->checksum()};
  facts.without_exchange = options.without_exchange;
  facts.mpi_init_seconds = startup.mpi_seconds;
  facts.plan_seconds = Seconds(startup.begin) - startup.mpi_seconds;
  Work work;
  const auto prompt_start = Clock::now();
  if (driver) status = PrepareWork(plan, rank_options.plan_folder, options, &work);
  LLMIR_RETURN_IF_ERROR(world.Agree(status));
  facts.prompt_seconds = Seconds(prompt_start);

  // One line that is rewritten on a terminal; elsewhere a line at the end.
  const auto load_start = Clock::now();
  auto last = load_start;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  LoadProgress progress;
  if (talk) {
    progress = [&](uint64_t done, uint64_t total) {
      if (!terminal || (Seconds(last) < 0.1 && done < total)) return;
      last = Clock::now();
      std::fprintf(stderr, "\rloading weights: %.0f of %.0f MB", static_cast<double>(done) / 1e6,
                   static_cast<double>(total) / 1e6);
    };
  }
  LLMIR_ASSIGN_OR_RETURN(const std::unique_ptr<Rank> rank,
                         Rank::Create(world, *file, rank_options, progress));
  facts.load_seconds = Seconds(load_start);
  if (talk) {
    const LoadStatistics& load = rank->weights().statistics();
    std::fprintf(stderr, "%s%s %.0f MB per rank in %.2f s: %u rank%s, %d thread%s each, %s\n",
                 terminal ? "\r" : "", load.random ? "made random weights," : "loaded",
                 static_cast<double>(load.random ? load.packed_bytes : load.source_bytes) / 1e6,
                 facts.load_seconds, wanted, wanted == 1 ? "" : "s", rank->threads(),
                 rank->threads() == 1 ? "" : "s", kernels::IsaName(rank->isa()));
  }
  if (talk && rank->weights().statistics().repacked_weights > 0) {
    const LoadStatistics& load = rank->weights().statistics();
    std::fprintf(stderr, "llmir-exec: note: %d weights were packed again: %s\n",
                 load.repacked_weights, load.repacked_reason.c_str());
  }
  if (driver && !rank->transfer_status().ok()) {
    TellLoss(rank->transfer_status().WithContext("KV blocks stay where they are computed"));
  }
  if (talk && rank->collector() != nullptr) {
    std::fprintf(stderr, "collecting activations takes %.0f MB\n",
                 static_cast<double>(rank->collector()->bytes()) / 1e6);
  }
  HandleSignals(driver);

  // From here on rank 0 drives: its errors end the others through Stop.
  const auto run_start = Clock::now();
  EngineStatistics statistics;
  Driver run(*rank, work, options);
  Status outcome;
  if (driver) {
    outcome = !options.socket.empty()      ? run.Serve(&statistics)
              : options.score_file.empty() ? run.Generate(&statistics)
                                           : run.ScoreTexts();
    if (outcome.ok() && rank->collector() != nullptr) outcome = run.WriteActivations();
    LLMIR_RETURN_IF_ERROR(rank->Stop());
  } else {
    LLMIR_RETURN_IF_ERROR(rank->Serve());
  }
  facts.run_seconds = Seconds(run_start);
  if (rank->crippled()) Leave(*rank, world, options, facts, statistics, outcome);
  if (run.first_token_at()) {
    facts.first_token_seconds =
        std::chrono::duration<double>(*run.first_token_at() - startup.begin).count() -
        startup.mpi_seconds;
    facts.prefill_seconds =
        std::chrono::duration<double>(*run.first_token_at() - run_start).count();
  }
  LLMIR_RETURN_IF_ERROR(world.Agree(outcome));

  // All ranks of a host measure at once, as they decode: each gets its part of the bandwidth.
  const bool measure = !options.quiet && options.score_file.empty() && options.socket.empty();
  double bandwidth = 0;
  const uint64_t peak_bytes = PeakResidentBytes();
  if (measure || !options.report.empty()) {
    auto measured = MeasureReadBandwidth(rank->pool(), [&world] { return world.Agree(Status()); });
    LLMIR_RETURN_IF_ERROR(world.Agree(measured.status()));
    bandwidth = *measured;
  }
  LLMIR_ASSIGN_OR_RETURN(const auto arrivals, rank->CompareArrivals(world));
  LLMIR_ASSIGN_OR_RETURN(const std::vector<std::string> reports,
                         rank->Collect(RankReport(*rank, world.rank(), world.host(), arrivals,
                                                  peak_bytes, bandwidth)));
  if (!driver) return world.Agree(Status());
  if (!options.report.empty()) {
    status = WriteReport(options.report, facts, statistics, reports);
  }
  if (measure) run.PrintClosingLine(statistics, TotalBandwidth(reports), facts.run_seconds);
  if (talk && wanted > 1) {
    std::fprintf(stderr, "%s\n", RankLine(CompareRanks(reports)).c_str());
  }
  return world.Agree(status);
}

}  // namespace llmir::executor
