// The engine over a memory of ids instead of a model: a row writes its id into its sequence's
// block, and what is drawn is a hash of all ids that the row then reads through the page table. A
// block that is shared, copied, swapped, found or evicted wrongly changes an answer.
#include "executor/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>
#include <set>

#include "plan_schema/base/hash.h"
#include "plan_schema/plan_file.h"
#include "tests/unit/plan_schema/plan_builder.h"

namespace llmir::executor {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;

constexpr int32_t kVocabulary = 160;

// What follows `ids`: often the same as after their last two, so that guesses are right at times.
int32_t NextId(std::span<const int32_t> ids, const SamplingOptions& sampling, int64_t position) {
  uint64_t hash = Hash64(std::as_bytes(ids));
  if (sampling.temperature > 0)
    hash ^= sampling.seed * 0x9e3779b97f4a7c15ULL + static_cast<uint64_t>(position);
  hash = Hash64(std::as_bytes(std::span(&hash, 1)));
  if (hash % 5 != 0) hash = static_cast<uint64_t>(7 * ids.back() % 31);
  return static_cast<int32_t>(hash % kVocabulary);
}

// Runs steps when their results are asked for, as late as ranks may; moves blocks as late, and in
// between holds against the engine what it does with them.
class MemoryModel : public StepRunner, public kvpool::BlockTransfers {
 public:
  MemoryModel(const plan::Plan& plan, int32_t swap_blocks, int32_t spill_slots)
      : block_size_(static_cast<int32_t>(plan.kv()->block_size())),
        window_(static_cast<int32_t>(plan.model()->attention_windows() == nullptr
                                         ? 0
                                         : plan.model()->attention_windows()->Get(0))),
        max_sampled_(static_cast<int32_t>(plan.limits()->max_batch())),
        max_tokens_(static_cast<int32_t>(plan.limits()->max_tokens())),
        depth_(plan.limits()->steps_in_flight()),
        replicas_(plan.replicas()->size()) {
    for (Memory& memory : replicas_) {
      memory.blocks.assign(plan.kv()->blocks() + static_cast<size_t>(swap_blocks),
                           std::vector<int32_t>(static_cast<size_t>(block_size_), -1));
      memory.slots.resize(static_cast<size_t>(spill_slots));
    }
  }

  Status Start(int replica, StepDescriptor& step) override {
    Memory& memory = replicas_[static_cast<size_t>(replica)];
    EXPECT_FALSE(forgotten_ && replica == lost_);
    EXPECT_LT(memory.steps.size(), depth_) << "more steps in flight than the plan allows";
    EXPECT_EQ(step.header().number, memory.started++);
    for (StepDescriptor& other : memory.steps) ExpectDisjoint(other, step);
    for (const Transfer& transfer : transfers_) ExpectApart(transfer, replica, step);
    memory.steps.push_back(step);
    most_in_flight_ = std::max(most_in_flight_, memory.steps.size());
    if (replica == 0 && meanwhile_) {
      for (int i = 0; i < 3; ++i) LLMIR_RETURN_IF_ERROR(meanwhile_());
    }
    return Status();
  }
  StatusOr<bool> IsFinished(int replica) override {
    EXPECT_FALSE(replicas_[static_cast<size_t>(replica)].steps.empty());
    return replica != lost_ && random_() % 3 == 0;
  }
  StatusOr<StepResult> Finish(int replica) override {
    Memory& memory = replicas_[static_cast<size_t>(replica)];
    StepDescriptor step = std::move(memory.steps.front());
    memory.steps.pop_front();
    memory.rows += static_cast<size_t>(step.header().tokens);
    // Were computing a token as quick as getting it, the machine's moods would decide whether any
    // block is fetched or restored.
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::microseconds(2) * step.header().tokens;
    while (moves_ && std::chrono::steady_clock::now() < until) {
    }
    return Run(memory, step);
  }

