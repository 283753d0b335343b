// The channel of ranks that MPI connects, on one host or several.
#pragma once

#include "comm/mpi_collectives.h"
#include "comm/mpi_messages.h"
#include "comm/mpi_support.h"
#include "comm/operation_channel.h"

namespace llmir::comm {

class MpiChannel final : public OperationChannel {
 public:
  // Two communicators of the group's ranks that nobody else uses. More than one rank.
  MpiChannel(MpiCommunicator envelopes, MpiCommunicator control, int rank, int size,
             size_t max_bytes);

 protected:
  void Begin(int slot) override;
  bool Progress() override;

 private:
  const MpiCommunicator envelopes_;
  const MpiCommunicator control_;
  MpiCollectives collectives_;
  MpiMessages messages_;
};

}  // namespace llmir::comm
