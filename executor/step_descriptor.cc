#include "executor/step_descriptor.h"

#include <algorithm>

namespace llmir::executor {
namespace {

// A decode step of a few sequences fits the first message; longer ones take a second.
constexpr size_t kFirstMessageBytes = 2048;

constexpr size_t Align8(size_t offset) { return (offset + 7) / 8 * 8; }

}  // namespace

StepCapacity CapacityOf(const plan::Plan& plan) {
  const auto& limits = *plan.limits();
  // A block is listed once, but those of a pinned prefix once for each sequence that begins with
  // it.
  uint32_t longest_prefix = 0;
  for (uint32_t i = 0; plan.prefixes() != nullptr && i < plan.prefixes()->size(); ++i) {
    longest_prefix = std::max(longest_prefix, plan.prefixes()->Get(i)->ids()->size());
  }
  const int64_t sequences = limits.max_batch();
  const int64_t blocks = std::min<int64_t>(
      sequences * plan.kv()->max_blocks_per_sequence(),
      plan.kv()->blocks() + sequences * (longest_prefix / plan.kv()->block_size()));
  return {static_cast<int32_t>(limits.max_tokens()), static_cast<int32_t>(limits.max_batch()),
          static_cast<int32_t>(blocks)};
}

StepDescriptor::StepDescriptor(const StepCapacity& capacity) : capacity_(capacity) {
  const size_t end =
      Layout(capacity.tokens, capacity.sequences, capacity.sequences, capacity.blocks, true).end;
  buffer_.resize(std::max(end, kFirstMessageBytes));
}

StepDescriptor::Offsets StepDescriptor::Layout(int32_t tokens, int32_t sequences, int32_t sampled,
                                               int32_t blocks, bool score) {
  Offsets offsets{};
  size_t at = Align8(sizeof(StepHeader));
  auto take = [&at](size_t count, size_t bytes) {
    const size_t here = at;
    at = Align8(at + count * bytes);
    return here;
  };
  offsets.token_ids = take(tokens, 4);
  offsets.positions = take(tokens, 4);
  offsets.targets = take(score ? tokens : 0, 4);
  offsets.query_indptr = take(sequences + 1, 4);
  offsets.kv_indptr = take(sequences + 1, 4);
  offsets.kv_tokens = take(sequences, 4);
  offsets.kv_indices = take(blocks, 4);
  offsets.sampled_rows = take(sampled, 4);
  offsets.sampled_positions = take(sampled, 4);
  offsets.sampling = take(sampled, sizeof(SamplingOptions));
  offsets.end = at;
  return offsets;
}

void StepDescriptor::Resize(plan::ProgramKind program, int32_t tokens, int32_t sequences,
                            int32_t sampled, int32_t blocks) {
  offsets_ = Layout(tokens, sequences, sampled, blocks, program == plan::ProgramKind::score);
  StepHeader& h = header();
  h.bytes = static_cast<uint32_t>(offsets_.end);
  h.program = static_cast<uint8_t>(program);
  h.stop = 0;
  h.return_logits = 0;
  h.reserved = 0;
  h.tokens = tokens;
  h.sequences = sequences;
  h.sampled = sampled;
  h.blocks = blocks;
}

Status StepDescriptor::Broadcast(comm::Channel& channel) {
  if (channel.size() == 1) return Status();
  LLMIR_ASSIGN_OR_RETURN(comm::Request request,
                         channel.StartBroadcast(buffer_.data(), kFirstMessageBytes, 0));
  if (channel.rank() == 0) {
    LLMIR_RETURN_IF_ERROR(channel.Wait(request));
  } else {
    LLMIR_RETURN_IF_ERROR(channel.WaitIdle(request));
    const StepHeader& h = header();
    offsets_ =
        Layout(h.tokens, h.sequences, h.sampled, h.blocks, program() == plan::ProgramKind::score);
    if (h.bytes != offsets_.end || h.bytes > buffer_.size() || h.tokens > capacity_.tokens) {
      return Internal("step descriptor {}: {} bytes, expected {}", h.number, h.bytes, offsets_.end);
    }
  }
  const size_t bytes = header().bytes;
  if (bytes > kFirstMessageBytes) {
    LLMIR_RETURN_IF_ERROR(
        channel.Broadcast(buffer_.data() + kFirstMessageBytes, bytes - kFirstMessageBytes, 0));
  }
  return Status();
}

}  // namespace llmir::executor