  // Blocks move between replicas; of `n` orders one fails, of 0 none.
  void MoveBlocks(uint32_t n) {
    moves_ = true;
    failing_ = n;
  }
  kvpool::BlockTransfers* transfers() override { return moves_ ? this : nullptr; }
  Status Order(const kvpool::TransferOrder& order) override {
    if (order.kind != kvpool::TransferKind::kRestore) {
      EXPECT_EQ(order.kind == kvpool::TransferKind::kFetch, order.source != order.destination);
    }
    EXPECT_EQ(order.from.size(), order.to.size());
    Transfer transfer{order.ticket,
                      order.kind,
                      order.source,
                      order.destination,
                      {order.from.begin(), order.from.end()},
                      {order.to.begin(), order.to.end()}};
    for (StepDescriptor& step : replicas_[static_cast<size_t>(order.destination)].steps) {
      ExpectApart(transfer, order.destination, step);
    }
    transfers_.push_back(std::move(transfer));
    return Status();
  }
  bool TakeOutcome(kvpool::TransferOutcome* outcome) override {
    if (held_ || transfers_.empty() || random_() % 4 != 0) return false;
    const size_t at = random_() % transfers_.size();
    const Transfer transfer = std::move(transfers_[at]);
    transfers_.erase(transfers_.begin() + static_cast<ptrdiff_t>(at));
    const bool fails = (failing_ > 0 && random_() % failing_ == 0) || transfer.destination == lost_;
    const auto place = [&](int replica, bool slots) -> std::vector<std::vector<int32_t>>& {
      Memory& memory = replicas_[static_cast<size_t>(replica)];
      return slots ? memory.slots : memory.blocks;
    };
    auto& source = place(transfer.source, transfer.kind == kvpool::TransferKind::kRestore);
    auto& destination = place(transfer.destination, transfer.kind == kvpool::TransferKind::kSpill);
    for (size_t i = 0; i < transfer.to.size(); ++i) {
      auto& to = destination[static_cast<size_t>(transfer.to[i])];
      if (fails) {
        std::ranges::fill(to, -7);  // whatever came
      } else {
        to = source[static_cast<size_t>(transfer.from[i])];
      }
    }
    *outcome = {transfer.ticket, fails ? Unavailable("rank 1: it is lost") : Status(), 1e-9, 100};
    return true;
  }
  void WaitOutcome(std::chrono::microseconds) override { ++waits_; }
  // From now on nothing comes of the replica.
  void Lose(int replica) {
    lost_ = replica;
    tells_of_loss_ = true;
  }
  bool TakeLost(int* replica) override {
    if (!tells_of_loss_ || random_() % 4 != 0) return false;
    *replica = lost_;
    tells_of_loss_ = false;
    return true;
  }
  void Forget(int replica) override {
    EXPECT_EQ(replica, lost_);
    replicas_[static_cast<size_t>(replica)].steps.clear();
    forgotten_ = true;
  }
  bool ShareHost(int source, int destination) const override { return source + destination < 2; }
  size_t waits() const { return waits_; }
  size_t orders() const { return transfers_.size(); }
  void HoldTransfers(bool held) { held_ = held; }

  size_t most_in_flight() const { return most_in_flight_; }
  size_t rows(int replica) const { return replicas_[static_cast<size_t>(replica)].rows; }

 private:
  struct Memory {
    std::vector<std::vector<int32_t>> blocks;
    std::vector<std::vector<int32_t>> slots;  // of the spill file
    std::deque<StepDescriptor> steps;
    uint64_t started = 0;
    size_t rows = 0;
    std::vector<int32_t> ids;
    std::vector<DrawDetails> details;
  };

  struct Transfer {
    uint64_t ticket;
    kvpool::TransferKind kind;
    int source;
    int destination;
    std::vector<int32_t> from;
    std::vector<int32_t> to;
  };

  // Until its outcome nobody writes to the blocks of a transfer, nor reads those that it fills.
  void ExpectApart(const Transfer& transfer, int replica, StepDescriptor& step) {
    if (replica == transfer.destination && transfer.kind != kvpool::TransferKind::kSpill) {
      for (const int32_t block : step.kv_indices()) {
        EXPECT_THAT(transfer.to, testing::Not(testing::Contains(block)))
            << "a block is used before it is there";
      }
    }
    if (replica != transfer.source || transfer.kind == kvpool::TransferKind::kRestore) return;
    ForEachRow(step, [&](int32_t s, int32_t row) {
      const int32_t block = BlockOf(step, s, step.positions()[static_cast<size_t>(row)]);
      EXPECT_THAT(transfer.from, testing::Not(testing::Contains(block)))
          << "a block is written to while it is read";
    });
  }

  // What `step` writes, a step in flight doesn't use, unless both are of one prompt: then `step`
  // goes on where the other one ends.
  void ExpectDisjoint(StepDescriptor& other, StepDescriptor& step) {
    std::map<int32_t, std::pair<int32_t, int32_t>> used;  // block -> its place, tokens
    for (int32_t s = 0; s < other.header().sequences; ++s) {
      const int32_t begin = other.kv_indptr()[static_cast<size_t>(s)];
      for (int32_t i = begin; i < other.kv_indptr()[static_cast<size_t>(s) + 1]; ++i) {
        used[other.kv_indices()[static_cast<size_t>(i)]] = {
            i - begin, other.kv_tokens()[static_cast<size_t>(s)]};
      }
    }
    ForEachRow(step, [&](int32_t s, int32_t row) {
      const int32_t position = step.positions()[static_cast<size_t>(row)];
      const auto found = used.find(BlockOf(step, s, position));
      if (found == used.end()) return;
      EXPECT_EQ(found->second.first, position / block_size_) << "a block was given away too early";
      EXPECT_LE(found->second.second, position) << "two steps in flight write one token";
    });
  }

