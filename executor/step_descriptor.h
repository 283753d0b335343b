// The one message that starts a step: rank 0 fills it, every rank of the replica runs the program
// it names on the sequences it lists. Everything that varies from step to step is here; a branch at
// run time depends on it alone.
//
// A descriptor is one flat buffer with room for the plan's limits, made once; filling and reading
// allocate nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/channel.h"
#include "executor/request.h"
#include "kvpool/block_pool.h"
#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::executor {

// Bounds of one step, from the plan's limits.
struct StepCapacity {
  int32_t tokens = 0;
  int32_t sequences = 0;
  int32_t sampled = 0;
  int32_t blocks = 0;  // page table entries of all sequences of a step
  int32_t copies = 0;
};
StepCapacity CapacityOf(const plan::Plan& plan);

// Whether there is a step, or the ranks end: together, or each by itself, as others are lost.
enum class Stop : uint8_t { kNo, kTogether, kAlone };

struct StepHeader {
  uint64_t number;  // 0, 1, 2, ... per replica
  uint32_t bytes;   // of the whole message
  uint8_t program;  // plan::ProgramKind
  Stop stop;
  uint8_t return_logits;   // the sampled rows' logits come back with the ids
  uint8_t return_details;  // and the draws' DrawDetails
  int32_t tokens;
  int32_t sequences;
  int32_t sampled;
  int32_t blocks;
  int32_t copies;
  int32_t reserved;
};

class StepDescriptor {
 public:
  explicit StepDescriptor(const StepCapacity& capacity);

  // Lays the arrays out for these counts; contents are undefined until written.
  void Resize(plan::ProgramKind program, int32_t tokens, int32_t sequences, int32_t sampled,
              int32_t blocks, int32_t copies = 0);

  StepHeader& header() { return *reinterpret_cast<StepHeader*>(buffer_.data()); }
  const StepHeader& header() const { return *reinterpret_cast<const StepHeader*>(buffer_.data()); }
  plan::ProgramKind program() const { return static_cast<plan::ProgramKind>(header().program); }

  std::span<int32_t> token_ids() { return Array(offsets_.token_ids, header().tokens); }
  std::span<int32_t> positions() { return Array(offsets_.positions, header().tokens); }
  // Of a score step: the id whose probability row i gives, -1: none.
  std::span<int32_t> targets() { return Array(offsets_.targets, header().tokens); }
  // CSR over the step's sequences, as kernels::SequenceTable reads it.
  std::span<int32_t> query_indptr() { return Array(offsets_.query_indptr, header().sequences + 1); }
  std::span<int32_t> kv_indptr() { return Array(offsets_.kv_indptr, header().sequences + 1); }
  std::span<int32_t> kv_tokens() { return Array(offsets_.kv_tokens, header().sequences); }
  std::span<int32_t> kv_indices() { return Array(offsets_.kv_indices, header().blocks); }
  // Made one after the other before the program runs. Numbers from Plan.kv.blocks on are places in
  // the rank's swap memory.
  std::span<kvpool::BlockCopy> copies() {
    return {reinterpret_cast<kvpool::BlockCopy*>(buffer_.data() + offsets_.copies),
            static_cast<size_t>(header().copies)};
  }
  // The rows that sample, ascending, one as often as ids are drawn from it, with their options and
  // the position of the id that is drawn.
  std::span<int32_t> sampled_rows() { return Array(offsets_.sampled_rows, header().sampled); }
  std::span<int32_t> sampled_positions() {
    return Array(offsets_.sampled_positions, header().sampled);
  }
  std::span<SamplingOptions> sampling() {
    return {reinterpret_cast<SamplingOptions*>(buffer_.data() + offsets_.sampling),
            static_cast<size_t>(header().sampled)};
  }

  // Rank 0 of `channel` sends, the others receive (sleeping while the engine is idle).
  Status Broadcast(comm::Channel& channel);
  // The same to one rank. What StartSend adds to `requests` is to be waited for; until then nothing
  // may change.
  Status StartSend(comm::Channel& channel, int peer, int tag,
                   std::vector<comm::Request>* requests) const;
  Status Receive(comm::Channel& channel, int peer, int tag);

  // Largest message, for sizing the channel.
  size_t capacity_bytes() const { return buffer_.size() * sizeof(buffer_[0]); }

 private:
  struct Offsets {
    size_t token_ids, positions, targets, query_indptr, kv_indptr, kv_tokens, kv_indices, copies,
        sampled_rows, sampled_positions, sampling, end;
  };
  static Offsets Layout(int32_t tokens, int32_t sequences, int32_t sampled, int32_t blocks,
                        int32_t copies, bool score);
  // Takes note of where the arrays are that a received header speaks of.
  Status ReadHeader();
  std::span<int32_t> Array(size_t offset, int32_t count) {
    return {reinterpret_cast<int32_t*>(buffer_.data() + offset), static_cast<size_t>(count)};
  }

  StepCapacity capacity_;
  std::vector<std::byte> buffer_;
  Offsets offsets_{};
};

}  // namespace llmir::executor
