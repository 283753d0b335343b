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
  const auto sequences = static_cast<int32_t>(limits.max_batch());
  const auto longest = static_cast<int32_t>(plan.kv()->max_blocks_per_sequence());
  // Any number of sequences may share a block. Each may copy one; besides, the blocks of two
  // sequences may move to swap memory or back.
  return {static_cast<int32_t>(limits.max_tokens()), sequences, sequences, sequences * longest,
          sequences + 2 * longest};
}

StepDescriptor::StepDescriptor(const StepCapacity& capacity) : capacity_(capacity) {
  const size_t end = Layout(capacity.tokens, capacity.sequences, capacity.sampled, capacity.blocks,
                            capacity.copies, true)
                         .end;
  buffer_.resize(std::max(end, kFirstMessageBytes));
}

StepDescriptor::Offsets StepDescriptor::Layout(int32_t tokens, int32_t sequences, int32_t sampled,
                                               int32_t blocks, int32_t copies, bool score) {
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
  offsets.copies = take(copies, sizeof(kvpool::BlockCopy));
  offsets.sampled_rows = take(sampled, 4);
  offsets.sampled_positions = take(sampled, 4);
  offsets.sampling = take(sampled, sizeof(SamplingOptions));
  offsets.end = at;
  return offsets;
}

void StepDescriptor::Resize(plan::ProgramKind program, int32_t tokens, int32_t sequences,
                            int32_t sampled, int32_t blocks, int32_t copies) {
  offsets_ =
      Layout(tokens, sequences, sampled, blocks, copies, program == plan::ProgramKind::score);
  StepHeader& h = header();
  h.bytes = static_cast<uint32_t>(offsets_.end);
  h.program = static_cast<uint8_t>(program);
  h.stop = Stop::kNo;
  h.return_logits = 0;
  h.return_details = 0;
  h.reserved = 0;
  h.copies = copies;
  h.tokens = tokens;
  h.sequences = sequences;
  h.sampled = sampled;
  h.blocks = blocks;
}

Status StepDescriptor::ReadHeader() {
  const StepHeader& h = header();
  offsets_ = Layout(h.tokens, h.sequences, h.sampled, h.blocks, h.copies,
                    program() == plan::ProgramKind::score);
  if (h.bytes != offsets_.end || h.bytes > buffer_.size() || h.tokens > capacity_.tokens) {
    return Internal("step descriptor {}: {} bytes, expected {}", h.number, h.bytes, offsets_.end);
  }
  return Status();
}

Status StepDescriptor::Broadcast(comm::Channel& channel) {
  if (channel.size() == 1) return Status();
  LLMIR_ASSIGN_OR_RETURN(comm::Request request,
                         channel.StartBroadcast(buffer_.data(), kFirstMessageBytes, 0));
  if (channel.rank() == 0) {
    LLMIR_RETURN_IF_ERROR(channel.Wait(request));
  } else {
    LLMIR_RETURN_IF_ERROR(channel.WaitIdle(request));
    LLMIR_RETURN_IF_ERROR(ReadHeader());
  }
  const size_t bytes = header().bytes;
  if (bytes > kFirstMessageBytes) {
    LLMIR_RETURN_IF_ERROR(
        channel.Broadcast(buffer_.data() + kFirstMessageBytes, bytes - kFirstMessageBytes, 0));
  }
  return Status();
}

Status StepDescriptor::StartSend(comm::Channel& channel, int peer, int tag,
                                 std::vector<comm::Request>* requests) const {
  LLMIR_ASSIGN_OR_RETURN(const comm::Request first,
                         channel.StartSend(buffer_.data(), kFirstMessageBytes, peer, tag));
  requests->push_back(first);
  const size_t bytes = header().bytes;
  if (bytes <= kFirstMessageBytes) return Status();
  LLMIR_ASSIGN_OR_RETURN(const comm::Request rest,
                         channel.StartSend(buffer_.data() + kFirstMessageBytes,
                                           bytes - kFirstMessageBytes, peer, tag));
  requests->push_back(rest);
  return Status();
}

Status StepDescriptor::Receive(comm::Channel& channel, int peer, int tag) {
  LLMIR_ASSIGN_OR_RETURN(const comm::Request request,
                         channel.StartRecv(buffer_.data(), kFirstMessageBytes, peer, tag));
  LLMIR_RETURN_IF_ERROR(channel.WaitIdle(request));
  LLMIR_RETURN_IF_ERROR(ReadHeader());
  const size_t bytes = header().bytes;
  if (bytes <= kFirstMessageBytes) return Status();
  return channel.Recv(buffer_.data() + kFirstMessageBytes, bytes - kFirstMessageBytes, peer, tag);
}

}  // namespace llmir::executor