  StatusOr<StepResult> Run(Memory& memory, StepDescriptor& step) {
    std::vector<std::vector<int32_t>>& blocks = memory.blocks;
    const StepHeader& header = step.header();
    EXPECT_LE(header.sampled, max_sampled_);
    EXPECT_LE(header.tokens, max_tokens_);
    EXPECT_GT(header.tokens, 0);
    if (step.program() == plan::ProgramKind::decode) {
      EXPECT_EQ(header.tokens, header.sampled);
    }
    for (const kvpool::BlockCopy& copy : step.copies()) {
      blocks[static_cast<size_t>(copy.to)] = blocks[static_cast<size_t>(copy.from)];
    }
    std::set<int32_t> written;
    ForEachRow(step, [&](int32_t s, int32_t row) {
      const int32_t position = step.positions()[static_cast<size_t>(row)];
      EXPECT_EQ(position, step.kv_tokens()[static_cast<size_t>(s)] -
                              (step.query_indptr()[static_cast<size_t>(s) + 1] - row));
      const int32_t block = BlockOf(step, s, position);
      EXPECT_TRUE(written.insert(block * block_size_ + position % block_size_).second)
          << "two rows write to one place";
      blocks[static_cast<size_t>(block)][static_cast<size_t>(position % block_size_)] =
          step.token_ids()[static_cast<size_t>(row)];
    });
    memory.ids.clear();
    memory.details.clear();
    int32_t draw = 0;
    ForEachRow(step, [&](int32_t s, int32_t row) {
      while (draw < header.sampled && step.sampled_rows()[static_cast<size_t>(draw)] == row) {
        const int32_t position = step.positions()[static_cast<size_t>(row)];
        std::vector<int32_t> read;
        for (int32_t at = window_ > 0 ? std::max(0, position + 1 - window_) : 0; at <= position;
             ++at) {
          const int32_t block = BlockOf(step, s, at);
          if (block < 0) {
            ADD_FAILURE() << "token " << at << " was given back, but " << position << " reads it";
            continue;
          }
          read.push_back(blocks[static_cast<size_t>(block)][static_cast<size_t>(at % block_size_)]);
        }
        EXPECT_EQ(step.sampled_positions()[static_cast<size_t>(draw)], position + 1);
        memory.ids.push_back(
            NextId(read, step.sampling()[static_cast<size_t>(draw)], position + 1));
        memory.details.push_back({-0.01f * static_cast<float>(memory.ids.back()), 1});
        ++draw;
      }
    });
    EXPECT_EQ(draw, header.sampled);
    StepResult result;
    result.ids = memory.ids;
    if (header.return_details != 0) result.details = memory.details;
    result.copy_seconds = 1e-9 * static_cast<double>(step.copies().size());
    return result;
  }

  template <typename Visit>
  void ForEachRow(StepDescriptor& step, const Visit& visit) {
    for (int32_t s = 0; s < step.header().sequences; ++s) {
      for (int32_t row = step.query_indptr()[static_cast<size_t>(s)];
           row < step.query_indptr()[static_cast<size_t>(s) + 1]; ++row) {
        visit(s, row);
      }
    }
  }
  int32_t BlockOf(StepDescriptor& step, int32_t sequence, int32_t position) {
    return step.kv_indices()[static_cast<size_t>(step.kv_indptr()[static_cast<size_t>(sequence)] +
                                                 position / block_size_)];
  }

  int32_t block_size_;
  int32_t window_;
  int32_t max_sampled_;
  int32_t max_tokens_;
  size_t depth_;
  std::vector<Memory> replicas_;
  size_t most_in_flight_ = 0;
  std::vector<Transfer> transfers_;
  bool moves_ = false;
  uint32_t failing_ = 0;
  bool held_ = false;
  int lost_ = -1;
  bool tells_of_loss_ = false;
  bool forgotten_ = false;
  size_t waits_ = 0;
  std::mt19937 random_{7};
};

struct Shape {
  uint32_t blocks = 64;
  uint32_t context = 256;
  uint32_t max_batch = 4;
  uint32_t chunk = 24;
  uint32_t window = 0;
  uint32_t in_flight = 1;
  uint32_t replicas = 1;
};

plan::PlanFile MakePlan(const Shape& shape, int32_t pinned = 0) {
  plan::PlanShape layout;
  layout.ranks.assign(shape.in_flight, 1);
  layout.layers = std::max(2u, shape.in_flight);
  layout.replicas = shape.replicas;
  auto plan = plan::BuildPlan(layout);
  plan->limits->steps_in_flight = shape.in_flight;
  plan->kv->blocks = shape.blocks;
  plan->kv->block_size = 16;
  plan->kv->max_blocks_per_sequence = shape.context / 16;
  plan->limits->context = shape.context;
  plan->limits->max_batch = shape.max_batch;
  plan->limits->prefill_chunk = shape.chunk;
  plan->limits->max_tokens = shape.chunk + shape.max_batch;
  if (shape.window > 0) plan->model->attention_windows.assign(plan->model->layers, shape.window);
  if (pinned > 0) plan::AddPrefix(*plan, pinned);
  // So small that moving a block is predicted to be faster than this model's computation.
  for (auto& replica : plan->replicas) {
    for (auto& stage : replica->stages) {
      for (auto& rank : stage->ranks) rank->memory->kv_block = 1;
    }
  }
  auto file = plan::PlanFile::FromBytes(plan::PlanFile::Serialize(*plan), "test");
  EXPECT_TRUE(file.ok()) << file.status().ToString();
  return std::move(file).value();
}

std::vector<int32_t> Expected(const Request& request, int32_t candidate, int32_t context,
                              int32_t window = 0) {
  std::vector<int32_t> ids = request.prompt_ids;
  const auto most =
      std::min<int32_t>(request.max_tokens, context - static_cast<int32_t>(ids.size()) + 1);
  const SamplingOptions sampling = CandidateSampling(request.sampling, candidate);
  while (static_cast<int32_t>(ids.size() - request.prompt_ids.size()) < most) {
    std::span<const int32_t> read = ids;
    if (window > 0 && static_cast<int32_t>(ids.size()) > window) {
      read = read.last(static_cast<size_t>(window));
    }
    ids.push_back(NextId(read, sampling, static_cast<int64_t>(ids.size())));
  }
  return {ids.begin() + static_cast<int64_t>(request.prompt_ids.size()), ids.end()};
}

std::vector<int32_t> Prompt(uint32_t seed, int32_t tokens, int32_t common = 0) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < tokens; ++i) {
    ids.push_back(i < common ? (11 * i + 5) % kVocabulary
                             : static_cast<int32_t>(random() % kVocabulary));
  }
  return ids;
}

