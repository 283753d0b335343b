// Shows what the step's ids spell, and ends the sequences and requests that are complete.

#include <algorithm>

#include "executor/engine/engine.h"

namespace llmir::executor {

void Engine::Tell(Sequence& sequence) {
  const Request& request = sequence.job->request;
  const bool forced = !request.force_ids.empty();
  const auto first = sequence.answer_tokens() - static_cast<int32_t>(sequence.taken.size());
  for (size_t i = 0; i < sequence.taken.size(); ++i) {
    const int32_t id = sequence.taken[i];
    const int32_t index = first + static_cast<int32_t>(i);
    // Forced ids are all fed, whatever they are.
    const bool end =
        !forced && !request.ignore_eos && std::ranges::find(end_ids_, id) != end_ids_.end();
    std::string shown = end ? "" : sequence.text.Push(id);
    const bool stop = end || (sequence.text.stopped() && !forced);
    const bool full = index + 1 >= request.max_tokens;
    if (stop || full) shown += sequence.text.Finish();
    if (events_.on_token && request.candidates() == request.n) {
      events_.on_token({sequence.job->number, sequence.candidate, index, id, std::move(shown),
                        request.details ? &sequence.taken_details[i] : nullptr});
    }
    if (stop || full) {
      // A stop string may end within ids that were guessed and drawn.
      sequence.ids.resize(sequence.ids.size() - (sequence.taken.size() - i - 1));
      Finish(sequence, stop ? FinishReason::kStop : FinishReason::kLength);
      break;
    }
  }
  sequence.taken.clear();
}

void Engine::Finish(Sequence& sequence, FinishReason reason) {
  Completion& completion = sequence.completion();
  const Job& job = *sequence.job;
  completion.finished = true;
  completion.finish_reason = reason;
  completion.ids.assign(sequence.ids.begin() + sequence.prompt_tokens(), sequence.ids.end());
  completion.text = sequence.text.text();
  if (sequence.first_token != Clock::time_point()) {
    using Milliseconds = std::chrono::duration<double, std::milli>;
    completion.ttft_ms = Milliseconds(sequence.first_token - job.submitted).count();
    completion.decode_ms = Milliseconds(sequence.last_token - sequence.first_token).count();
  }
  if (sequence.id >= 0 && sequence.flights == 0) GiveBack(sequence);
  DropSwapped(sequence);
  sequence.finished = true;
  blocked_ = false;
  Job& ended = *sequence.job;
  ended.unfinished -= 1 + sequence.followers;
  any_finished_ = true;
  if (ended.unfinished == 0) ended_.push_back(ended.number);
}

void Engine::GiveBack(Sequence& sequence) {
  sequence.replica->pool.Release(sequence.id);
  sequence.replica->slots -= 1 + sequence.followers;
  blocked_ = false;
}

void Engine::EndJob(Job& job) {
  std::vector<Completion>& completions = job.completions;
  const auto n = static_cast<size_t>(job.request.n);
  if (completions.size() > n) {
    std::ranges::stable_sort(completions, [](const Completion& a, const Completion& b) {
      const auto mean = [](const Completion& c) {
        return c.logprob / static_cast<double>(std::max<size_t>(c.ids.size(), 1));
      };
      return mean(a) > mean(b);
    });
    completions.resize(n);
  }
  if (events_.on_finish) events_.on_finish(job.number, completions);
  tenants_.End(job.tenant);
  jobs_.erase(job.number);
}

void Engine::RemoveFinished() {
  if (ended_.empty() && !any_finished_) return;
  any_finished_ = false;
  for (const auto& replica : replicas_) {
    for (SequencePointer& sequence : replica->running) {
      if (!sequence->finished || sequence->flights == 0) continue;
      sequence->job = nullptr;
      replica->left.push_back(std::move(sequence));
    }
    std::erase_if(replica->running, [](const SequencePointer& sequence) {
      return sequence == nullptr || sequence->finished;
    });
  }
  // What is told of may submit more.
  std::vector<size_t> ended;
  ended.swap(ended_);
  for (const size_t number : ended) EndJob(jobs_.at(number));
}

void Engine::Cancel(size_t request) {
  const auto found = jobs_.find(request);
  if (found == jobs_.end()) return;
  Job& job = found->second;
  for (const auto& replica : replicas_) {
    for (const SequencePointer& sequence : replica->running) {
      if (sequence->job == &job) Finish(*sequence, FinishReason::kCancelled);
    }
  }
  Waiting& waiting = waiting_[job.tenant];
  for (auto entry = waiting.begin(); entry != waiting.end();) {
    if (entry->second->job != &job) {
      ++entry;
      continue;
    }
    Finish(*entry->second, FinishReason::kCancelled);
    --waiting_count_;
    entry = waiting.erase(entry);
  }
  if (waiting.empty()) waiting_.erase(job.tenant);
  RemoveFinished();
}

}  // namespace llmir::executor