class EngineTest : public testing::Test {
 protected:
  // `failing`: blocks move between replicas, and of so many orders one fails (0: none).
  void Make(const Shape& shape, EngineOptions options = {}, int32_t pinned = 0,
            std::optional<uint32_t> failing = {}) {
    shape_ = shape;
    file_.emplace(MakePlan(shape, pinned));
    model_.emplace(file_->plan(), options.swap_blocks, options.spill_slots);
    if (failing.has_value()) model_->MoveBlocks(*failing);
    EngineEvents events;
    events.on_token = [this](const TokenEvent& token) {
      auto& ids = told_[{token.request, token.candidate}];
      const size_t resumed = requests_[token.request].resume_ids.size();
      ASSERT_EQ(token.index, static_cast<int32_t>(resumed + ids.size()));
      ids.push_back(token.id);
    };
    events.on_finish = [this](size_t request, std::vector<Completion>& completions) {
      ASSERT_FALSE(done_.contains(request)) << "ended twice";
      done_[request] = completions;
      order_.push_back(request);
    };
    engine_.emplace(file_->plan(), *model_, options, nullptr, std::vector<int32_t>{},
                    std::move(events));
  }
  size_t Submit(Request request) {
    auto number = engine_->Submit(request);
    EXPECT_TRUE(number.ok()) << number.status().ToString();
    requests_[*number] = std::move(request);
    return *number;
  }
  void RunAll() {
    ASSERT_TRUE(engine_->Pin(never_).ok());
    while (!engine_->idle()) {
      const Status status = engine_->Step();
      ASSERT_TRUE(status.ok()) << status.ToString();
      engine_->CheckInvariants();
    }
  }
  // Every answer is the one that the ids alone give.
  void ExpectRightAnswers() {
    ASSERT_EQ(done_.size(), requests_.size());
    for (const auto& [number, request] : requests_) {
      const auto& completions = done_[number];
      ASSERT_EQ(completions.size(), static_cast<size_t>(request.n));
      if (request.best_of > request.n) continue;
      for (int32_t c = 0; c < request.n; ++c) {
        const auto expected = Expected(request, c, static_cast<int32_t>(shape_.context),
                                       static_cast<int32_t>(shape_.window));
        ASSERT_THAT(completions[static_cast<size_t>(c)].ids, ElementsAreArray(expected))
            << "request " << number << ", answer " << c;
        if (request.resume_ids.empty()) {
          ASSERT_THAT((told_[{number, c}]), ElementsAreArray(expected));
        }
      }
    }
  }

  Shape shape_;
  std::atomic<bool> never_{false};
  std::optional<plan::PlanFile> file_;
  std::optional<MemoryModel> model_;
  std::optional<Engine> engine_;
  std::map<size_t, Request> requests_;
  std::map<size_t, std::vector<Completion>> done_;
  std::map<std::pair<size_t, int32_t>, std::vector<int32_t>> told_;
  std::vector<size_t> order_;
};

Request MakeRequest(std::vector<int32_t> prompt, int32_t max_tokens) {
  Request request;
  request.prompt_ids = std::move(prompt);
  request.max_tokens = max_tokens;
  return request;
}

TEST_F(EngineTest, ASecondPromptWithTheSameBeginningComputesOnlyItsOwn) {
  Make({});
  Submit(MakeRequest(Prompt(1, 100, 64), 5));
  RunAll();
  EXPECT_EQ(engine_->statistics().reused_tokens, 0u);
  Submit(MakeRequest(Prompt(2, 100, 64), 5));
  RunAll();
  EXPECT_EQ(engine_->statistics().reused_tokens, 64u);
  ExpectRightAnswers();
  EXPECT_EQ(engine_->statistics().held_blocks, 0);
}

TEST_F(EngineTest, AConversationGoesOnFromTheAnswersBlocks) {
  Make({});
  const size_t first = Submit(MakeRequest(Prompt(1, 40), 30));
  RunAll();
  std::vector<int32_t> next = Prompt(1, 40);
  next.insert(next.end(), done_[first][0].ids.begin(), done_[first][0].ids.end());
  next.push_back(3);
  Submit(MakeRequest(next, 5));
  RunAll();
  EXPECT_EQ(engine_->statistics().reused_tokens, 64u);  // of 69 computed before
  ExpectRightAnswers();
}

TEST_F(EngineTest, AnotherTenantsPrefixIsNotFound) {
  Make({}, {}, /*pinned=*/32);
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 60; ++i) prompt.push_back(3 + i);
  Request request = MakeRequest(prompt, 3);
  for (const char* tenant : {"ann", "bob", "ann"}) {
    request.tenant = tenant;
    Submit(request);
    RunAll();
  }
  // What is pinned is everyone's.
  EXPECT_EQ(engine_->statistics().reused_tokens, 32u + 32u + 48u);
  ExpectRightAnswers();
  EXPECT_EQ(engine_->statistics().held_blocks, 2);
}

TEST_F(EngineTest, CandidatesShareThePromptAndCopyOnlyItsLastBlock) {
  Make({.max_batch = 8});
  Request request = MakeRequest(Prompt(1, 72), 20);
  request.sampling.temperature = 1;
  request.sampling.seed = 8;
  request.n = 4;
  Submit(request);
  RunAll();
  ExpectRightAnswers();
  EXPECT_NE(done_[0][0].ids, done_[0][1].ids);
  // The last to write into the block that they had in common keeps it.
  EXPECT_EQ(engine_->statistics().copied_blocks, 3u);
  EXPECT_EQ(engine_->statistics().peak_blocks, 4 + 4 * 2);
  request.n = 9;
  EXPECT_THAT(engine_->Submit(request).status().message(), HasSubstr("plan with --max-batch 9"));
}

TEST_F(EngineTest, BestOfGivesTheLikeliest) {
  Make({.max_batch = 8});
  Request request = MakeRequest(Prompt(1, 30), 6);
  request.sampling.temperature = 1;
  request.n = 2;
  request.best_of = 5;
  Submit(request);
  RunAll();
  std::multimap<double, std::vector<int32_t>> by_mean;  // the fake's log-probability: -id / 100
  for (int32_t c = 0; c < 5; ++c) {
    const auto ids = Expected(request, c, 256);
    double sum = 0;
    for (const int32_t id : ids) sum += -0.01 * id;
    by_mean.emplace(-sum / static_cast<double>(ids.size()), ids);
  }
  ASSERT_EQ(done_[0].size(), 2u);
  EXPECT_EQ(done_[0][0].ids, by_mean.begin()->second);
  EXPECT_EQ(done_[0][1].ids, std::next(by_mean.begin())->second);
  EXPECT_TRUE(told_.empty());
}

TEST_F(EngineTest, WhereBlocksRunOutTheLastOneGivesWayAndIsComputedAgain) {
  Make({.blocks = 17, .max_batch = 4});
  for (uint32_t i = 0; i < 6; ++i) Submit(MakeRequest(Prompt(i, 40), 120));
  RunAll();
  ExpectRightAnswers();
  EXPECT_GT(engine_->statistics().recomputed, 0u);
  EXPECT_EQ(engine_->statistics().swapped, 0u);
  EXPECT_EQ(engine_->statistics().held_blocks, 0);
}

TEST_F(EngineTest, SwapMemoryIsUsedWhereCopyingIsPredictedFaster) {
  EngineOptions options;
  options.swap_blocks = 40;
  Make({.blocks = 17, .max_batch = 4}, options);
  for (uint32_t i = 0; i < 6; ++i) Submit(MakeRequest(Prompt(i, 40), 120));
  RunAll();
  ExpectRightAnswers();
  EXPECT_GT(engine_->statistics().swapped, 0u);
}

TEST_F(EngineTest, HigherPrioritiesDisplaceLowerOnes) {
  Make({.max_batch = 2});
  for (uint32_t i = 0; i < 3; ++i) Submit(MakeRequest(Prompt(i, 20), 40));
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(engine_->Step().ok());
  Request urgent = MakeRequest(Prompt(9, 20), 10);
  urgent.priority = 1;
  const size_t number = Submit(urgent);
  RunAll();
  ExpectRightAnswers();
  EXPECT_EQ(order_.front(), number);
}

TEST_F(EngineTest, TenantsGetEqualShares) {
  Make({.max_batch = 2});
  // One tenant floods the queue before the other comes.
  for (uint32_t i = 0; i < 40; ++i) {
    Request request = MakeRequest(Prompt(i, 20), 20);
    request.tenant = "many";
    Submit(request);
  }
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(engine_->Step().ok());
  std::vector<size_t> few;
  for (uint32_t i = 0; i < 5; ++i) {
    Request request = MakeRequest(Prompt(100 + i, 20), 20);
    request.tenant = "few";
    few.push_back(Submit(request));
  }
  RunAll();
  ExpectRightAnswers();
  const auto place = std::ranges::find(order_, few.back()) - order_.begin();
  EXPECT_LT(place, 16) << "five of few's among as many of the other's, after those that had run";
}

TEST_F(EngineTest, GuessesDoNotChangeAnswers) {
  EngineOptions options;
  options.draft_tokens = 5;
  Make({.max_batch = 8}, options);
  for (uint32_t i = 0; i < 5; ++i) {
    Request request = MakeRequest(Prompt(i, 30), 150);
    request.sampling.temperature = i % 2 == 0 ? 0.f : 1.f;
    request.sampling.seed = i;
    Submit(request);
  }
  RunAll();
  ExpectRightAnswers();
  const EngineStatistics& s = engine_->statistics();
  EXPECT_GT(s.accepted_tokens, 100u);
  EXPECT_GT(s.drafted_tokens, s.accepted_tokens);
  EXPECT_LT(s.steps, 150u);
}

TEST_F(EngineTest, AnAnswerIsResumedFromItsIds) {
  Make({});
  Request request = MakeRequest(Prompt(4, 50), 40);
  request.sampling = {.temperature = 1, .seed = 3};
  const auto whole = Expected(request, 0, 256);
  request.resume_ids.assign(whole.begin(), whole.begin() + 25);
  Submit(request);
  RunAll();
  ExpectRightAnswers();
  EXPECT_EQ(engine_->statistics().generated_tokens, 15u);
}

TEST_F(EngineTest, CancelledRequestsLeaveNothingBehind) {
  EngineOptions options;
  options.swap_blocks = 40;
  Make({.blocks = 17, .max_batch = 4}, options);
  for (uint32_t i = 0; i < 8; ++i) {
    Request request = MakeRequest(Prompt(i, 40), 100);
    request.n = 1 + static_cast<int32_t>(i % 2);
    ASSERT_TRUE(engine_->Submit(request).ok());
  }
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(engine_->Step().ok());
  for (size_t number = 0; number < 8; ++number) {
    engine_->Cancel(number);
    engine_->Cancel(number);
    engine_->CheckInvariants();
  }
  EXPECT_TRUE(engine_->idle());
  EXPECT_EQ(done_.size(), 8u);
  EXPECT_EQ(engine_->statistics().held_blocks, 0);
}

TEST_F(EngineTest, TooManyWaitingAreRefused) {
  EngineOptions options;
  options.max_waiting = 2;
  Make({}, options);
  Submit(MakeRequest({1}, 1));
  Submit(MakeRequest({1}, 1));
  const Status refused = engine_->Submit(MakeRequest({1}, 1)).status();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("--max-waiting"));
  RunAll();
  ExpectRightAnswers();
}

TEST_F(EngineTest, SeveralSequencesKeepAsManyStepsInFlightAsThePlanAllows) {
  Make({.blocks = 128, .max_batch = 4, .in_flight = 3});
  for (uint32_t i = 0; i < 12; ++i) Submit(MakeRequest(Prompt(i, 20), 40));
  RunAll();
  ExpectRightAnswers();
  EXPECT_EQ(model_->most_in_flight(), 3u);
  // All 12 run at once, four in a step.
  EXPECT_LE(engine_->statistics().steps, 3u * 40 + 20);
}

TEST_F(EngineTest, OneAnswerHasOneStepInFlightAndOnePromptAllOfThem) {
  Make({.in_flight = 3});
  Submit(MakeRequest(Prompt(1, 20), 40));
  RunAll();
  EXPECT_EQ(model_->most_in_flight(), 1u);
  Submit(MakeRequest(Prompt(2, 200), 2));
  RunAll();
  EXPECT_EQ(model_->most_in_flight(), 3u);
  ExpectRightAnswers();
}

TEST_F(EngineTest, ACancelledRequestKeepsItsBlocksUntilItsStepIsTaken) {
  Make({.in_flight = 2});
  Submit(MakeRequest(Prompt(1, 20), 40));
  Submit(MakeRequest(Prompt(2, 20), 40));
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(engine_->Step().ok());
  engine_->Cancel(0);
  engine_->CheckInvariants();
  EXPECT_EQ(done_[0][0].finish_reason, FinishReason::kCancelled);
  engine_->Cancel(1);
  EXPECT_EQ(done_[1][0].finish_reason, FinishReason::kCancelled);
  EXPECT_FALSE(engine_->idle()) << "a step is in flight";
  EXPECT_GT(engine_->statistics().held_blocks, 0);
  while (!engine_->idle()) {
    ASSERT_TRUE(engine_->Step().ok());
    engine_->CheckInvariants();
  }
  EXPECT_EQ(engine_->statistics().held_blocks, 0);
}

TEST_F(EngineTest, ARequestGoesWhereItsPrefixIsAndOthersWhereLessRuns) {
  Make({.blocks = 64, .max_batch = 4, .replicas = 2});
  Submit(MakeRequest(Prompt(1, 100, 96), 5));  // to the first, as both are empty
  RunAll();
  EXPECT_EQ(model_->rows(1), 0u);
  Submit(MakeRequest(Prompt(2, 100, 96), 5));
  RunAll();
  EXPECT_EQ(model_->rows(1), 0u);
  EXPECT_EQ(engine_->statistics().reused_tokens, 96u);
  for (uint32_t i = 0; i < 8; ++i) Submit(MakeRequest(Prompt(10 + i, 30), 20));
  RunAll();
  EXPECT_EQ(model_->rows(1), 4u * (30 + 19));
  ExpectRightAnswers();
}

// Of two replicas the first has computed 96 common tokens, and is busy.
#define FETCH_SETUP(failing)                                                        \
  Make({.blocks = 64, .max_batch = 4, .replicas = 2}, {}, 0, failing);              \
  Submit(MakeRequest(Prompt(1, 100, 96), 5));                                       \
  RunAll();                                                                         \
  for (uint32_t i = 0; i < 3; ++i) Submit(MakeRequest(Prompt(20 + i, 30, 0), 120)); \
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(engine_->Step().ok())

TEST_F(EngineTest, APrefixOfAnotherReplicaIsFetched) {
  FETCH_SETUP(0);
  for (uint32_t i = 0; i < 4; ++i) Submit(MakeRequest(Prompt(2 + i, 100, 96), 5));
  RunAll();
  ExpectRightAnswers();
  const EngineStatistics& s = engine_->statistics();
  EXPECT_GE(s.fetches, 1u);
  EXPECT_EQ(s.fetched_tokens, s.fetches * 96);
  EXPECT_EQ(s.fetched_bytes, s.fetches * 100);
  EXPECT_EQ(s.failed_fetches, 0u);
  EXPECT_EQ(s.held_blocks, 0);
}

TEST_F(EngineTest, WhatIsFetchedIsFoundByTheNext) {
  FETCH_SETUP(0);
  for (uint32_t i = 0; i < 4; ++i) Submit(MakeRequest(Prompt(2 + i, 100, 96), 5));
  RunAll();
  const uint64_t fetches = engine_->statistics().fetches;
  ASSERT_GE(fetches, 1u);
  for (uint32_t i = 0; i < 6; ++i) Submit(MakeRequest(Prompt(40 + i, 100, 96), 5));
  RunAll();
  ExpectRightAnswers();
  EXPECT_EQ(engine_->statistics().fetches, fetches) << "both have it now";
}

TEST_F(EngineTest, AFailedFetchCostsTheComputationAlone) {
  FETCH_SETUP(1);
  for (uint32_t i = 0; i < 4; ++i) Submit(MakeRequest(Prompt(2 + i, 100, 96), 5));
  RunAll();
  ExpectRightAnswers();
  const EngineStatistics& s = engine_->statistics();
  EXPECT_EQ(s.fetches, 0u);
  EXPECT_GE(s.failed_fetches, 1u);
  EXPECT_EQ(s.held_blocks, 0);
}

TEST_F(EngineTest, ARequestCancelledDuringItsFetchGivesItsBlocksBackAfterIt) {
  FETCH_SETUP(0);
  for (uint32_t i = 0; i < 4; ++i) Submit(MakeRequest(Prompt(2 + i, 100, 96), 5));
  model_->HoldTransfers(true);
  while (model_->orders() == 0) ASSERT_TRUE(engine_->Step().ok());
  for (const auto& [number, request] : requests_) engine_->Cancel(number);
  engine_->CheckInvariants();
  EXPECT_FALSE(engine_->idle()) << "a fetch is under way";
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(engine_->Step().ok());
  EXPECT_GT(engine_->statistics().held_blocks, 0);
  EXPECT_GT(model_->waits(), 0u);
  model_->HoldTransfers(false);
  while (!engine_->idle()) {
    ASSERT_TRUE(engine_->Step().ok());
    engine_->CheckInvariants();
  }
  EXPECT_EQ(engine_->statistics().held_blocks, 0);
  EXPECT_EQ(model_->orders(), 0u);
}

EngineOptions WithSpill(int32_t slots) {
  EngineOptions options;
  options.spill_slots = slots;
  return options;
}

class SpillTest : public EngineTest {
 protected:
  // Eight prompts, one after the other: the first ones' blocks make room for the last ones'.
  void RunPrompts() {
    for (uint32_t i = 0; i < 8; ++i) {
      Submit(MakeRequest(Prompt(i, 96), 20));
      RunAll();
    }
  }
  void ExpectTheFirstFromTheFile() {
    std::vector<int32_t> again = Prompt(0, 96);
    again.push_back(5);
    Submit(MakeRequest(again, 5));
    RunAll();
    ExpectRightAnswers();
    EXPECT_EQ(engine_->statistics().restores, 1u);
    EXPECT_EQ(engine_->statistics().restored_tokens, 96u);
    EXPECT_EQ(engine_->statistics().held_blocks, 0);
  }
};

TEST_F(SpillTest, WhatMadeRoomComesBackFromTheFile) {
  Make({.blocks = 20, .context = 256}, WithSpill(100), 0, 0);
  RunPrompts();
  const EngineStatistics before = engine_->statistics();
  EXPECT_GT(before.evicted_blocks, 0u);
  EXPECT_GT(before.spilled_blocks, 20u);
  ExpectTheFirstFromTheFile();
}

TEST_F(SpillTest, WhatAnotherReplicaSpilledComesFromItsFile) {
  Shape shape{.blocks = 20, .max_batch = 1, .replicas = 2};
  shape.context = 256;
  Make(shape, WithSpill(100), 0, 0);
  RunPrompts();
  ASSERT_EQ(model_->rows(1), 0u) << "the first replica was always idle";
  Submit(MakeRequest(Prompt(9, 60), 100));
  for (const size_t before = model_->rows(0); model_->rows(0) < before + 70;) {
    ASSERT_TRUE(engine_->Step().ok());
  }
  ExpectTheFirstFromTheFile();
  EXPECT_LT(model_->rows(1), 20u) << "most of the prompt came from the file";
  EXPECT_GT(model_->rows(1), 0u);
}

TEST_F(EngineTest, AFullDiskEndsSpillingAndNothingElse) {
  Make({.blocks = 20, .context = 256}, WithSpill(100), 0, 1);
  for (uint32_t i = 0; i < 8; ++i) {
    Submit(MakeRequest(Prompt(i % 3, 96), 20));
    RunAll();
  }
  ExpectRightAnswers();
  EXPECT_EQ(engine_->statistics().spilled_blocks, 0u);
  EXPECT_EQ(engine_->statistics().restores, 0u);
  EXPECT_EQ(engine_->statistics().held_blocks, 0);
}

TEST_F(EngineTest, WhatALostReplicaRanGoesOnInTheOthers) {
  Make({.blocks = 64, .max_batch = 4, .replicas = 3}, {}, 0, 0);
  for (uint32_t i = 0; i < 12; ++i) Submit(MakeRequest(Prompt(i, 60, 16), 40));
  ASSERT_TRUE(engine_->Pin(never_).ok());
  while (model_->rows(2) < 100) ASSERT_TRUE(engine_->Step().ok());
  model_->Lose(2);
  RunAll();
  ExpectRightAnswers();
  EXPECT_EQ(engine_->statistics().lost_replicas, 1u);
  EXPECT_EQ(engine_->statistics().held_blocks, 0);
}

// Everything at once, in pools that are too small for it.
class EngineModel : public EngineTest, public testing::WithParamInterface<int> {};

TEST_P(EngineModel, EveryAnswerIsTheOneThatItsRequestGetsAlone) {
  std::mt19937 random(static_cast<uint32_t>(GetParam()));
  const auto below = [&random](uint32_t n) { return static_cast<int32_t>(random() % n); };
  Shape shape;
  shape.max_batch = 3 + static_cast<uint32_t>(below(6));
  shape.chunk = 8 + static_cast<uint32_t>(below(40));
  shape.window = GetParam() % 4 == 0 ? 20 + static_cast<uint32_t>(below(60)) : 0;
  shape.blocks = 18 + static_cast<uint32_t>(below(20));
  EngineOptions options;
  options.draft_tokens = GetParam() % 3 == 0 ? 4 : 0;
  options.swap_blocks = GetParam() % 2 == 0 ? 10 + below(30) : 0;
  options.step_tokens = GetParam() % 5 == 0 ? 9 : 0;
  shape.in_flight = 1 + static_cast<uint32_t>(GetParam() / 25 % 4);
  shape.replicas = GetParam() < 75 ? 1 : 1 + static_cast<uint32_t>(below(3));
  // Every other one also moves blocks between replicas; of five fetches one fails.
  const bool moves = shape.replicas > 1 && GetParam() % 2 == 1;
  const bool spills = GetParam() % 10 >= 7;  // also where there is one replica
  if (spills) options.spill_slots = 10 + below(60);
  Make(shape, options, GetParam() % 2 == 0 ? 32 : 0,
       moves    ? std::optional<uint32_t>(5)
       : spills ? std::optional<uint32_t>(0)
                : std::nullopt);
  ASSERT_TRUE(engine_->Pin(never_).ok());
  int submitted = 0;
  std::set<size_t> cancelled;
  while (submitted < 120 || !engine_->idle()) {
    if (submitted < 120 && below(6) == 0) {
      ++submitted;
      std::vector<int32_t> prompt =
          Prompt(static_cast<uint32_t>(below(1000)), 1 + below(120), 16 * below(5));
      if (below(3) == 0) {
        for (size_t i = 0; i < std::min<size_t>(prompt.size(), 32); ++i) {
          prompt[i] = 3 + static_cast<int32_t>(i);  // the pinned prefix
        }
      }
      Request request = MakeRequest(std::move(prompt), 1 + below(100));
      request.sampling.temperature = below(2) == 0 ? 0.f : 1.f;
      request.sampling.seed = static_cast<uint64_t>(below(100));
      request.n = below(5) == 0 ? 1 + below(3) : 1;
      request.tenant = below(3) == 0 ? "other" : "";
      request.priority = below(8) == 0 ? 1 : 0;
      const size_t number = Submit(request);
      if (GetParam() % 7 == 0 && below(4) == 0) cancelled.insert(number);
    }
    // In the middle of all that a replica is lost, one that isn't rank 0's.
    if (moves && GetParam() % 3 == 0 && submitted == 60) {
      ++submitted;
      model_->Lose(static_cast<int>(shape.replicas) - 1);
    }
    const Status status = engine_->Step();
    ASSERT_TRUE(status.ok()) << status.ToString();
    engine_->CheckInvariants();
    if (!cancelled.empty() && below(30) == 0) {
      const size_t number = *cancelled.begin();
      cancelled.erase(number);
      engine_->Cancel(number);
      engine_->CheckInvariants();
      // Some answers of a request may have ended before it was cancelled.
      const auto cut = [](const Completion& c) {
        return c.finish_reason == FinishReason::kCancelled;
      };
      if (std::ranges::any_of(done_[number], cut)) {
        requests_.erase(number);
        done_.erase(number);
      }
    }
  }
  ExpectRightAnswers();
  const EngineStatistics& s = engine_->statistics();
  EXPECT_EQ(s.held_blocks, GetParam() % 2 == 0 ? 2 * static_cast<int32_t>(shape.replicas) : 0);
  EXPECT_EQ(s.lost_replicas, moves && GetParam() % 3 == 0 ? 1u : 0u);
  EXPECT_GT(s.reused_tokens, 0u);
  EXPECT_GT(s.evicted_blocks, 0u);
  EXPECT_EQ(model_->most_in_flight(), shape.in_flight);
  if (moves) {
    EXPECT_GT(s.fetches, 0u);
  } else if (spills) {
    EXPECT_GT(s.spilled_blocks, 0u);
    // Whether any comes back is a question of measured times.
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, EngineModel, testing::Range(1, 120));

}  // namespace
}  // namespace llmir::executor
